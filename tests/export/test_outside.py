from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from making import needs, patches, settled_bundle
from mobilenets.arch import CATALOG, compose
from mobilenets.bundle import Bundle
from mobilenets.errors import CheckError, MissingExtraError, UsageError
from mobilenets.export import FORMATS, GateImages, Limits, export, maker_of, outside
from mobilenets.export.outside import (
    CONVERTER_VARIABLE,
    answers_outside,
    to_coreml,
    to_executorch,
    to_executorch_int8,
)
from mobilenets.runtime import is_installed, open_artifact


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds, and what is tested here comes after it."""
    monkeypatch.setattr(outside, "to_program", lambda *_, **__: None)
    monkeypatch.setattr(outside.torch.export, "save", lambda _, file: file.write(b"program"))


def _python(folder: Path, code: str) -> Path:
    """An interpreter of another environment, as far as anybody can tell."""
    path = folder / "python"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nflag, script, *arguments = sys.argv[1:]\n{code}"
    )
    path.chmod(0o755)
    return path


def test_the_other_environment_gets_the_program_and_the_facts_and_gives_the_file(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
what, given, told, made = arguments
assert (flag, what) == ("-P", "lower")
Path(made).write_bytes(Path(given).read_bytes() + Path(told).read_bytes())
"""
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, code)))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    assert to_executorch(bundle, facts={"task": "classify"}) == {"model.pte": b'program{"task": "classify"}'}


def test_a_package_is_a_folder_of_files_and_the_precision_is_passed_on(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
what, given, told, made, precision = arguments
Path(made, "Data").mkdir(parents=True)
Path(made, "Data", "weights").write_text(precision)
Path(made, "Manifest").write_text("{}")
"""
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, code)))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    files = to_coreml(bundle, facts={}, precision="fp16")
    assert list(files.items()) == [("model.mlpackage/Manifest", b"{}"), ("model.mlpackage/Data/weights", b"fp16")]


INT8_CODE = """
import json
import numpy as np
what, given, told, made, seen, held, trials, agreement, share = arguments
sent = {"what": what, "seen": np.load(seen).shape, "held": np.load(held).shape, "agreement": agreement}
Path(made).write_text(json.dumps(sent))
Path(trials).write_text('["minmax: noise 0.10 %"]')
"""


def test_int8_is_asked_for_with_images_that_calibrate_others_that_judge_and_the_gates_own_bound(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, INT8_CODE)))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    files = to_executorch_int8(bundle, facts={}, images=patches(40, 32))
    assert json.loads(files["model.pte"]) == {
        "what": "quantize",
        "seen": [30, 32, 32, 3],
        "held": [10, 32, 32, 3],
        "agreement": str(Limits.of("int8").agreement),
    }
    assert "int8, minmax: noise 0.10 %" in capsys.readouterr().err


def test_of_few_images_all_calibrate_and_none_judge(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, INT8_CODE)))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    sent = json.loads(FORMATS["executorch", "int8"](bundle, patches(8, 32))["model.pte"])
    assert (sent["seen"], sent["held"]) == ([8, 32, 32, 3], [0, 32, 32, 3])


@pytest.mark.parametrize("images", [None, np.zeros((0, 32, 32, 3), np.uint8)])
def test_int8_without_images_is_refused_before_anything_is_traced(
    images: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "to_program", lambda *_, **__: pytest.fail("traced"))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    with pytest.raises(UsageError, match="int8 without calibration images"):
        FORMATS["executorch", "int8"](bundle, images)


def test_core_ml_is_asked_for_bytes_by_the_name_of_the_precision(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, "Path(arguments[3]).write_text(arguments[4])")))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    assert FORMATS["coreml", "int8-weights"](bundle, None) == {"model.mlpackage": b"int8-weights"}


def test_int8_activations_of_core_ml_are_said_to_need_a_mac() -> None:
    with pytest.raises(UsageError, match=r"coreml in int8.*a Mac.*export as int8-weights"):
        maker_of("coreml", "int8")


def test_what_the_converter_says_last_is_told(program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONVERTER_VARIABLE, str(_python(tmp_path, "sys.exit('no such operator: tan')")))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    with pytest.raises(CheckError, match=r"lower by .*python failed: no such operator: tan"):
        to_executorch(bundle, facts={})


def test_an_environment_that_is_not_there_is_named_with_its_variable(
    program: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CONVERTER_VARIABLE, str(tmp_path / "absent"))
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    with pytest.raises(CheckError, match=f"{CONVERTER_VARIABLE} is .*absent, which cannot be run"):
        to_executorch(bundle, facts={})


def test_without_a_converter_the_extra_is_named(program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONVERTER_VARIABLE, raising=False)
    monkeypatch.setattr(outside, "find_spec", lambda _: None)
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3))
    with pytest.raises(MissingExtraError, match=r"mobilenets\[executorch\]"):
        to_executorch(bundle, facts={})


@pytest.mark.slow
@needs("executorch")
def test_the_converters_environment_answers_like_the_engine(tmp_path: Path) -> None:
    bundle = settled_bundle(compose("mobilenet_v3_small", alpha=0.25, resolution=32, stride="small", classes=3))
    pixels = patches(6, 32)
    artifact = export(
        bundle, tmp_path / "a", images=GateImages(images=pixels, targets=None, on="val"), format="executorch"
    )
    answered = answers_outside(artifact, tmp_path / "a", pixels)
    assert answered.shape == (6, 3)
    if is_installed("executorch"):
        np.testing.assert_allclose(open_artifact(tmp_path / "a").run(pixels), answered, atol=1e-5)


@pytest.mark.slow
@needs("coreml")
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("base", sorted(CATALOG))
def test_core_ml_packages_of_every_catalogue_network_say_what_the_network_does(
    base: str, padding: str, tmp_path: Path
) -> None:
    spec = msgspec.structs.replace(compose(base, alpha=0.25, resolution=64, classes=4), padding=padding)
    images = GateImages(images=patches(6, 64), targets=None, on="val")
    artifact = export(settled_bundle(spec), tmp_path / "a", images=images, format="coreml")
    assert (tmp_path / "a" / artifact.file).is_file()
    with pytest.raises(UsageError, match="Core ML runs on Apple's systems"):
        open_artifact(tmp_path / "a")


def _with_one_loud_channel(bundle: Bundle, *, row: int, loud: float) -> Bundle:
    """The same network to float32: a channel between two layers is scaled up, and down again by the filter after it."""
    tensors = dict(bundle.tensors)
    for name in ("norm.weight", "norm.bias"):
        tensors[f"rows.{row}.expand.{name}"] = tensors[f"rows.{row}.expand.{name}"].copy()
        tensors[f"rows.{row}.expand.{name}"][0] *= loud
    after = f"rows.{row}.middle.conv.weight"
    tensors[after] = tensors[after].copy()
    tensors[after][0] /= loud
    return replace(bundle, tensors=tensors)


@pytest.mark.slow
@needs("executorch")
def test_a_row_that_bytes_ruin_stays_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = compose("mobilenet_v4_conv_small", alpha=0.25, resolution=32, stride="small", classes=4)
    bundle = settled_bundle(spec)
    pixels = patches(80, 32)
    row = next(i for i in range(len(spec.rows)) if f"rows.{i}.middle.conv.weight" in bundle.tensors)
    export(
        _with_one_loud_channel(bundle, row=row, loud=1e4),
        tmp_path / "a",
        images=GateImages(images=pixels[:40], targets=None, on="val"),
        format="executorch",
        precision="int8",
        calibration=pixels[40:],
        limits=Limits(logits=9.0, agreement=0.2, drop=0.8),  # an untrained network is never sure of anything
    )
    minmax, histogram, *others = capsys.readouterr().err.splitlines()
    assert minmax.startswith("int8, minmax: noise")
    assert histogram.startswith("int8, histogram: noise")
    assert others
    assert all(f"rows.{row}" in line for line in others)


@pytest.mark.slow
@needs("coreml")
def test_a_package_of_bytes_is_a_quarter_of_float32_and_answers_like_the_network(tmp_path: Path) -> None:
    bundle = settled_bundle(compose("mobilenet_v3_small", resolution=32, stride="small", classes=4))
    pixels = patches(24, 32)
    images = GateImages(images=pixels, targets=None, on="val")
    sizes = [
        export(bundle, tmp_path / p, images=images, format="coreml", precision=p, limits=Limits.of("int8")).size_mb
        for p in ("fp32", "int8-weights")
    ]
    assert sizes[1] < 0.3 * sizes[0]
