"""Tables with every kind of tie, small enough to build and run by the hundred."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import strategies as st

from mobilenets.arch import (
    ArchSpec,
    AttentionRow,
    BottleneckRow,
    ClassifierHead,
    ConvRow,
    FusedRow,
    Row,
    SeparableRow,
    UniversalRow,
)
from mobilenets.arch.spec import Norm
from mobilenets.compress import Width, widths

NORM = Norm(eps=1e-3, momentum=0.1)


def table(*rows: Row, head: ClassifierHead | None = None, classes: int = 5, padding: str = "symmetric") -> ArchSpec:
    """At 8 pixels."""
    return ArchSpec(
        name="table",
        paper="none",
        rows=rows,
        head=ClassifierHead(classes=classes, dropout=0.0) if head is None else head,
        norm=NORM,
        resolution=8,
        padding=padding,
    )


TABLES: dict[str, ArchSpec] = {
    "separable": table(
        ConvRow(out=6, stride=2), SeparableRow(out=8), SeparableRow(out=10, stride=2), SeparableRow(out=10)
    ),
    "bottleneck": table(
        ConvRow(out=6, stride=2),
        BottleneckRow(out=6, expanded=None),
        BottleneckRow(out=8, expanded=12),
        BottleneckRow(out=8, expanded=16),
        BottleneckRow(out=8, expanded=20, shortcut=False),
        ConvRow(out=16, kernel=1),
    ),
    "squeeze-and-excite": table(
        ConvRow(out=6, act="hard_swish"),
        BottleneckRow(out=6, expanded=None, squeezed=5, act="relu"),
        BottleneckRow(out=8, expanded=12, squeezed=4, stride=2, kernel=5, act="hard_swish"),
        BottleneckRow(out=8, expanded=16, squeezed=6, act="hard_swish"),
        ConvRow(out=16, kernel=1, act="hard_swish"),
        head=ClassifierHead(classes=5, hidden=12, act="hard_swish", dropout=0.0),
        padding="same",
    ),
    "universal": table(
        ConvRow(out=6, stride=2, act="relu"),
        FusedRow(out=8, expanded=12),
        FusedRow(out=8, expanded=16),
        UniversalRow(out=10, expanded=20, start_kernel=5, middle_kernel=3, stride=2),
        UniversalRow(out=10, expanded=12, start_kernel=3, layer_scale=True),
        UniversalRow(out=10, expanded=14, middle_kernel=3),
        UniversalRow(out=10, expanded=16, layer_scale=True),
        ConvRow(out=16, kernel=1, act="relu"),
        head=ClassifierHead(classes=5, hidden=12, hidden_norm=True, act="relu", dropout=0.0),
    ),
    "attention": table(
        ConvRow(out=8, stride=2, act="gelu"),
        AttentionRow(out=8, heads=3, key_width=4, value_width=6, keys_stride=2, layer_scale=True),
        UniversalRow(out=8, expanded=12, start_kernel=3, act="gelu", layer_scale=True),
        AttentionRow(out=8, heads=2, key_width=5, value_width=5),
        AttentionRow(out=12, heads=2, key_width=4, value_width=3),
    ),
    "added to the image": table(BottleneckRow(out=3, expanded=6), ConvRow(out=6), SeparableRow(out=6)),
}

small = st.integers(1, 9)
strides = st.sampled_from((1, 2))
kernels = st.sampled_from((1, 3, 5))
acts = st.sampled_from(("relu", "relu6", "hard_swish", "gelu", "none"))
optional_kernels = st.none() | kernels
any_row: st.SearchStrategy[Row] = st.one_of(
    st.builds(ConvRow, out=small, kernel=kernels, stride=strides, act=acts),
    st.builds(SeparableRow, out=small, kernel=kernels, stride=strides, act=acts),
    st.builds(
        BottleneckRow,
        out=small,
        expanded=st.none() | small,
        squeezed=st.none() | small,
        kernel=kernels,
        stride=strides,
        act=acts,
        shortcut=st.booleans(),
    ),
    st.builds(FusedRow, out=small, expanded=small, kernel=kernels, stride=strides, act=acts),
    st.builds(
        UniversalRow,
        out=small,
        expanded=small,
        start_kernel=optional_kernels,
        middle_kernel=optional_kernels,
        act=acts,
        layer_scale=st.booleans(),
    ),
    st.builds(
        AttentionRow,
        out=small,
        heads=st.integers(1, 3),
        key_width=st.integers(1, 4),
        value_width=st.integers(1, 4),
        keys_stride=strides,
        layer_scale=st.booleans(),
    ),
)
any_head = st.builds(
    ClassifierHead,
    classes=st.just(5),
    hidden=st.none() | small,
    hidden_norm=st.booleans(),
    act=acts,
    dropout=st.just(0.0),
)


@st.composite
def any_table(draw: st.DrawFn) -> ArchSpec:
    """Up to six rows; half of them keep the width, so that there are residual additions to get wrong."""
    rows: list[Row] = []
    for row in draw(st.lists(any_row, min_size=1, max_size=6)):
        keeps = rows and draw(st.booleans())
        rows.append(msgspec.structs.replace(row, out=rows[-1].out) if keeps else row)
    return table(*rows, head=draw(any_head), padding=draw(st.sampled_from(("symmetric", "same"))))


def some_kept(spec: ArchSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """For about three of four widths, some of their units."""
    return {
        width.name: np.sort(rng.permutation(width.size)[: rng.integers(1, width.size + 1)])
        for width in widths(spec)
        if rng.random() < 0.75
    }


def dropped(width: Width, kept: dict[str, np.ndarray]) -> np.ndarray:
    """The units of a width that are not kept."""
    return np.setdiff1d(np.arange(width.size), kept.get(width.name, np.arange(width.size)))
