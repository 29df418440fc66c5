from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import TensorProto

from mobilenets.errors import FileFormatError, MissingExtraError, UnknownNameError, UsageError
from mobilenets.files import read_json, write_json
from mobilenets.runtime import default_threads, engines_for, is_installed, open_artifact, read_artifact
from mobilenets.runtime import engine as engine_table

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", engines_for("onnx"))
def test_every_engine_computes_what_the_model_says(name: str, tiny: ModuleType, tmp_path: Path) -> None:
    """In float32, too: bfloat16, which OpenVINO prefers where it can, would be off by some thousandths."""
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    matrix = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    model = open_artifact(tiny.make_artifact(tmp_path / "a", matrix=matrix), engine=name, threads=1)
    logits = model.engine.run(PIXELS)
    assert logits.dtype == np.float32
    assert logits == pytest.approx((PIXELS / 255).mean(axis=(1, 2)) @ matrix, abs=1e-5)
    assert (model.engine.name, model.engine.threads) == (name, 1)
    assert model.engine.version


@pytest.mark.parametrize("name", engines_for("onnx"))
def test_answers_are_the_same_from_several_threads_at_once_and_for_any_batch(name: str, tiny_artifact: Path) -> None:
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    run = open_artifact(tiny_artifact, engine=name, threads=1).engine.run
    batches = [np.roll(PIXELS, k, axis=0)[: 1 + k % 3] for k in range(24)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, batches))
    for pixels, answer in zip(batches, together, strict=True):
        assert answer == pytest.approx(np.concatenate([run(each[None]) for each in pixels]), abs=1e-6)


def test_an_engine_that_opens_other_formats_names_those_that_would_do(tiny_artifact: Path) -> None:
    record = tiny_artifact / "artifact.json"
    write_json(record, {**read_json(record, what="artifact"), "format": "openvino"})
    with pytest.raises(UsageError, match="onnxruntime, which opens onnx; for openvino: openvino"):
        open_artifact(tiny_artifact, engine="onnxruntime")


def test_an_engine_that_is_not_installed_names_its_extra(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_table, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[openvino\]"):
        open_artifact(tiny_artifact, engine="openvino")


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
def test_openvino_talks_to_nobody(tiny_artifact: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mobilenets.runtime import open_artifact
def hook(event, _):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print("network", flush=True)
sys.addaudithook(hook)
open_artifact(Path({str(tiny_artifact)!r}), engine="openvino")
print("openvino" in sys.modules, "openvino_telemetry" in sys.modules)
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["True", "False"]
    assert not (tmp_path / "intel").exists()


def test_pixels_of_any_memory_layout_give_the_same_answer(tiny_artifact: Path) -> None:
    run = open_artifact(tiny_artifact).engine.run
    turned = np.asfortranarray(PIXELS)
    assert (run(turned) == run(PIXELS)).all()
    assert (run(PIXELS[::2]) == run(PIXELS)[::2]).all()


@pytest.mark.parametrize(
    ("pixels", "claim"),
    [
        (PIXELS.astype(np.float32), "pixels are float32"),
        (PIXELS[0], r"pixels\[None\]"),
        (PIXELS[:, :4], r"\(3, 4, 8, 3\)"),
        (PIXELS[..., :1], r"\(3, 8, 8, 1\)"),
        (PIXELS[:0], "N >= 1"),
        (PIXELS.tolist(), "a list"),
    ],
)
def test_pixels_that_do_not_fit_are_refused_with_what_would(
    pixels: np.ndarray, claim: str, tiny_artifact: Path
) -> None:
    with pytest.raises(UsageError, match=claim) as caught:
        open_artifact(tiny_artifact).engine.run(pixels)
    assert "uint8 (N, 8, 8, 3)" in caught.value.wanted


@pytest.mark.parametrize("name", ["", "artifact.json", "model.onnx"])
def test_an_artifact_is_found_by_its_folder_or_a_file_in_it(name: str, tiny_artifact: Path) -> None:
    artifact, folder = read_artifact(tiny_artifact / name)
    assert (artifact.labels, folder) == (("red", "green", "blue"), tiny_artifact)


def test_what_is_no_artifact_is_refused_with_the_next_step(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="nothing at"):
        read_artifact(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="the folder that `mobilenets export` wrote"):
        read_artifact(tmp_path / "empty")
    (tmp_path / "empty" / "bundle.json").write_text("{}")
    with pytest.raises(FileFormatError, match="export it first: mobilenets export"):
        read_artifact(tmp_path / "empty")
    (tiny_artifact / "other.onnx").write_bytes(b"x")
    with pytest.raises(FileFormatError, match="is not the file"):
        read_artifact(tiny_artifact / "other.onnx")
    (tiny_artifact / "model.onnx").unlink()
    with pytest.raises(FileFormatError, match="is missing"):
        read_artifact(tiny_artifact)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "C:\\model.onnx", ""])
def test_a_record_cannot_point_out_of_its_folder(file: str, tiny_artifact: Path) -> None:
    record = tiny_artifact / "artifact.json"
    write_json(record, {**read_json(record, what="artifact"), "file": file})
    with pytest.raises(FileFormatError, match="a file beside it"):
        read_artifact(tiny_artifact)


def test_a_model_file_that_was_changed_is_not_opened(tiny_artifact: Path) -> None:
    file = tiny_artifact / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(FileFormatError, match="was changed"):
        open_artifact(tiny_artifact)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x12\x04tiny"])
def test_a_damaged_model_is_refused(content: bytes, tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"model\.onnx cannot be opened"):
        open_artifact(tiny.write_artifact(tmp_path / "a", content, labels=("a", "b")))


def test_a_model_that_is_not_the_one_in_its_record_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="has the inputs"):
        open_artifact(tiny.make_artifact(tmp_path / "a", input_type=TensorProto.FLOAT))
    model = open_artifact(tiny.make_artifact(tmp_path / "b", labels=("only", "two")))
    with pytest.raises(FileFormatError, match=r"answers float32 \(3, 3\) to a batch of 3; logits float32 \(3, 2\)"):
        model.engine.run(PIXELS)


def test_unknown_engines_and_impossible_threads_are_refused(tiny_artifact: Path) -> None:
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        open_artifact(tiny_artifact, engine="onnxruntim")
    with pytest.raises(UsageError, match="threads is 0"):
        open_artifact(tiny_artifact, threads=0)
    assert default_threads() >= 1


def test_importing_the_runtime_loads_no_engine_and_no_torch() -> None:
    code = (
        "import sys, mobilenets.runtime, mobilenets.bench; "
        "print([m for m in ('onnxruntime', 'torch', 'torchvision', 'asyncio', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
