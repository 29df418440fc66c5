"""MobileNetV4: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", arXiv:2404.10518, 2024."""

from __future__ import annotations

import msgspec

from .rows import Activation, AttentionRow, ConvRow, FusedRow, Row, UniversalRow
from .spec import ArchSpec, ClassifierHead, Norm

__all__ = [
    "mobilenet_v4_conv_large",
    "mobilenet_v4_conv_medium",
    "mobilenet_v4_conv_small",
    "mobilenet_v4_fused",
    "mobilenet_v4_hybrid_large",
    "mobilenet_v4_hybrid_medium",
    "mobilenet_v4_hybrid_medium_paper",
]

RE: Activation = "relu"
GE: Activation = "gelu"
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


def mobilenet_v4_fused() -> ArchSpec:
    """Ours, of the paper's fused inverted bottlenecks (section 3), for images of 32 pixels or so.

    There a full convolution takes no longer than a depthwise separable pair of many times fewer mult-adds, on a
    processor with wide vectors, and learns more (docs/log.md). Maps of 32, 16, 8 and 4 pixels, with channels that
    double where the side halves, and an expansion that is not wider than its row.
    """
    stages = ((64, 2), (128, 3), (256, 2))  # channels, rows
    return ArchSpec(
        name="mobilenet_v4_fused",
        paper="ours, of the blocks of arXiv:2404.10518, section 3",
        rows=(
            ConvRow(out=32, act=RE),
            *(
                FusedRow(out=out, expanded=out, stride=2 if index == 0 else 1, act=RE)
                for out, count in stages
                for index in range(count)
            ),
        ),
        head=ClassifierHead(classes=1000),
        norm=NORM,
        resolution=32,
    )


def mobilenet_v4_hybrid_medium() -> ArchSpec:
    """As released (TF Model Garden `mobilenet.py`, timm): another order of blocks than the paper prints."""
    return _hybrid(
        "mobilenet_v4_hybrid_medium",
        paper="arXiv:2404.10518, Model Garden's Hybrid-M",
        act=RE,
        resolution=256,
        rows=(
            ConvRow(out=32, stride=2),  # 256
            FusedRow(out=48, expanded=128, stride=2),  # 128
            _extra_dw(3, 5, 192, 80, s=2),  # 64
            _extra_dw(3, 3, 160, 80),  # 32
            _extra_dw(3, 5, 480, 160, s=2),
            _ffn(320, 160),  # 16
            _extra_dw(3, 3, 640, 160),
            _extra_dw(3, 5, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _extra_dw(3, 3, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _conv_next(3, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _extra_dw(3, 3, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _conv_next(3, 640, 160),
            _extra_dw(5, 5, 960, 256, s=2),
            _extra_dw(5, 5, 1024, 256),  # 8
            *(_extra_dw(3, 5, 1024, 256) for _ in range(2)),
            _ffn(512, 256),
            _extra_dw(3, 5, 512, 256),
            _ffn(512, 256),
            _ffn(1024, 256),
            _mqa(4, 64, 256),
            _conv_next(3, 1024, 256),
            _mqa(4, 64, 256),
            _extra_dw(5, 5, 1024, 256),
            _mqa(4, 64, 256),
            _conv_next(5, 1024, 256),
            _mqa(4, 64, 256),
            _conv_next(5, 1024, 256),
            ConvRow(out=960, kernel=1),
        ),
    )


def mobilenet_v4_hybrid_medium_paper() -> ArchSpec:
    """Table 13 as printed. It gives no heads and widths of keys; they are those of the released network."""
    return _hybrid(
        "mobilenet_v4_hybrid_medium_paper",
        paper="arXiv:2404.10518, Table 13",
        act=RE,
        resolution=256,
        rows=(
            ConvRow(out=32, stride=2),  # 256
            FusedRow(out=48, expanded=128, stride=2),  # 128
            _extra_dw(3, 5, 192, 80, s=2),  # 64
            _extra_dw(3, 3, 160, 80),  # 32
            _extra_dw(3, 5, 480, 160, s=2),
            *(_extra_dw(3, 3, 640, 160) for _ in range(2)),  # 16
            _extra_dw(3, 5, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _extra_dw(3, 3, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _conv_next(3, 640, 160),
            _mqa(4, 64, 160, keys=2),
            _ffn(640, 160),
            _mqa(4, 64, 160, keys=2),
            _conv_next(3, 640, 160),
            _extra_dw(5, 5, 960, 256, s=2),
            _extra_dw(5, 5, 1024, 256),  # 8
            *(_extra_dw(3, 5, 1024, 256) for _ in range(2)),
            _ffn(1024, 256),
            _conv_next(3, 1024, 256),
            _extra_dw(3, 5, 512, 256),
            _mqa(4, 64, 256),
            _extra_dw(5, 5, 1024, 256),
            _mqa(4, 64, 256),
            _ffn(1024, 256),
            _mqa(4, 64, 256),
            _ffn(1024, 256),
            _mqa(4, 64, 256),
            _conv_next(5, 1024, 256),
            ConvRow(out=960, kernel=1),
        ),
    )


def mobilenet_v4_hybrid_large() -> ArchSpec:
    """Table 15. GELU as released (TF Model Garden, timm); the table names no activation."""
    return _hybrid(
        "mobilenet_v4_hybrid_large",
        paper="arXiv:2404.10518, Table 15",
        act=GE,
        resolution=384,
        rows=(
            ConvRow(out=24, stride=2),  # 384
            FusedRow(out=48, expanded=96, stride=2),  # 192
            _extra_dw(3, 5, 192, 96, s=2),  # 96
            _extra_dw(3, 3, 384, 96),  # 48
            _extra_dw(3, 5, 384, 192, s=2),
            *(_extra_dw(3, 3, 768, 192) for _ in range(3)),  # 24
            _extra_dw(3, 5, 768, 192),
            _extra_dw(5, 3, 768, 192),
            *(row for _ in range(4) for row in (_extra_dw(5, 3, 768, 192), _mqa(8, 48, 192, keys=2))),
            _conv_next(3, 768, 192),
            _extra_dw(5, 5, 768, 512, s=2),
            *(_extra_dw(5, 5, 2048, 512) for _ in range(3)),  # 12
            _conv_next(5, 2048, 512),
            _extra_dw(5, 3, 2048, 512),
            *(_conv_next(5, 2048, 512) for _ in range(2)),
            _extra_dw(5, 3, 2048, 512),
            _extra_dw(5, 5, 2048, 512),
            *(row for _ in range(4) for row in (_mqa(8, 64, 512), _conv_next(5, 2048, 512))),
            ConvRow(out=960, kernel=1),
        ),
    )


def _hybrid(name: str, *, paper: str, act: Activation, resolution: int, rows: tuple[Row, ...]) -> ArchSpec:
    """What the hybrids share: one activation everywhere, and a layer scale behind every universal row."""
    made: list[Row] = []
    for row in rows:
        if isinstance(row, UniversalRow):
            made.append(msgspec.structs.replace(row, act=act, layer_scale=True))
        elif isinstance(row, AttentionRow):
            made.append(row)
        else:
            made.append(msgspec.structs.replace(row, act=act))
    return ArchSpec(name=name, paper=paper, rows=tuple(made), head=_head(act), norm=NORM, resolution=resolution)


def _head(act: Activation = RE) -> ClassifierHead:
    return ClassifierHead(classes=1000, hidden=1280, hidden_norm=True, act=act, dropout=0.2)


def _mqa(heads: int, width: int, out: int, *, keys: int = 1) -> Row:
    """Mobile MQA (section 3.2); keys and values of one width, and a layer scale."""
    return AttentionRow(out=out, heads=heads, key_width=width, value_width=width, keys_stride=keys, layer_scale=True)


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
