from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mobilenets.cli.main import main

Outcome = tuple[int, str, str]


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    """tests/train/tiny_run.py; test folders are not packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).parents[1] / "train" / "tiny_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The whole command line: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def colours(tiny_run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 images in three classes."""
    folder: Path = tiny_run.make_folder(tmp_path_factory.mktemp("data") / "colours")
    return folder


@pytest.fixture(scope="session")
def trained(tiny_run: ModuleType, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made by the command itself."""
    root = tmp_path_factory.mktemp("trained")
    spec = tiny_run.write_spec(root / "tiny.json")
    out = root / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", str(spec), str(colours), "--epochs", "10", "--batch-size", "16", "--lr", "1", "-o", str(out)])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def artifact(trained: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run's best weights, exported."""
    out = tmp_path_factory.mktemp("exported") / "tiny"
    with pytest.raises(SystemExit) as stop:
        main(["export", str(trained / "best"), "--data", str(colours), "-o", str(out)])
    assert stop.value.code == 0
    return out
