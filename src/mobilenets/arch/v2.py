"""MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, 2018."""

from __future__ import annotations

from .rows import BottleneckRow, ConvRow, Row
from .spec import ArchSpec, ClassifierHead, Norm

__all__ = ["mobilenet_v2"]


def mobilenet_v2() -> ArchSpec:
    """Table 2. Kernels are 3x3; norm values are torchvision's, the checkpoint most people bring."""
    return ArchSpec(
        name="mobilenet_v2",
        paper="arXiv:1801.04381, Table 2",
        rows=(
            ConvRow(out=32, stride=2),
            *_sequence(32, t=1, c=16, n=1, s=1),
            *_sequence(16, t=6, c=24, n=2, s=2),
            *_sequence(24, t=6, c=32, n=3, s=2),
            *_sequence(32, t=6, c=64, n=4, s=2),
            *_sequence(64, t=6, c=96, n=3, s=1),
            *_sequence(96, t=6, c=160, n=3, s=2),
            *_sequence(160, t=6, c=320, n=1, s=1),
            ConvRow(out=1280, kernel=1, scaling="widen"),  # alpha < 1 leaves the last layer alone (section 4)
        ),
        head=ClassifierHead(classes=1000, dropout=0.2),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=224,
    )


def _sequence(inputs: int, *, t: int, c: int, n: int, s: int) -> tuple[Row, ...]:
    """One line of Table 2: `n` bottlenecks of `c` channels, expansion `t`, the first with stride `s`."""
    return tuple(
        BottleneckRow(
            out=c,
            expanded=None if t == 1 else t * (inputs if i == 0 else c),
            stride=s if i == 0 else 1,
        )
        for i in range(n)
    )
