from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from making import needs, patches, settled_bundle
from mobilenets.arch import CATALOG, compose
from mobilenets.errors import CheckError, MissingExtraError, UsageError
from mobilenets.export import GateImages, export, outside
from mobilenets.export.outside import CONVERTER_VARIABLE, answers_outside, to_coreml, to_executorch
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
