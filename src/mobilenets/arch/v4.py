"""MobileNetV4: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", arXiv:2404.10518, 2024."""

from __future__ import annotations

from .rows import Activation, ConvRow, FusedRow, Row, UniversalRow
from .spec import ArchSpec, ClassifierHead, Norm

__all__ = ["mobilenet_v4_conv_large", "mobilenet_v4_conv_medium", "mobilenet_v4_conv_small"]

RE: Activation = "relu"
NORM = Norm(eps=1e-5, momentum=0.1)  # as timm's weights have them; Model Garden trains with eps 1e-3


def mobilenet_v4_conv_small() -> ArchSpec:
    """Table 11. Its two fused blocks are, as released, two plain convolutions each with an activation."""
    return ArchSpec(
        name="mobilenet_v4_conv_small",
        paper="arXiv:2404.10518, Table 11",
        rows=(
            ConvRow(out=32, stride=2, act=RE),  # 224
            ConvRow(out=32, stride=2, act=RE),  # 112
            ConvRow(out=32, kernel=1, act=RE),
            ConvRow(out=96, stride=2, act=RE),  # 56
            ConvRow(out=64, kernel=1, act=RE),
            _extra_dw(5, 5, 192, 96, s=2),  # 28
            *(_ib(3, 192, 96) for _ in range(4)),  # 14
            _conv_next(3, 384, 96),
            _extra_dw(3, 3, 576, 128, s=2),
            _extra_dw(5, 5, 512, 128),  # 7
            _ib(5, 512, 128),
            _ib(5, 384, 128),
            _ib(3, 512, 128),
            _ib(3, 512, 128),
            ConvRow(out=960, kernel=1, act=RE),
        ),
        head=_head(),
        norm=NORM,
        resolution=224,
    )


def mobilenet_v4_conv_medium() -> ArchSpec:
    """Table 12."""
    return ArchSpec(
        name="mobilenet_v4_conv_medium",
        paper="arXiv:2404.10518, Table 12",
        rows=(
            ConvRow(out=32, stride=2, act=RE),  # 256
            FusedRow(out=48, expanded=128, stride=2, act=RE),  # 128
            _extra_dw(3, 5, 192, 80, s=2),  # 64
            _extra_dw(3, 3, 160, 80),  # 32
            _extra_dw(3, 5, 480, 160, s=2),
            _extra_dw(3, 3, 640, 160),  # 16
            _extra_dw(3, 3, 640, 160),
            _extra_dw(3, 5, 640, 160),
            _extra_dw(3, 3, 640, 160),
            _conv_next(3, 640, 160),
            _ffn(320, 160),
            _conv_next(3, 640, 160),
            _extra_dw(5, 5, 960, 256, s=2),
            _extra_dw(5, 5, 1024, 256),  # 8
            _extra_dw(3, 5, 1024, 256),
            _extra_dw(3, 5, 1024, 256),
            _ffn(1024, 256),
            _conv_next(3, 1024, 256),
            _extra_dw(3, 5, 512, 256),
            _extra_dw(5, 5, 1024, 256),
            _ffn(1024, 256),
            _ffn(1024, 256),
            _conv_next(5, 512, 256),
            ConvRow(out=960, kernel=1, act=RE),
        ),
        head=_head(),
        norm=NORM,
        resolution=256,
    )


def mobilenet_v4_conv_large() -> ArchSpec:
    """Table 14."""
    return ArchSpec(
        name="mobilenet_v4_conv_large",
        paper="arXiv:2404.10518, Table 14",
        rows=(
            ConvRow(out=24, stride=2, act=RE),  # 384
            FusedRow(out=48, expanded=96, stride=2, act=RE),  # 192
            _extra_dw(3, 5, 192, 96, s=2),  # 96
            _extra_dw(3, 3, 384, 96),  # 48
            _extra_dw(3, 5, 384, 192, s=2),
            *(_extra_dw(3, 3, 768, 192) for _ in range(3)),  # 24
            _extra_dw(3, 5, 768, 192),
            *(_extra_dw(5, 3, 768, 192) for _ in range(5)),
            _conv_next(3, 768, 192),
            _extra_dw(5, 5, 768, 512, s=2),
            *(_extra_dw(5, 5, 2048, 512) for _ in range(3)),  # 12
            _conv_next(5, 2048, 512),
            _extra_dw(5, 3, 2048, 512),
            *(_conv_next(5, 2048, 512) for _ in range(2)),
            _extra_dw(5, 3, 2048, 512),
            _extra_dw(5, 5, 2048, 512),
            *(_conv_next(5, 2048, 512) for _ in range(3)),
            ConvRow(out=960, kernel=1, act=RE),
        ),
        head=_head(),
        norm=NORM,
        resolution=384,
    )


def _head() -> ClassifierHead:
    return ClassifierHead(classes=1000, hidden=1280, hidden_norm=True, act=RE, dropout=0.2)


def _extra_dw(start: int, middle: int, expanded: int, out: int, *, s: int = 1) -> Row:
    """Both depthwise convolutions of the universal inverted bottleneck (Figure 4)."""
    return UniversalRow(out=out, expanded=expanded, start_kernel=start, middle_kernel=middle, stride=s, act=RE)


def _ib(middle: int, expanded: int, out: int) -> Row:
    """The middle one only: the inverted bottleneck of V2."""
    return UniversalRow(out=out, expanded=expanded, start_kernel=None, middle_kernel=middle, act=RE)


def _conv_next(start: int, expanded: int, out: int) -> Row:
    """The first one only, as in ConvNeXt."""
    return UniversalRow(out=out, expanded=expanded, start_kernel=start, middle_kernel=None, act=RE)


def _ffn(expanded: int, out: int) -> Row:
    """None: two pointwise convolutions."""
    return UniversalRow(out=out, expanded=expanded, start_kernel=None, middle_kernel=None, act=RE)
