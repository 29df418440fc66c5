"""Networks that papers and libraries print numbers of and the catalogue does not hold.

Detectors and segmenters of V2's and V3's papers and of torchvision, and the single layers of V1 Table 3. Each stands
here as its source says, so that its numbers can be counted.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import msgspec

from ..errors import SpecError
from .catalog import find
from .heads import ASPPHead, Head, LRASPPHead, RASPPHead, SSDHead, SSDLiteHead
from .knobs import OutputStride, squeezed_width, with_output_stride, with_width
from .rows import BottleneckRow, ConvRow, Row, SeparableRow
from .spec import ArchSpec, ClassifierHead, Norm
from .task_networks import TaskNetwork, TaskTap
from .variants import reduced_tail

__all__ = ["resolve", "task_networks"]

COCO = 320  # pixels a side: V2 Table 6, V3 Table 6, torchvision
VOC = 520  # pixels a side: torchvision's weight metadata
CITYSCAPES = (1025, 2049)  # 1024x2048 and a pixel: DeepLab's size (`eval_crop_size`), for which strides divide n - 1
CITYSCAPES_HALF = (513, 1025)
CITYSCAPES_CLASSES = 19
VOC_CLASSES = 21  # 20 and the background
C4_LARGE = TaskTap(row=13, at="expansion")  # "the expansion layer of the 13th bottleneck" (V3 section 6.3)
# Where V3 Tables 7 and 8 read the map of stride 8: inside the last block before it is left (DeepLab,
# `feature_extractor.networks_to_feature_maps`). Indexes are those of TF-slim's layers less one.
FINE_V2 = FINE_LARGE = TaskTap(row=6, at="depthwise")
FINE_SMALL = TaskTap(row=3, at="depthwise")


def resolve(name: str) -> ArchSpec | TaskNetwork:
    """The network that a published number is about.

    Raises:
        UnknownNameError: neither the catalogue nor this file has it.
    """
    if name in task_networks():
        return task_networks()[name]
    if name in _SINGLE_LAYERS:
        return _SINGLE_LAYERS[name]()
    if found := re.fullmatch(r"timm_(\w+)_(\d+)", name):
        return msgspec.structs.replace(find(found[1]), resolution=int(found[2]))
    return find(name)


def _detector(
    name: str, rows: ArchSpec, first: TaskTap, *, classes: int, lite: bool = True, extra: tuple[int, ...] | None = None
) -> TaskNetwork:
    """SSD on the map of stride 16 and the last one (V2 section 6.2, V3 section 6.3), 3 and then 6 anchors."""
    head: Head = SSDLiteHead(classes=classes) if lite else SSDHead(classes=classes)
    if extra is not None:
        head = msgspec.structs.replace(head, extra=extra)
    taps = (first, TaskTap(row=len(rows.rows) - 1))
    return TaskNetwork(name=name, rows=rows, taps=taps, head=head, height=COCO, width=COCO)


def _v2_narrow_detector(name: str, alpha: float) -> TaskNetwork:
    """V3 Table 6: as TF Object Detection scales, so the last convolution and the extra maps are narrowed too."""
    full = find("mobilenet_v2")
    last = msgspec.structs.replace(full.rows[-1], scaling="width")
    rows = with_width(msgspec.structs.replace(full, rows=(*full.rows[:-1], last)), alpha)
    extra = tuple(int(alpha * width) for width in SSDLiteHead(classes=90).extra)
    return _detector(name, rows, TaskTap(row=14, at="expansion"), classes=90, extra=extra)


def _segmenter(
    name: str,
    rows: ArchSpec,
    fine: TaskTap,
    *,
    filters: int,
    lite: bool,
    output_stride: OutputStride = 16,
    size: tuple[int, int] = CITYSCAPES,
) -> TaskNetwork:
    """R-ASPP, or LR-ASPP, on the last map (V3 section 6.4)."""
    last = TaskTap(row=len(rows.rows) - 1)
    head: Head = RASPPHead(classes=CITYSCAPES_CLASSES, filters=filters)
    if lite:
        head = LRASPPHead(classes=CITYSCAPES_CLASSES, filters=filters)
    return TaskNetwork(
        name=name,
        rows=with_output_stride(rows, output_stride),
        taps=(fine, last) if lite else (last,),
        head=head,
        height=size[0],
        width=size[1],
    )


def _without_last(rows: ArchSpec) -> ArchSpec:
    """V2 without its 1x1 convolution to 1280: DeepLab stands on the 320 channels before it (V2 section 6.3)."""
    return msgspec.structs.replace(rows, rows=rows.rows[:-1])


def _narrow_tail(rows: ArchSpec, *, first: int) -> ArchSpec:
    """V3's end for segmentation: `reduced_tail`, and the expansion of the row `first`, which strides to it, halved too.

    As DeepLab's `mobilenet_v3_large_seg` and `mobilenet_v3_small_seg`.
    """
    reduced = reduced_tail(rows)
    row = reduced.rows[first]
    if not isinstance(row, BottleneckRow) or row.expanded is None:
        raise SpecError(f"row {first} of {rows.name} has no expansion", wanted="a bottleneck", do="correct `first`")
    expanded = row.expanded // 2
    squeezed = None if row.squeezed is None else squeezed_width(expanded)
    narrow = msgspec.structs.replace(row, expanded=expanded, squeezed=squeezed)
    return msgspec.structs.replace(reduced, rows=(*reduced.rows[:first], narrow, *reduced.rows[first + 1 :]))


def _single(row: Row, *, alpha: float = 1.0, rho: float = 1.0) -> ArchSpec:
    """V1 Table 3: one layer of 512 channels in and out on 14x14 pixels, as a table of one row."""
    narrow = msgspec.structs.replace(row, out=round(512 * alpha))
    return ArchSpec(
        name="one layer",
        paper="arXiv:1704.04861, Table 3",
        rows=(narrow,),
        head=ClassifierHead(classes=1),
        norm=Norm(eps=1e-3, momentum=0.0003),
        resolution=round(14 * rho),
        channels=round(512 * alpha),
    )


_SINGLE_LAYERS: Mapping[str, Callable[[], ArchSpec]] = MappingProxyType(
    {
        "v1_layer_convolution": lambda: _single(ConvRow(out=512)),
        "v1_layer_separable": lambda: _single(SeparableRow(out=512)),
        "v1_layer_separable_0.75": lambda: _single(SeparableRow(out=512), alpha=0.75),
        "v1_layer_separable_0.75_10": lambda: _single(SeparableRow(out=512), alpha=0.75, rho=0.714),
    }
)


@functools.cache
def task_networks() -> Mapping[str, TaskNetwork]:
    """Detectors and segmenters by name."""
    networks = (*_detectors(), *_segmenters(), *_of_torchvision())
    return MappingProxyType({network.name: network for network in networks})


def _detectors() -> Iterator[TaskNetwork]:
    v1, v2 = find("mobilenet_v1"), find("mobilenet_v2")
    large, small = find("mobilenet_v3_large"), find("mobilenet_v3_small")
    c4_v1 = TaskTap(row=11)  # Conv2d_11_pointwise
    c4_v2, c4_large = TaskTap(row=14, at="expansion"), C4_LARGE
    c4_small = TaskTap(row=9, at="expansion")
    # V2 Tables 5 and 6: 80 classes and the background
    yield _detector("mobilenet_v1_ssdlite", v1, c4_v1, classes=81)
    yield _detector("mobilenet_v2_ssdlite", v2, c4_v2, classes=81)
    yield _detector("mobilenet_v2_ssd", v2, c4_v2, classes=81, lite=False)
    # V3 Table 6: 90 outputs an anchor
    yield _v2_narrow_detector("mobilenet_v2_0.35_ssdlite", 0.35)
    yield _v2_narrow_detector("mobilenet_v2_0.5_ssdlite", 0.5)
    yield _detector("mobilenet_v3_large_ssdlite", large, c4_large, classes=90)
    yield _detector("mobilenet_v3_large_ssdlite_reduced", reduced_tail(large), c4_large, classes=90)
    yield _detector("mobilenet_v3_small_ssdlite", small, c4_small, classes=90)
    yield _detector("mobilenet_v3_small_ssdlite_reduced", reduced_tail(small), c4_small, classes=90)


def _segmenters() -> Iterator[TaskNetwork]:
    v2, large = _without_last(find("mobilenet_v2")), find("mobilenet_v3_large")
    v2_half, v2_quarter = (_without_last(find(f"mobilenet_v2_{alpha}_224")) for alpha in ("0.5", "0.35"))
    large_halved = _narrow_tail(large, first=13)
    small_halved = _narrow_tail(find("mobilenet_v3_small"), first=9)
    # V3 Table 7: number, RF2 (last block halved) or not, R-ASPP or LR-ASPP, F
    yield _segmenter("v3_table_7_1", v2, FINE_V2, lite=False, filters=256)
    yield _segmenter("v3_table_7_2", reduced_tail(v2), FINE_V2, lite=False, filters=256)
    yield _segmenter("v3_table_7_3", reduced_tail(v2), FINE_V2, lite=True, filters=256)
    yield _segmenter("v3_table_7_4", reduced_tail(v2), FINE_V2, lite=True, filters=128)
    yield _segmenter("v3_table_7_5", large, FINE_LARGE, lite=False, filters=256)
    yield _segmenter("v3_table_7_6", large_halved, FINE_LARGE, lite=False, filters=256)
    yield _segmenter("v3_table_7_7", large_halved, FINE_LARGE, lite=True, filters=256)
    yield _segmenter("v3_table_7_8", large_halved, FINE_LARGE, lite=True, filters=128)
    yield _segmenter("v3_table_7_9", reduced_tail(v2_half), FINE_V2, lite=True, filters=128)
    yield _segmenter("v3_table_7_10", reduced_tail(v2_quarter), FINE_V2, lite=True, filters=128)
    yield _segmenter("v3_table_7_11", small_halved, FINE_SMALL, lite=True, filters=128)
    # V3 Table 8: rows 8 and 11 of Table 7, at two output strides, whole and half size
    strides: tuple[OutputStride, ...] = (16, 32)
    for model, rows, fine in (("large", large_halved, FINE_LARGE), ("small", small_halved, FINE_SMALL)):
        for stride in strides:
            for suffix, size in (("", CITYSCAPES), ("_half", CITYSCAPES_HALF)):
                name = f"v3_table_8_{model}_{stride}{suffix}"
                yield _segmenter(name, rows, fine, lite=True, filters=128, output_stride=stride, size=size)


def _of_torchvision() -> Iterator[TaskNetwork]:
    large = find("mobilenet_v3_large")
    held = with_output_stride(large, 16)
    last = TaskTap(row=16)
    yield TaskNetwork(
        name="torchvision_ssdlite320_mobilenet_v3_large",
        rows=reduced_tail(large),
        taps=(C4_LARGE, last),
        head=SSDLiteHead(classes=91, anchors=(6,) * 6),
        height=COCO,
        width=COCO,
    )
    yield TaskNetwork(
        name="torchvision_lraspp_mobilenet_v3_large",
        rows=held,
        taps=(TaskTap(row=4), last),  # it reads the output of the first row of stride 8
        head=LRASPPHead(classes=VOC_CLASSES),
        height=VOC,
        width=VOC,
    )
    yield TaskNetwork(
        name="torchvision_deeplabv3_mobilenet_v3_large",
        rows=held,
        taps=(last,),
        head=ASPPHead(classes=VOC_CLASSES),
        height=VOC,
        width=VOC,
    )
