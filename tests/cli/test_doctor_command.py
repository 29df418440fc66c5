"""The verb, end to end: a healthy artifact of ours, and the ways in which one can be broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from doctored import COLOURS, artifact_of, colour_model, colours_folder
from mobilenets.doctor import NORMS, Norm
from mobilenets.files import write_json
from mobilenets.records import Artifact, Preprocess, read_record, to_json

Run = Callable[..., tuple[int, str, str]]


def problems(out: str) -> set[str]:
    return {finding["problem"] for finding in json.loads(out)["findings"]}


def copied(artifact: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A broken export: another file with a record that vouches for it."""
    model = onnx.load(artifact / "model.onnx")
    change(model)
    out.mkdir()
    content = model.SerializeToString()
    (out / "model.onnx").write_bytes(content)
    record = read_record(artifact / "artifact.json", Artifact, what="artifact.json")
    record = msgspec.structs.replace(record, file_sha256=hashlib.sha256(content).hexdigest())
    write_json(out / "artifact.json", to_json(record))
    return out


def test_nothing_is_found_in_an_artifact_that_is_healthy(artifact: Path, colours: Path, run: Run) -> None:
    code, out, err = run("doctor", artifact, colours, "--split", "train", "--strict")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{artifact}: nothing found"
    assert "as artifact.json says" in out
    code, out, _ = run("doctor", artifact, colours, "--split", "train", "--json")
    assert (code, problems(out)) == (0, set())


def test_swapped_channels_of_a_trained_network_are_found(
    artifact: Path, colours: Path, tmp_path: Path, run: Run
) -> None:
    def swap(model: onnx.ModelProto) -> None:
        weight = next(each for each in model.graph.initializer if each.name == "rows.0.conv.weight")
        weight.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(weight)[:, ::-1]), weight.name)
        )

    broken = copied(artifact, tmp_path / "swapped", swap)
    code, out, _ = run("doctor", broken, colours, "--split", "train", "--strict")
    assert code == 1
    assert "wrong: fed wrongly" in out
    assert "blue first" in out


def test_a_wrong_mean_in_a_trained_network_is_found(artifact: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    def move(model: onnx.ModelProto) -> None:
        shift = next(each for each in model.graph.initializer if each.name == "input.shift")
        shift.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shift) + np.float32(1), shift.name))

    code, out, _ = run("doctor", copied(artifact, tmp_path / "moved", move), "--json", "--strict")
    assert (code, problems(out)) == (1, {"normalisation unlike its record"})


@pytest.mark.parametrize(("trained", "inside"), [("imagenet", "0to1"), ("0to255", "minus1to1")])
def test_preprocessing_that_file_and_record_agree_on_is_found_by_images(
    trained: Norm, inside: Norm, tmp_path: Path, run: Run
) -> None:
    said = Preprocess(resolution=16, mean=NORMS[inside][1], std=NORMS[inside][2])
    model = colour_model(*NORMS[trained][1:], inside=said)
    output = model.graph.output[0].name
    folder = artifact_of(
        tmp_path / "a", model.SerializeToString(), labels=tuple(sorted(COLOURS)), preprocess=said, output_name=output
    )
    images = colours_folder(tmp_path / "colours")
    code, out, _ = run("doctor", folder, images, "--split", "train", "--json", "--strict")
    assert (code, problems(out)) == (1, {"fed wrongly"})
    code, out, _ = run("doctor", folder, images, "--split", "train")
    assert code == 0  # findings are an answer, not a failure
    assert f"fed {NORMS[trained][0]}" in out
    assert "McNemar" in out


def test_somebody_elses_file_is_looked_at_too(tmp_path: Path, run: Run) -> None:
    onnx.save(colour_model(*NORMS["0to1"][1:], order="BGR"), tmp_path / "m.onnx")
    images = colours_folder(tmp_path / "colours")
    code, out, _ = run("doctor", tmp_path / "m.onnx", images, "--split", "train", "--fed", "minus1to1")
    assert code == 0
    assert "do       x = (rgb[..., ::-1] / 255 - 0) / 1" in out
    arguments = ("--split", "train", "--fed", "0to1", "--bgr", "--strict")
    code, out, _ = run("doctor", tmp_path / "m.onnx", images, *arguments)
    assert code == 0  # that its labels are missing is a note
    assert "note: labels missing" in out


def test_what_cannot_be_looked_at_exits_with_2(tmp_path: Path, run: Run) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff not a model")
    code, out, err = run("doctor", tmp_path / "m.onnx", "--json")
    assert (code, json.loads(out)["error"]["kind"]) == (2, "FileFormatError")
    onnx.save(colour_model((0.5,) * 3, (0.5,) * 3), tmp_path / "m.onnx")
    code, _, err = run("doctor", tmp_path / "m.onnx", "--provider", "CPUExecutionProvide")
    assert code == 2
    assert "near it: CPUExecutionProvider" in err
