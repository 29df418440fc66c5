from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mobilenets.data import Dataset, open_dataset


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    """tiny_run.py beside this file; test folders are not packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("tiny_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def colours(tiny_run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(tiny_run.make_folder(tmp_path_factory.mktemp("data") / "colours"))
