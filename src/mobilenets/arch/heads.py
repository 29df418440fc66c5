"""Heads of detection and segmentation, as data: which layers they are, and on which map each runs.

Like `ClassifierHead` they say their layers and hold no torch. A head reads one or several feature maps ("levels"); it
does not know which rows of a network these come from.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..errors import SpecError
from .layers import Layer, depthwise, pointwise

__all__ = ["ASPPHead", "Head", "HeadLayer", "LRASPPHead", "RASPPHead", "SSDHead", "SSDLiteHead"]

BOX_CODE = 4  # numbers that place a box against its anchor: centre and size (SSD, Liu et al. 2016, section 2.2)
ANCHORS = (3, 6, 6, 6, 6, 6)  # per position; the first level has fewer (TF Object Detection, `ssd_anchor_generator`)
EXTRA = (512, 256, 256, 128)  # TF Object Detection, `ssd_mobilenet_v2_feature_extractor`


class HeadLayer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of a head, and the map it reads."""

    layer: Layer
    level: int  # the head's inputs count from 0; the maps that it makes itself go on from there, each half as large


class SSDHead(msgspec.Struct, frozen=True, kw_only=True, tag="ssd", forbid_unknown_fields=True):
    """Single-shot detection (Liu et al. 2016), as V2 Table 5 compares it: all convolutions are full ones.

    Behind the last input come smaller maps, each made by a 1x1 convolution to half its channels and a 3x3 one with
    stride 2, with norms. Every map then has two 3x3 convolutions with a bias and no norm: one for the boxes, one for
    the classes.
    """

    classes: int  # outputs per anchor; the background counts where there is one
    anchors: tuple[int, ...] = ANCHORS  # per position, for every level
    extra: tuple[int, ...] = EXTRA  # channels of the maps that the head makes

    def __post_init__(self) -> None:
        _check("ssd", classes=self.classes, widths=(*self.anchors, *self.extra))

    def layers(self, in_channels: tuple[int, ...]) -> tuple[HeadLayer, ...]:
        """The layers for input maps of `in_channels`, the finest first.

        Raises:
            SpecError: there are not as many numbers of anchors as maps.
        """
        found, channels = _extra_maps(in_channels, self.extra, lite=False)
        for level, (width, anchors) in enumerate(_with_anchors("ssd", channels, self.anchors)):
            for name, outputs in (("boxes", BOX_CODE), ("classes", self.classes)):
                found.append(HeadLayer(level=level, layer=_predictor(name, width, anchors * outputs, kernel=3)))
        return tuple(found)


class SSDLiteHead(msgspec.Struct, frozen=True, kw_only=True, tag="ssdlite", forbid_unknown_fields=True):
    """SSDLite (V2 section 6.2): SSD whose 3x3 convolutions are depthwise separable, in extra maps and predictors alike.

    A predictor is a depthwise 3x3 convolution with a norm, then a 1x1 one with a bias and no norm, as in TF Object
    Detection and torchvision.
    """

    classes: int  # outputs per anchor; the background counts where there is one
    anchors: tuple[int, ...] = ANCHORS  # per position, for every level
    extra: tuple[int, ...] = EXTRA  # channels of the maps that the head makes

    def __post_init__(self) -> None:
        _check("ssdlite", classes=self.classes, widths=(*self.anchors, *self.extra))

    def layers(self, in_channels: tuple[int, ...]) -> tuple[HeadLayer, ...]:
        """The layers for input maps of `in_channels`, the finest first.

        Raises:
            SpecError: there are not as many numbers of anchors as maps.
        """
        found, channels = _extra_maps(in_channels, self.extra, lite=True)
        for level, (width, anchors) in enumerate(_with_anchors("ssdlite", channels, self.anchors)):
            for name, outputs in (("boxes", BOX_CODE), ("classes", self.classes)):
                found.append(HeadLayer(level=level, layer=depthwise(width, kernel=3, name=f"{name}_depthwise")))
                found.append(HeadLayer(level=level, layer=_predictor(name, width, anchors * outputs, kernel=1)))
        return tuple(found)


class ASPPHead(msgspec.Struct, frozen=True, kw_only=True, tag="aspp", forbid_unknown_fields=True):
    """Atrous spatial pyramid pooling (DeepLabv3: Chen et al. 2017, section 3.3), as torchvision builds it.

    Side by side on one map: a 1x1 convolution, a dilated 3x3 one for each rate, and the pooled map with a 1x1 one; then
    a 1x1 convolution over all of them together, a 3x3 one, and the classifier.
    """

    classes: int  # outputs per pixel
    filters: int = 256
    rates: tuple[int, ...] = (12, 24, 36)  # pixels from tap to tap; for a map with output stride 8

    def __post_init__(self) -> None:
        _check("aspp", classes=self.classes, widths=(self.filters, *self.rates))

    def layers(self, in_channels: tuple[int, ...]) -> tuple[HeadLayer, ...]:
        """The layers for one input map.

        Raises:
            SpecError: there is more or less than one map.
        """
        (width,) = _inputs("aspp", in_channels, wanted=1)
        branches = len(self.rates) + 2
        layers = [
            pointwise("branch", width, self.filters),
            *(_conv(f"branch_rate_{rate}", width, self.filters, dilation=rate) for rate in self.rates),
            _pooled("branch_pooled", width, self.filters, norm=True),
            pointwise("project", branches * self.filters, self.filters),
            _conv("smooth", self.filters, self.filters),
            _predictor("classes", self.filters, self.classes, kernel=1),
        ]
        return tuple(HeadLayer(level=0, layer=layer) for layer in layers)


class RASPPHead(msgspec.Struct, frozen=True, kw_only=True, tag="raspp", forbid_unknown_fields=True):
    """Reduced ASPP (V2 section 6.3; V3 section 6.4): the 1x1 branch and the pooled branch only.

    Both have `filters` channels and a norm; a 1x1 convolution with a norm joins them before the classifier.
    """

    classes: int  # outputs per pixel
    filters: int = 256  # F in V3 Table 7

    def __post_init__(self) -> None:
        _check("raspp", classes=self.classes, widths=(self.filters,))

    def layers(self, in_channels: tuple[int, ...]) -> tuple[HeadLayer, ...]:
        """The layers for one input map.

        Raises:
            SpecError: there is more or less than one map.
        """
        (width,) = _inputs("raspp", in_channels, wanted=1)
        layers = (
            pointwise("branch", width, self.filters),
            _pooled("branch_pooled", width, self.filters, norm=True),
            pointwise("project", 2 * self.filters, self.filters),
            _predictor("classes", self.filters, self.classes, kernel=1),
        )
        return tuple(HeadLayer(level=0, layer=layer) for layer in layers)


class LRASPPHead(msgspec.Struct, frozen=True, kw_only=True, tag="lraspp", forbid_unknown_fields=True):
    """Lite reduced ASPP (V3 section 6.4, Figure 10).

    The last map goes through a 1x1 convolution with a norm, and is weighed channel by channel with the pooled map
    behind a 1x1 convolution and a sigmoid, as squeeze-and-excite does. It is enlarged to the finer map (1/8 of the
    image), classified there, and added to a classifier of the finer map itself.
    """

    classes: int  # outputs per pixel
    filters: int = 128  # F in V3 Table 7

    def __post_init__(self) -> None:
        _check("lraspp", classes=self.classes, widths=(self.filters,))

    def layers(self, in_channels: tuple[int, ...]) -> tuple[HeadLayer, ...]:
        """The layers for two input maps, the finer first.

        Raises:
            SpecError: there are not two maps.
        """
        fine, last = _inputs("lraspp", in_channels, wanted=2)
        return (
            HeadLayer(level=1, layer=pointwise("branch", last, self.filters)),
            HeadLayer(level=1, layer=_pooled("branch_pooled", last, self.filters, norm=False)),
            HeadLayer(level=0, layer=_predictor("classes", self.filters, self.classes, kernel=1)),
            HeadLayer(level=0, layer=_predictor("classes_fine", fine, self.classes, kernel=1)),
        )


Head: TypeAlias = SSDHead | SSDLiteHead | ASPPHead | RASPPHead | LRASPPHead


def _extra_maps(
    in_channels: tuple[int, ...], extra: tuple[int, ...], *, lite: bool
) -> tuple[list[HeadLayer], tuple[int, ...]]:
    """The layers that make further maps, and the channels of all maps."""
    found: list[HeadLayer] = []
    channels = list(in_channels)
    for out in extra:
        level, half = len(channels) - 1, max(1, out // 2)
        layers = [pointwise("shrink", channels[-1], half)]
        if lite:
            layers.append(depthwise(half, kernel=3, stride=2, name="stride"))
        else:
            layers.append(_conv("stride", half, out, stride=2))
        found += [HeadLayer(level=level, layer=layer) for layer in layers]
        if lite:  # it reads what the depthwise one has already made half as large
            found.append(HeadLayer(level=level + 1, layer=pointwise("widen", half, out)))
        channels.append(out)
    return found, tuple(channels)


def _with_anchors(head: str, channels: tuple[int, ...], anchors: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if len(channels) != len(anchors):
        raise SpecError(
            f"a head of type {head} has {len(channels)} maps and {len(anchors)} numbers of anchors",
            wanted="one number of anchors for each map: inputs, then extra ones",
            do="correct anchors, extra, or the maps it reads",
        )
    return tuple(zip(channels, anchors, strict=True))


def _inputs(head: str, in_channels: tuple[int, ...], *, wanted: int) -> tuple[int, ...]:
    if len(in_channels) != wanted:
        raise SpecError(
            f"a head of type {head} reads {len(in_channels)} maps", wanted=f"{wanted}", do="give the channels of each"
        )
    return in_channels


def _conv(name: str, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> Layer:
    return Layer(
        name=name,
        kind="conv",
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=3,
        stride=stride,
        dilation=dilation,
    )


def _pooled(name: str, in_channels: int, out_channels: int, *, norm: bool) -> Layer:
    return Layer(
        name=name, kind="pointwise", in_channels=in_channels, out_channels=out_channels, norm=norm, on="vector"
    )


def _predictor(name: str, in_channels: int, out_channels: int, *, kernel: int) -> Layer:
    return Layer(
        name=name,
        kind="conv" if kernel > 1 else "pointwise",
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        bias=True,
        norm=False,
    )


def _check(head: str, *, classes: int, widths: tuple[int, ...]) -> None:
    for field, value in (("classes", classes), *(("widths", width) for width in widths)):
        if value < 1:
            raise SpecError(f"a head of type {head} has {field} = {value}", wanted="at least 1", do=f"correct {field}")
