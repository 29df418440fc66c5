"""MobileNetV3: Howard et al., "Searching for MobileNetV3", arXiv:1905.02244, 2019."""

from __future__ import annotations

import msgspec

from .knobs import squeezed_width
from .rows import Activation, BottleneckRow, ConvRow, Row
from .spec import ArchSpec, ClassifierHead, Norm

__all__ = [
    "mobilenet_v3_large",
    "mobilenet_v3_large_minimalistic",
    "mobilenet_v3_small",
    "mobilenet_v3_small_minimalistic",
]

RE: Activation = "relu"  # plain ReLU, not ReLU6
HS: Activation = "hard_swish"
NORM = Norm(eps=1e-3, momentum=0.01)  # decay 0.99 (section 6.1); eps as TF-slim and torchvision


def mobilenet_v3_large() -> ArchSpec:
    """Table 1."""
    return ArchSpec(
        name="mobilenet_v3_large",
        paper="arXiv:1905.02244, Table 1",
        rows=(
            ConvRow(out=16, stride=2, act=HS),  # 224
            _bneck(3, None, 16, se=False, nl=RE, s=1),  # 112
            _bneck(3, 64, 24, se=False, nl=RE, s=2),
            _bneck(3, 72, 24, se=False, nl=RE, s=1),  # 56
            _bneck(5, 72, 40, se=True, nl=RE, s=2),
            _bneck(5, 120, 40, se=True, nl=RE, s=1),  # 28
            _bneck(5, 120, 40, se=True, nl=RE, s=1),
            _bneck(3, 240, 80, se=False, nl=HS, s=2),
            _bneck(3, 200, 80, se=False, nl=HS, s=1),  # 14
            _bneck(3, 184, 80, se=False, nl=HS, s=1),
            _bneck(3, 184, 80, se=False, nl=HS, s=1),
            _bneck(3, 480, 112, se=True, nl=HS, s=1),
            _bneck(3, 672, 112, se=True, nl=HS, s=1),
            _bneck(5, 672, 160, se=True, nl=HS, s=2),
            _bneck(5, 960, 160, se=True, nl=HS, s=1),  # 7
            _bneck(5, 960, 160, se=True, nl=HS, s=1),
            ConvRow(out=960, kernel=1, act=HS),
        ),
        head=ClassifierHead(classes=1000, hidden=1280, act=HS, dropout=0.2),
        norm=NORM,
        resolution=224,
    )


def mobilenet_v3_small() -> ArchSpec:
    """Table 2. The squeeze-and-excite that the page prints on the last 1x1 convolution is in no released network."""
    return ArchSpec(
        name="mobilenet_v3_small",
        paper="arXiv:1905.02244, Table 2",
        rows=(
            ConvRow(out=16, stride=2, act=HS),  # 224
            _bneck(3, None, 16, se=True, nl=RE, s=2),  # 112
            _bneck(3, 72, 24, se=False, nl=RE, s=2),  # 56
            _bneck(3, 88, 24, se=False, nl=RE, s=1),  # 28
            _bneck(5, 96, 40, se=True, nl=HS, s=2),
            _bneck(5, 240, 40, se=True, nl=HS, s=1),  # 14
            _bneck(5, 240, 40, se=True, nl=HS, s=1),
            _bneck(5, 120, 48, se=True, nl=HS, s=1),
            _bneck(5, 144, 48, se=True, nl=HS, s=1),
            _bneck(5, 288, 96, se=True, nl=HS, s=2),
            _bneck(5, 576, 96, se=True, nl=HS, s=1),  # 7
            _bneck(5, 576, 96, se=True, nl=HS, s=1),
            ConvRow(out=576, kernel=1, act=HS),
        ),
        head=ClassifierHead(classes=1000, hidden=1024, act=HS, dropout=0.2),
        norm=NORM,
        resolution=224,
    )


def mobilenet_v3_large_minimalistic() -> ArchSpec:
    """Table 1 for hardware without squeeze-and-excite, hard swish and 5x5 kernels (TF-slim, V3_LARGE_MINIMALISTIC)."""
    return _minimalistic(mobilenet_v3_large(), source="TF-slim's V3_LARGE_MINIMALISTIC")


def mobilenet_v3_small_minimalistic() -> ArchSpec:
    """Table 2 for hardware without squeeze-and-excite, hard swish and 5x5 kernels (TF-slim, V3_SMALL_MINIMALISTIC)."""
    return _minimalistic(mobilenet_v3_small(), source="TF-slim's V3_SMALL_MINIMALISTIC")


def _minimalistic(spec: ArchSpec, *, source: str) -> ArchSpec:
    rows: list[Row] = []
    for row in spec.rows:
        assert isinstance(row, ConvRow | BottleneckRow)
        changes: dict[str, object] = {"act": RE, "kernel": min(row.kernel, 3)}
        if isinstance(row, BottleneckRow):
            changes["squeezed"] = None
        rows.append(msgspec.structs.replace(row, **changes))
    return msgspec.structs.replace(
        spec,
        name=f"{spec.name}_minimalistic",
        paper=f"arXiv:1905.02244, {source}",
        rows=tuple(rows),
        head=msgspec.structs.replace(spec.head, act=RE),
    )


def _bneck(kernel: int, expanded: int | None, out: int, *, se: bool, nl: Activation, s: int) -> BottleneckRow:
    """One line of the table. Its first line expands 16 to 16, which no released network does with a layer."""
    width = 16 if expanded is None else expanded
    return BottleneckRow(
        out=out,
        expanded=expanded,
        kernel=kernel,
        stride=s,
        act=nl,
        squeezed=squeezed_width(width) if se else None,
    )
