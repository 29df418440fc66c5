from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mobilenets.arch import CATALOG, VARIANTS, cost, facts, find
from mobilenets.bundle import read_bundle

Run = Callable[..., tuple[int, str, str]]

EXACT = [  # a number of the whole network that `info` tells, to its last digit
    fact
    for fact in facts()
    if fact.exact and fact.erratum is None and fact.metric in ("parameters", "norm_statistics") and not fact.part
]
KEYS = [
    "kind",
    "name",
    "paper",
    "parameters",
    "norm_statistics",
    "mult_adds",
    "size_mb",
    "peak_activation_mb",
    "resolution",
    "channels",
    "classes",
    "rows",
    "digest",
]


def test_models_lists_the_whole_catalogue(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    assert all(name in out for name in CATALOG)


def test_models_as_json_counts_each_network_and_every_example_resolves(run: Run) -> None:
    entries = json.loads(run("models", "--json")[1])
    assert [entry["name"] for entry in entries] == list(CATALOG)
    for entry in entries:
        counted = cost(find(entry["name"]))
        assert (entry["parameters"], entry["mult_adds"]) == (counted.parameters, counted.mult_adds)
        assert all(find(example).name for example in entry["examples"])


@pytest.mark.parametrize("model", sorted({fact.model for fact in EXACT} & {*CATALOG, *VARIANTS}))
def test_info_prints_the_published_exact_counts(model: str, run: Run) -> None:
    content = json.loads(run("info", model, "--json")[1])
    assert {fact.metric: content[fact.metric] for fact in EXACT if fact.model == model} == {
        fact.metric: fact.value for fact in EXACT if fact.model == model
    }


def test_the_json_of_a_table_has_these_keys_in_this_order(run: Run) -> None:
    assert list(json.loads(run("info", "mobilenet_v2", "--json")[1])) == KEYS


def test_a_table_written_with_spec_is_read_back_as_the_same_network(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text(run("info", "mobilenet_v3_large_0.75_192", "--spec")[1])
    assert json.loads(run("info", path, "--json")[1]) == json.loads(
        run("info", "mobilenet_v3_large_0.75_192", "--json")[1]
    )
    assert run("info", path, "--spec")[1] == path.read_text()


def test_types_of_layers_share_as_in_table_2_of_the_v1_paper(run: Run) -> None:
    by_type = json.loads(run("info", "mobilenet_v1", "--by-type", "--json")[1])["by_type"]
    # MobileNetV1, Table 2: 1x1 convolutions 94.86 % of mult-adds and 74.59 % of parameters; depthwise 3.06 %.
    assert round(100 * by_type["pointwise"]["mult_adds_share"], 2) == 94.86
    assert round(100 * by_type["depthwise"]["mult_adds_share"], 2) == 3.06
    assert by_type["pointwise"]["parameters_share"] == pytest.approx(0.7459, abs=0.002)
    assert sum(total["parameters_share"] for total in by_type.values()) == pytest.approx(1)


def test_memory_is_that_of_table_3_of_the_v2_paper(run: Run) -> None:
    needed = json.loads(run("info", "mobilenet_v2", "--memory", "--json")[1])["memory"]
    widest = {level["size"]: level["channels"] for level in needed["levels"] if not level["streamed"]}
    assert widest == {56: 32, 28: 64, 14: 160, 7: 320, 1: 1280}
    assert needed["widest_kb"] == pytest.approx(200, rel=0.01)  # "200K"
    assert needed["peak_kb"] == 2 * 112 * 112 * (32 + 16) / 1e3  # the first bottleneck; its inner tensor does not count
    lines = run("info", "mobilenet_v2", "--memory")[1].splitlines()
    assert "14x14                 160  62.7 Kb" in lines  # the paper cuts off: 160/62
    assert any(line.startswith("peak") and "row 1" in line for line in lines)


def test_layers_add_up_to_the_network(run: Run) -> None:
    content = json.loads(run("info", "mobilenet_v3_small", "--per-layer", "--json")[1])
    for metric in ("parameters", "mult_adds"):
        assert sum(layer[metric] for layer in content["layers"]) == content[metric]
    assert [layer["layer"] for layer in content["layers"] if layer["row"] is None] == ["hidden", "classifier"]


def test_the_tables_for_people_show_layers_and_types(run: Run) -> None:
    _, out, _ = run("info", "mobilenet_v1", "--per-layer", "--by-type")
    lines = out.splitlines()
    assert any(line.split()[:4] == ["13", "project", "pointwise", "7x7x1024"] for line in lines)
    assert any(line.split()[:2] == ["head", "classifier"] for line in lines)
    assert any(line.startswith("pointwise") and "94.86 %" in line for line in lines)


def test_another_number_of_classes_is_counted(run: Run) -> None:
    content = json.loads(run("info", "mobilenet_v2", "--classes", "10", "--json")[1])
    assert content["classes"] == 10
    assert content["parameters"] == cost(find("mobilenet_v2")).parameters - 990 * 1281


def test_a_bundle_tells_its_labels_preprocessing_and_history(trained: Path, run: Run) -> None:
    content = json.loads(run("info", trained / "best", "--json")[1])
    bundle = read_bundle(trained / "best")
    assert content["kind"] == "bundle"
    assert content["bundle_digest"] == bundle.digest
    assert content["labels"] == ["blue", "green", "red"]
    assert content["preprocess"]["resolution"] == 16
    assert content["history"][0]["step"] == "train"
    assert content["parameters"] == cost(bundle.spec).parameters
    assert "validation top-1" in run("info", trained / "best" / "bundle.json")[1]


def test_an_artifact_tells_its_gates_and_its_file(artifact: Path, run: Run) -> None:
    content = json.loads(run("info", artifact, "--json")[1])
    assert content["kind"] == "artifact"
    assert content["file"] == "model.onnx"
    assert content["labels"] == ["blue", "green", "red"]
    assert all(gate["passed"] for gate in content["gates"])
    _, out, _ = run("info", artifact / "artifact.json")
    assert out.count("passed") == len(content["gates"])


def test_an_artifact_knows_its_table_and_one_of_before_says_who_does(artifact: Path, run: Run, tmp_path: Path) -> None:
    assert "depthwise" in run("info", artifact, "--per-layer")[1]
    older = shutil.copytree(artifact, tmp_path / "older")
    record = json.loads((older / "artifact.json").read_text())
    del record["table"]
    (older / "artifact.json").write_text(json.dumps(record))
    code, _, err = run("info", older, "--per-layer")
    assert code == 2
    assert "ask the same of the bundle" in err


def test_classes_of_a_trained_model_cannot_be_changed_here(trained: Path, run: Run) -> None:
    assert run("info", trained / "best", "--classes", "5")[0] == 2


def test_a_table_with_a_mistake_is_refused_by_row_and_field(tiny_run: ModuleType, run: Run, tmp_path: Path) -> None:
    path = tiny_run.write_spec(tmp_path / "my.json")
    path.write_text(path.read_text().replace('"kernel": 3', '"kernel": 4', 1))
    code, _, err = run("info", path)
    assert code == 2
    assert "rows[0]" in err
    assert "kernel = 4" in err


@pytest.mark.parametrize("what", ["empty", "absent.json", "absent.onnx"])
def test_what_is_no_model_is_refused(what: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, out, err = run("info", tmp_path / what)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
