from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/runtime/tiny.py; test folders are not packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("tiny_artifacts", Path(__file__).parents[1] / "runtime" / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_artifact(tiny: ModuleType, tmp_path: Path) -> Path:
    return tiny.make_artifact(tmp_path / "tiny", labels=("red", "green", "blue"))
