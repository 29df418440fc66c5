"""Heads of detection and segmentation, against what torchvision builds and the papers print."""

from __future__ import annotations

import msgspec
import pytest

from mobilenets.arch import (
    ASPPHead,
    LRASPPHead,
    RASPPHead,
    SSDHead,
    SSDLiteHead,
    TaskNetwork,
    TaskTap,
    cost,
    find,
    task_cost,
)
from mobilenets.arch.heads import Head
from mobilenets.arch.published_networks import task_networks
from mobilenets.errors import SpecError

HEADS: tuple[tuple[Head, tuple[int, ...]], ...] = (
    (SSDHead(classes=21), (512, 1024)),
    (SSDLiteHead(classes=91), (672, 480)),
    (ASPPHead(classes=21), (960,)),
    (RASPPHead(classes=19), (320,)),
    (LRASPPHead(classes=19), (120, 480)),
)


def _name(case: object) -> str:
    return type(case).__name__ if isinstance(case, msgspec.Struct) else str(case)


@pytest.mark.parametrize(
    ("name", "group", "builder", "weights"),
    [
        ("ssdlite320_mobilenet_v3_large", "detection", {"weights_backbone": None}, "SSDLite320_MobileNet_V3_Large"),
        ("lraspp_mobilenet_v3_large", "segmentation", {"weights_backbone": None}, "LRASPP_MobileNet_V3_Large"),
        ("deeplabv3_mobilenet_v3_large", "segmentation", {"weights_backbone": None, "aux_loss": False}, None),
    ],
)
def test_torchvision_builds_exactly_our_parameters(
    name: str, group: str, builder: dict[str, object], weights: str | None
) -> None:
    models = getattr(pytest.importorskip("torchvision").models, group)
    network = getattr(models, name)(weights=None, **builder)
    counted = task_cost(task_networks()[f"torchvision_{name}"])
    assert counted.parameters == sum(tensor.numel() for tensor in network.parameters())
    statistics = [tensor.numel() for key, tensor in network.named_buffers() if "running" in key]
    assert counted.norm_statistics == sum(statistics)
    if weights is not None:  # it prints mult-adds under the name of GFLOPS, to three digits
        printed = getattr(models, f"{weights}_Weights").DEFAULT.meta["_ops"]
        assert round(counted.mult_adds / 1e9, 3) == printed


@pytest.mark.parametrize(("head", "channels"), HEADS, ids=_name)
def test_layers_follow_each_other(head: Head, channels: tuple[int, ...]) -> None:
    """Every layer that reads a map finds the channels that the map, or the layer before, has."""
    for entry in head.layers(channels):
        layer = entry.layer
        assert layer.in_channels % layer.groups == 0
        assert layer.norm != layer.bias or not layer.norm  # a norm makes the bias needless
        if entry.level < len(channels) and layer.name in ("branch", "boxes_depthwise", "classes_fine"):
            assert layer.in_channels == channels[entry.level]


def test_ssdlite_is_ssd_with_depthwise_separable_convolutions() -> None:
    full, lite = SSDHead(classes=81).layers((576, 1280)), SSDLiteHead(classes=81).layers((576, 1280))
    outputs = [[e.layer.out_channels for e in layers if e.layer.bias] for layers in (full, lite)]
    assert outputs[0] == outputs[1]
    assert not [e for e in lite if e.layer.kind == "conv"]
    assert not [e for e in full if e.layer.kind == "depthwise"]
    # V2 section 6.2: "dramatically reduces both parameter count and computational cost"; Table 5: 14.8 to 2.1 M
    assert sum(e.layer.parameters for e in lite) * 6 < sum(e.layer.parameters for e in full)


def test_predictors_give_four_numbers_and_all_classes_for_every_anchor() -> None:
    predictors = [e for e in SSDLiteHead(classes=91).layers((672, 480)) if e.layer.bias]
    assert [e.level for e in predictors] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [e.layer.out_channels for e in predictors[:4]] == [3 * 4, 3 * 91, 6 * 4, 6 * 91]
    assert [e.layer.in_channels for e in predictors[::2]] == [672, 480, 512, 256, 256, 128]


def test_lite_raspp_classifies_the_fine_map() -> None:
    layers = LRASPPHead(classes=19, filters=128).layers((120, 480))
    on_fine = [e.layer for e in layers if e.level == 0]
    assert [layer.in_channels for layer in on_fine] == [128, 120]
    assert all(layer.out_channels == 19 and layer.bias for layer in on_fine)


@pytest.mark.parametrize(("head", "channels"), HEADS, ids=_name)
def test_a_head_comes_back_from_json(head: Head, channels: tuple[int, ...]) -> None:
    again = msgspec.json.decode(msgspec.json.encode(head), type=Head)
    assert again == head
    assert again.layers(channels) == head.layers(channels)


@pytest.mark.parametrize(
    ("head", "channels", "word"),
    [
        (SSDLiteHead(classes=81, anchors=(3, 6)), (576, 1280), "6 maps and 2 numbers of anchors"),
        (RASPPHead(classes=19), (120, 480), "reads 2 maps"),
        (LRASPPHead(classes=19), (480,), "reads 1 maps"),
        (ASPPHead(classes=19), (), "reads 0 maps"),
    ],
    ids=_name,
)
def test_a_head_says_what_maps_it_wants(head: Head, channels: tuple[int, ...], word: str) -> None:
    with pytest.raises(SpecError, match=word):
        head.layers(channels)


@pytest.mark.parametrize("kind", [SSDHead, SSDLiteHead, ASPPHead, RASPPHead, LRASPPHead])
def test_a_head_without_classes_is_refused(kind: type) -> None:
    with pytest.raises(SpecError, match="classes = 0"):
        kind(classes=0)


def test_rows_on_a_square_image_count_as_cost_counts_them() -> None:
    """The head is one classifier of the last map; all else must be `cost`'s number."""
    for name in ("mobilenet_v1", "mobilenet_v3_small", "mobilenet_v4_hybrid_medium"):
        spec = find(name)
        network = TaskNetwork(
            name=name,
            rows=spec,
            taps=(TaskTap(row=len(spec.rows) - 1),),
            head=RASPPHead(classes=1, filters=1),
            height=spec.resolution,
            width=spec.resolution,
        )
        counted, whole = task_cost(network), cost(spec)
        of_rows = [entry for entry in whole.layers if entry.row < len(spec.rows)]
        assert counted.mult_adds - counted.head_mult_adds == sum(entry.mult_adds for entry in of_rows)
        assert counted.parameters - counted.head_parameters == sum(entry.parameters for entry in of_rows)


def test_twice_as_wide_an_image_costs_twice_as_much() -> None:
    network = task_networks()["v3_table_7_5"]  # no layer but the pooled ones sees the whole map
    small = task_cost(msgspec.structs.replace(network, height=512, width=512))
    wide = task_cost(msgspec.structs.replace(network, height=512, width=1024))
    once = sum(  # squeeze-and-excite, and the pooled branch of the head
        layer.weights
        for index, row in enumerate(network.rows.rows)
        for layer in row.layers(3 if index == 0 else network.rows.rows[index - 1].out)
        if layer.on == "vector"
    ) + sum(e.layer.weights for e in network.head.layers((960,)) if e.layer.on == "vector")
    assert wide.mult_adds - once == 2 * (small.mult_adds - once)
    assert wide.parameters == small.parameters


@pytest.mark.parametrize("tap", [TaskTap(row=99), TaskTap(row=0, at="expansion")])
def test_a_tap_where_nothing_is_is_refused(tap: TaskTap) -> None:
    network = msgspec.structs.replace(task_networks()["v3_table_7_1"], taps=(tap,))
    with pytest.raises(SpecError, match="reads the map"):
        task_cost(network)
