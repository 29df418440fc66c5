"""Hugging Face transformers' MobileNets, V1 and V2: names of tensors, and a state dict with its config as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from ..arch import CATALOG, ArchSpec, BottleneckRow, ConvRow, PlacedRow, SeparableRow
from ..arch.rows import Activation
from ..arch.spec import Norm
from ..errors import FileFormatError, SpecError
from .places import Candidate, Place, head_place, row_place, with_shapes

__all__ = ["FAMILIES", "configured", "labels_of", "places", "shaped_candidates"]

FAMILIES = ("mobilenet_v1", "mobilenet_v2")
# transformers passes TensorFlow's decay (0.9997, 0.997) as torch's momentum, the weight of the new batch. Taken as
# meant, 0.0003 is for runs of 10^5 steps; V3's 0.01 (section 6.1) follows within a fine-tuning.
MOMENTUM = 0.01
EPS = 1e-3  # its default, TF-slim's
ACTIVATIONS: Mapping[str, Activation] = {"relu6": "relu6", "relu": "relu", "hardswish": "hard_swish"}


def places(spec: ArchSpec, family: str) -> list[Place]:
    """Where the table's tensors lie in transformers' model of that family, for classification.

    Raises:
        SpecError: a row of a type that it has not.
    """
    found: list[Place] = []
    for placed in spec.placed():
        found += _row(placed, family)
    return [*found, *(head_place(layer, "classifier", kind="linear") for layer in spec.head.layers(spec.out_channels))]


def shaped_candidates(tensors: Mapping[str, NDArray[Any]]) -> Iterator[Candidate]:
    """Each family, with the widths of the state dict."""
    for family in FAMILIES:
        spec = CATALOG[family]()
        if "mobilenet_v2.conv_stem.expand_1x1.convolution.weight" in tensors and family == "mobilenet_v2":
            # `first_layer_is_expansion: false`: the first bottleneck has an expansion of its own.
            rows = list(spec.rows)
            rows[1] = msgspec.structs.replace(rows[1], expanded=rows[0].out)
            spec = msgspec.structs.replace(spec, rows=tuple(rows))
        spec = with_shapes(spec, places(spec, family), tensors)
        spec = msgspec.structs.replace(spec, norm=Norm(eps=EPS, momentum=MOMENTUM), padding="same")
        yield Candidate(family=family, spec=spec, places=places(spec, family))


def configured(spec: ArchSpec, config: Mapping[str, Any]) -> ArchSpec:
    """The table with what `config.json` says and the tensors do not show.

    Raises:
        FileFormatError: it says something that a table of ours cannot.
    """
    act = config.get("hidden_act", "relu6")
    stride = config.get("output_stride", 32)
    size = config.get("image_size", spec.resolution)
    for field, value, ok, wanted in (
        ("hidden_act", act, act in ACTIVATIONS, "one of " + ", ".join(ACTIVATIONS)),
        ("output_stride", stride, stride == 32, "32, as every published classifier has"),
        ("image_size", size, isinstance(size, int) and size > 0, "one number of pixels for both sides"),
    ):
        if not ok:
            raise FileFormatError(
                f"config.json has {field} = {value!r}", wanted=wanted, do="correct it, if it is not meant so"
            )
    rows = tuple(msgspec.structs.replace(row, act=ACTIVATIONS[act]) for row in spec.rows)
    kept = float(config.get("classifier_dropout_prob", 1 - spec.head.dropout))
    # The field holds TensorFlow's keep probability (0.999, 0.8), which transformers applies as the probability to drop.
    dropout = 1 - kept if kept > 0.5 else kept
    return msgspec.structs.replace(
        spec,
        rows=rows,
        norm=Norm(eps=float(config.get("layer_norm_eps", EPS)), momentum=MOMENTUM),
        padding="same" if config.get("tf_padding", True) else "symmetric",
        resolution=size,
        head=msgspec.structs.replace(spec.head, dropout=round(dropout, 6)),
    )


def labels_of(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The labels of `id2label`, in the order of their numbers; None where they only say LABEL_0, LABEL_1 ..."""
    named = config.get("id2label")
    if not isinstance(named, Mapping) or len(named) != classes:
        return None
    labels = [named.get(str(index), named.get(index)) for index in range(classes)]
    if not all(isinstance(label, str) and label for label in labels) or labels[0] == "LABEL_0":
        return None
    return tuple(str(label) for label in labels)


def _row(placed: PlacedRow, family: str) -> Iterator[Place]:
    row, index = placed.row, placed.index
    layers = row.layers(placed.in_channels)
    if isinstance(row, ConvRow):
        stem = "conv_stem" if family == "mobilenet_v1" else "conv_stem.first_conv"
        names = {"conv": f"{family}.{stem if index == 0 else 'conv_1x1'}"}
    elif isinstance(row, SeparableRow):
        names = {
            "depthwise": f"{family}.layer.{2 * index - 2}",
            "project": f"{family}.layer.{2 * index - 1}",
        }
    elif isinstance(row, BottleneckRow) and row.squeezed is None:
        at = f"{family}.conv_stem" if index == 1 else f"{family}.layer.{index - 2}"
        names = {"expand": f"{at}.expand_1x1", "depthwise": f"{at}.conv_3x3", "project": f"{at}.reduce_1x1"}
    else:
        raise SpecError(
            f"row {index} is of type {type(row).__name__}",
            wanted="the rows of V1 and V2",
            do="choose another library",
        )
    for layer in layers:
        yield row_place(placed, layer, f"{names[layer.name]}.convolution", f"{names[layer.name]}.normalization")
