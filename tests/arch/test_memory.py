"""Memory as Table 3 of the V2 paper prints it, and its section 5 defines it."""

from __future__ import annotations

from mobilenets.arch import ArchSpec, BottleneckRow, ConvRow, find, memory
from mobilenets.arch.spec import ClassifierHead, Norm


def test_the_widest_tensors_are_those_of_table_3() -> None:
    printed = {
        "mobilenet_v1": {56: (128, 800), 28: (256, 400), 14: (512, 200), 1: (1024, 2)},
        "mobilenet_v2": {56: (32, 200), 28: (64, 100), 14: (160, 62), 1: (1280, 2)},
    }
    for name, levels in printed.items():
        ours = {level.size: level for level in memory(find(name)).levels}
        assert {size: ours[size].channels for size in levels} == {
            size: channels for size, (channels, _) in levels.items()
        }
        for size, (_, kilobytes) in levels.items():
            # "62" for 62.7: the page cuts off; "800" for 803 is a round number
            assert 0 <= ours[size].memory / 1000 - kilobytes < max(1, 0.01 * kilobytes), (name, size)
    assert [round(memory(find(name)).widest, -5) // 1000 for name in printed] == [800, 200]


def test_the_wide_tensor_inside_a_bottleneck_is_not_counted() -> None:
    narrow, wide = (
        ArchSpec(
            name="one",
            paper="none",
            rows=(ConvRow(out=8, stride=2), BottleneckRow(out=8, expanded=expanded), ConvRow(out=8, stride=2)),
            head=ClassifierHead(classes=2),
            norm=Norm(eps=1e-3, momentum=0.1),
            resolution=32,
        )
        for expanded in (16, 512)
    )
    assert memory(narrow) == memory(wide)
    assert memory(wide).peak == 2 * (3 * 32**2 + 8 * 16**2)
    assert memory(wide).peak_row == 0


def test_the_inner_tensor_of_a_separable_row_is_counted() -> None:
    needed = memory(find("mobilenet_v1"))
    # row 1: the depthwise output of 32 channels and the output of 64, both at 112x112
    assert (needed.peak, needed.peak_row) == (2 * 112**2 * (32 + 64), 1)


def test_levels_go_from_fine_to_coarse_and_the_first_two_are_streamed() -> None:
    levels = memory(find("mobilenet_v3_large")).levels
    assert [level.size for level in levels] == [224, 112, 56, 28, 14, 7, 1]
    assert [level.size for level in levels if level.streamed] == [224, 112]


def test_a_network_of_one_stride_streams_nothing_behind_it() -> None:
    levels = memory(find("mobilenet_v2_0.5_32_s4")).levels
    assert [level.size for level in levels if not level.streamed] == [8, 1]
