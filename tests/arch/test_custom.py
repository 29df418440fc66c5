"""Tables that somebody wrote by hand: what is right is taken as it stands, what is wrong is told by row and field."""

import json
from typing import Any

import pytest

from mobilenets.arch import ArchSpec, cost, find, load_spec
from mobilenets.errors import SpecError

MIXED: dict[str, Any] = {
    "name": "mixed",
    "paper": "written by hand",
    "rows": [
        {"type": "conv", "out": 12, "stride": 2, "act": "hard_swish"},
        {"type": "separable", "out": 20, "kernel": 5, "act": "relu"},
        {"type": "fused", "out": 20, "expanded": 33, "act": "gelu"},
        {"type": "bottleneck", "out": 24, "expanded": 50, "squeezed": 7, "stride": 2, "act": "hard_swish"},
        {"type": "bottleneck", "out": 24, "expanded": None, "dilation": 2},
        {"type": "attention", "out": 24, "heads": 3, "key_width": 5, "value_width": 6, "keys_stride": 2},
        {"type": "universal", "out": 30, "expanded": 40, "start_kernel": 3, "middle_kernel": 5, "layer_scale": True},
        {"type": "attention", "out": 30, "heads": 1, "layer_scale": True, "shortcut": False},
        {"type": "conv", "out": 44, "kernel": 1},
    ],
    "head": {"classes": 3, "hidden": 21, "act": "relu"},
    "norm": {"eps": 0.001, "momentum": 0.05},
    "resolution": 33,
    "padding": "same",
}


def written() -> Any:
    return json.loads(json.dumps(MIXED))


def test_a_table_written_by_hand_counts_and_comes_back_the_same(tmp_path) -> None:
    file = tmp_path / "mixed.json"
    file.write_text(json.dumps(MIXED))
    spec = load_spec(file)
    assert find(str(file)) == spec
    assert [row.out for row in spec.rows] == [row["out"] for row in MIXED["rows"]]
    assert ArchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    counted = cost(spec)
    # the first row by hand: 3x3x3x12 products at 17x17, and a norm of two numbers a channel
    assert (counted.layers[0].mult_adds, counted.layers[0].parameters) == (27 * 12 * 17 * 17, 27 * 12 + 24)
    # the first attention by hand: 9x9 queries and 5x5 keys, 3 heads of 5 and 6 channels
    assert counted.attention_mult_adds == 81 * 25 * 3 * (5 + 6) + 81 * 81 * (64 + 64)


GONE = object()


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("rows", 3, "out"), GONE, r"rows\[3\] has no out; at least out, expanded; add it to rows\[3\]"),
        (("rows", 3, "type"), GONE, r"rows\[3\] has no type; one of conv, separable, .* attention"),
        (("head",), GONE, "the architecture has no head; at least name, paper, rows, head, norm, resolution"),
        (("head", "classes"), GONE, "head has no classes"),
        (("norm", "eps"), GONE, "norm has no eps"),
        (("rows", 4, "colour"), 1, r"rows\[4\] has a field colour; only type, out, expanded, kernel, stride, dilation"),
        (("depth",), 1, "the architecture has a field depth; only name"),
        (("rows", 0, "expanded"), 8, r"rows\[0\] has a field expanded"),
        (("rows", 5, "stride"), 2, r"rows\[5\] has a field stride"),
        (("rows", 3, "out"), "24", r"rows\[3\]\.out is '24'; a whole number"),
        (("rows", 3, "out"), 24.5, r"rows\[3\]\.out is 24\.5; a whole number"),
        (("rows", 3, "out"), True, r"rows\[3\]\.out is True; a whole number"),
        (("rows", 3, "out"), None, r"rows\[3\]\.out is None; a whole number"),
        (("rows", 3, "squeezed"), "7", r"rows\[3\]\.squeezed is '7'; a whole number or null for none"),
        (("rows", 6, "layer_scale"), 1, r"rows\[6\]\.layer_scale is 1; true or false"),
        (("rows", 3, "out"), -24, r"rows\[3\]: the bottleneck row has out = -24; at least 1"),
        (("rows", 3, "squeezed"), 0, r"rows\[3\]: the bottleneck row has squeezed = 0"),
        (("rows", 2, "expanded"), -1, r"rows\[2\]: the fused row has expanded = -1"),
        (("rows", 1, "kernel"), 4, r"rows\[1\]: the separable row has kernel = 4; an odd size"),
        (("rows", 6, "start_kernel"), 2, r"rows\[6\]: the universal row has start_kernel = 2"),
        (("rows", 3, "stride"), 3, r"rows\[3\]: the bottleneck row has stride = 3; 1 or 2"),
        (("rows", 3, "dilation"), 2, r"rows\[3\]: the bottleneck row has dilation = 2; 1 where the stride is 2"),
        (("rows", 4, "dilation"), 0, r"rows\[4\]: the bottleneck row has dilation = 0"),
        (("rows", 8, "dilation"), 2, r"rows\[8\]: the conv row has dilation = 2; 1 where no kernel is wider"),
        (("rows", 7, "dilation"), 2, r"rows\[7\]: the attention row has dilation = 2; 1 where no kernel is wider"),
        (("rows", 5, "heads"), 0, r"rows\[5\]: the attention row has heads = 0; at least 1"),
        (("rows", 5, "key_width"), 0, r"rows\[5\]: the attention row has key_width = 0"),
        (("rows", 5, "keys_stride"), 4, r"rows\[5\]: the attention row has keys_stride = 4; 1 or 2"),
        (("rows", 2, "type"), "dense", r"rows\[2\]\.type is 'dense'; one of conv, separable, bottleneck"),
        (("rows", 2, "type"), 3, r"rows\[2\]\.type is 3; a text"),
        (("rows", 2, "act"), "swish", r"rows\[2\]\.act is 'swish'; one of relu, relu6, hard_swish, gelu, none"),
        (("rows", 2, "scaling"), "both", r"rows\[2\]\.scaling is 'both'; one of width, widen"),
        (("rows", 2), [1], r"rows\[2\] is \[1\]; an object with fields"),
        (("rows",), [], "mixed has rows = .*at least one row"),
        (("rows",), {}, "rows is {}; a list"),
        (("head", "classes"), 0, "head: the head has classes = 0; at least 1"),
        (("head", "act"), "swish", "head.act is 'swish'"),
        (("norm", "eps"), 0.0, "norm.*eps > 0"),
        (("resolution",), "33", "resolution is '33'; a whole number"),
        (("resolution",), 0, "resolution = 0"),
        (("padding",), "valid", "padding is 'valid'; one of symmetric, same"),
        (("name",), "../mixed", "a name that a file can have"),
    ],
)
def test_a_wrong_table_is_refused_by_row_and_field(path: tuple, value: object, says: str) -> None:
    content = written()
    place = content
    for step in path[:-1]:
        place = place[step]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(SpecError, match=says):
        ArchSpec.from_json(content)


def test_a_universal_row_without_depthwise_convolutions_cannot_stride() -> None:
    content = written()
    content["rows"][6] = {"type": "universal", "out": 30, "expanded": 40, "stride": 2}
    with pytest.raises(SpecError, match=r"rows\[6\]: the universal row has stride = 2; 1 where there is no depthwise"):
        ArchSpec.from_json(content)


@pytest.mark.parametrize("content", [[], None, "mobilenet_v2", 3])
def test_what_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(SpecError, match=r"the architecture is .*an object with fields"):
        ArchSpec.from_json(content)
