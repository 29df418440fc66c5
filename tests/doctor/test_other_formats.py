"""LiteRT files as converters write them, judged by the rules for all formats."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bundle import Bundle
from mobilenets.doctor import Finding, doctor
from mobilenets.doctor.graph import short
from mobilenets.errors import FileFormatError, UsageError
from mobilenets.export import FORMATS
from mobilenets.runtime import is_installed

pytestmark = pytest.mark.skipif(not is_installed("litert"), reason="litert is not installed")


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """tests/weights/tflite_writer.py; test folders are not packages, so it is loaded by its path."""
    path = Path(__file__).parents[1] / "weights" / "tflite_writer.py"
    spec = importlib.util.spec_from_file_location("doctored_tflite_writer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return settled_bundle(compose("mobilenet_v3_small", alpha=0.25, resolution=32, stride="small", classes=5))


def found(path: Path, content: bytes) -> dict[str, Finding]:
    path.write_bytes(content)
    return {finding.problem: finding for finding in doctor(path).findings if finding.problem != "labels missing"}


def test_a_native_file_has_no_faults(writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    style = writer.Style(hard_swish="native", gate="folded", softmax=False)
    assert found(tmp_path / "m.tflite", writer.write(bundle, style)) == {}


@pytest.mark.parametrize("hard_swish", ["slim", "toco", "keras"])
def test_hard_swish_in_pieces_is_found(hard_swish: str, writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    content = writer.write(bundle, writer.Style(hard_swish=hard_swish))
    assert "hard-swish" in found(tmp_path / "m.tflite", content)["activation in pieces"].evidence


def test_labels_in_the_metadata_are_seen(writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    for labels in (None, ("a", "b", "c", "d", "e")):
        (tmp_path / "m.tflite").write_bytes(writer.write(bundle, writer.Style(labels=labels)))
        missing = any(finding.problem == "labels missing" for finding in doctor(tmp_path / "m.tflite").findings)
        assert missing == (labels is None)


def test_long_names_are_cut_in_sentences_and_whole_in_the_record() -> None:
    assert short("a/b;c/d") == "a/b"
    assert short("x" * 80) == "..." + "x" * 60
    assert short("rows.3.depthwise") == "rows.3.depthwise"


@pytest.mark.parametrize("base", ["mobilenet_v2", "mobilenet_v3_small"])
def test_an_int8_file_of_ours_has_no_findings(base: str, tmp_path: Path) -> None:
    bundle = settled_bundle(compose(base, alpha=0.25, resolution=32, stride="small", classes=5))
    assert found(tmp_path / "m.tflite", FORMATS["tflite", "int8"](bundle, patches(8, 32))["model.tflite"]) == {}


def test_softmax_is_told(writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    assert "softmax inside" in found(tmp_path / "m.tflite", writer.write(bundle, writer.Style(softmax=True)))


def test_norms_that_were_left_are_found(writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    assert "norms not folded" in found(tmp_path / "m.tflite", writer.write(bundle, writer.Style(norms="left")))


def test_planes_are_found(writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    content = writer.write(bundle, writer.Style(layout="channels_first"))
    assert "planes in a format of pixels" in found(tmp_path / "m.tflite", content)


@pytest.mark.parametrize("numbers", ["uint8", "int8"])
def test_made_up_ranges_are_found(numbers: str, writer: ModuleType, bundle: Bundle, tmp_path: Path) -> None:
    findings = found(tmp_path / "m.tflite", writer.write(bundle, writer.Style(numbers=numbers)))
    assert "float weights" not in findings
    assert "activations have the scale" in findings["uncalibrated ranges"].evidence


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    for name, content in {"torn.tflite": b"\x00\x00\x00\x00TFL3" + b"\xff" * 40, "not.tflite": b"hello there"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileFormatError):
            doctor(tmp_path / name)
    (tmp_path / "a.onnx").write_bytes(b"\xff\xfe\x00 no protobuf")
    with pytest.raises(FileFormatError, match="cannot be read"):
        doctor(tmp_path / "a.onnx")
    (tmp_path / "a.pt").write_bytes(b"")
    with pytest.raises(UsageError):
        doctor(tmp_path / "a.pt")
    with pytest.raises(FileFormatError, match="there is nothing"):
        doctor(tmp_path / "gone.onnx")
