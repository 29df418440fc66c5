"""A table written by hand goes the whole way of a catalogue row: counted, built, trained, exported, asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobilenets.arch import cost, load_spec
from mobilenets.nets import build, features

Run = Callable[..., tuple[int, str, str]]

# Every type of row, and what no catalogue row has: odd widths, mixed activations, a dilated and a scaled row.
ROWS = [
    {"type": "conv", "out": 11, "stride": 2, "act": "hard_swish"},
    {"type": "separable", "out": 13, "kernel": 5, "act": "relu"},
    {"type": "fused", "out": 13, "expanded": 21, "act": "gelu"},
    {"type": "bottleneck", "out": 14, "expanded": 30, "squeezed": 5, "dilation": 2, "act": "hard_swish"},
    {"type": "bottleneck", "out": 18, "expanded": None, "stride": 2},
    {"type": "attention", "out": 18, "heads": 3, "key_width": 5, "value_width": 6, "keys_stride": 2},
    {"type": "universal", "out": 18, "expanded": 40, "start_kernel": 3, "middle_kernel": 5, "layer_scale": True},
    {"type": "attention", "out": 20, "heads": 2, "key_width": 8, "value_width": 8, "layer_scale": True},
    {"type": "conv", "out": 24, "kernel": 1, "act": "relu"},
]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content = {
        "name": "mine",
        "paper": "none",
        "rows": ROWS,
        "head": {"classes": 3, "hidden": 17, "hidden_norm": True, "act": "relu"},
        "norm": {"eps": 0.001, "momentum": 0.1},
        "resolution": 16,
    }
    path = tmp_path / "my.json"
    path.write_text(json.dumps(content))
    return path


def test_a_hand_written_table_is_counted_trained_exported_and_asked(table: Path, colours: Path, run: Run) -> None:
    spec = load_spec(table)
    code, out, _ = run("info", table.name, "--by-type", "--per-layer", "--json")
    told = json.loads(out)
    assert code == 0
    with torch.device("meta"):
        network = build(spec)
    assert told["parameters"] == cost(spec).parameters == sum(p.numel() for p in network.parameters())
    assert told["by_type"]["attention"]["mult_adds"] == cost(spec).attention_mult_adds > 0

    code, out, err = run("train", table.name, colours, "--epochs", "2", "--batch-size", "16", "-o", "out", "--json")
    assert code == 0, err
    assert json.loads(out)["finished"]
    code, out, err = run("export", "out/best", "--data", colours, "-o", "exported")  # the parity gate is part of it
    assert code == 0, err
    code, out, err = run("predict", "exported", next(colours.rglob("*.png")))
    assert code == 0, err
    assert any(label in out for label in ("blue", "green", "red"))


def test_a_hand_written_table_gives_features(table: Path) -> None:
    network = features(load_spec(table), strides=(2, 4)).eval()
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, 19, 16))
    assert {stride: tuple(map.shape) for stride, map in maps.items()} == {2: (1, 14, 10, 8), 4: (1, 24, 5, 4)}


@pytest.mark.parametrize("verb", ["info", "train"])
def test_a_wrong_table_ends_a_command_with_2_and_names_row_and_field(
    verb: str, table: Path, colours: Path, run: Run
) -> None:
    content = json.loads(table.read_text())
    content["rows"][4]["kernel"] = 4
    table.write_text(json.dumps(content))
    code, _, err = run(verb, table.name, *([colours] if verb == "train" else []))
    assert code == 2
    assert "rows[4]: the bottleneck row has kernel = 4" in err
