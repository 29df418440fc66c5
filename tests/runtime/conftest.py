from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tiny.py beside this file; test folders are not packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("tiny_artifacts", Path(__file__).with_name("tiny.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_artifact(tiny: ModuleType, tmp_path: Path) -> Path:
    return tiny.make_artifact(tmp_path / "tiny", labels=("red", "green", "blue"))


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Writes an image of one colour."""

    def write(name: str, colour: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), colour).save(path)
        return path

    return write
