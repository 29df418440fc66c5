"""A `.pt2` file can hold code; nothing opens one that nobody asked for by naming the engine."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bench.choose import fastest_engine
from mobilenets.cli.main import main
from mobilenets.errors import CheckError, UsageError
from mobilenets.export import GateImages, export
from mobilenets.runtime import open_artifact


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of our own, through the gate."""
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, stride="small", classes=3))
    out = tmp_path_factory.mktemp("program") / "v1"
    images = GateImages(images=patches(6, 32), targets=np.arange(6) % 3, on="val")
    export(bundle, out, images=images, format="pt2", precision="fp32")
    return out


@pytest.fixture
def hostile(program: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same with a pickle in it that makes a file, and a record that vouches for it; and that file."""
    mark = tmp_path / "was-run"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (mark,)

    record = json.loads((program / "artifact.json").read_text())
    content = io.BytesIO()
    with zipfile.ZipFile(program / record["file"]) as before, zipfile.ZipFile(content, "w") as after:
        for name in before.namelist():
            inside = pickle.dumps(Payload()) if "sample_inputs" in name else before.read(name)
            after.writestr(name, inside)
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / record["file"]).write_bytes(content.getvalue())
    record["file_sha256"] = hashlib.sha256(content.getvalue()).hexdigest()
    (folder / "artifact.json").write_text(json.dumps(record))
    return folder, mark


def test_a_program_is_opened_by_the_name_of_its_engine_only(program: Path) -> None:
    with pytest.raises(UsageError, match=r"runs what its maker put into it.*--engine torch"):
        open_artifact(program)
    assert open_artifact(program, engine="torch").run(patches(2, 32)).shape == (2, 3)


def test_choosing_an_engine_by_measuring_opens_no_program(hostile: tuple[Path, Path]) -> None:
    folder, mark = hostile
    with pytest.raises(CheckError, match="no engine runs"):
        fastest_engine(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "verb", [("predict",), ("predict", "--engine", "auto"), ("bench",), ("bench", "--engine", "all")]
)
def test_no_verb_runs_what_is_in_somebodys_program(
    hostile: tuple[Path, Path], verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    folder, mark = hostile
    Image.fromarray(patches(1, 32)[0]).save(tmp_path / "a.png")
    words = [verb[0], str(folder), *verb[1:], *([str(tmp_path / "a.png")] if verb[0] == "predict" else [])]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code != 0
    assert not mark.exists()
    assert "torch" in capsys.readouterr().err


def test_the_danger_is_real(hostile: tuple[Path, Path]) -> None:
    folder, mark = hostile
    with pytest.raises(UsageError):
        open_artifact(folder, engine="torch")
    assert mark.exists()  # once this fails, torch reads programs safely, and the rule may go
