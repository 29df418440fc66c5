"""Small tables that hold every kind of row, for the tests of TensorFlow Lite files."""

from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, FusedRow, SeparableRow, UniversalRow
from mobilenets.arch.spec import Norm

NORM = Norm(eps=1e-3, momentum=0.1)


def table(
    name: str, *rows: object, head: ClassifierHead | None = None, padding: str = "same", side: int = 32
) -> ArchSpec:
    return ArchSpec(
        name=name,
        paper="none",
        rows=rows,  # type: ignore[arg-type]
        head=head or ClassifierHead(classes=7),
        norm=NORM,
        resolution=side,
        padding=padding,  # type: ignore[arg-type]
    )


V1 = table(
    "like_v1",
    ConvRow(out=8, stride=2),
    SeparableRow(out=16),
    SeparableRow(out=24, stride=2),
    SeparableRow(out=24, kernel=5),
)
V2 = table(
    "like_v2",
    ConvRow(out=8, stride=2),
    BottleneckRow(out=8, expanded=None),
    BottleneckRow(out=16, expanded=32, stride=2),
    BottleneckRow(out=16, expanded=40),
    BottleneckRow(out=16, expanded=24, shortcut=False),
    ConvRow(out=48, kernel=1),
)
V3 = table(
    "like_v3",
    ConvRow(out=8, stride=2, act="hard_swish"),
    BottleneckRow(out=8, expanded=None, act="relu", squeezed=8),
    BottleneckRow(out=16, expanded=32, kernel=5, stride=2, act="hard_swish", squeezed=8),
    BottleneckRow(out=16, expanded=40, act="hard_swish", squeezed=16),
    BottleneckRow(out=16, expanded=40, act="relu"),
    ConvRow(out=48, kernel=1, act="hard_swish"),
    head=ClassifierHead(classes=7, hidden=32, act="hard_swish"),
)
V4 = table(
    "like_v4",
    ConvRow(out=8, stride=2, act="relu"),
    FusedRow(out=16, expanded=24),
    UniversalRow(out=24, expanded=32, start_kernel=5, middle_kernel=3, stride=2),
    UniversalRow(out=24, expanded=48, start_kernel=3),
    UniversalRow(out=24, expanded=40, middle_kernel=5),
    UniversalRow(out=24, expanded=32),
    UniversalRow(out=32, expanded=32, start_kernel=3, stride=2),
    ConvRow(out=40, kernel=1, act="relu"),
    head=ClassifierHead(classes=7, hidden=32, act="relu"),
)
DILATED = table(
    "dilated",
    ConvRow(out=8, stride=2),
    BottleneckRow(out=16, expanded=24, stride=2),
    BottleneckRow(out=16, expanded=24, dilation=2),
    SeparableRow(out=24, dilation=3),
    ConvRow(out=16, dilation=2, act="relu"),
)
TABLES = {spec.name: spec for spec in (V1, V2, V3, V4, DILATED)}
