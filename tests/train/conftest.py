from __future__ import annotations

import importlib.util
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from mobilenets.data import Dataset, open_dataset
from mobilenets.train import loop


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


@pytest.fixture
def ctrl_c_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """`with ctrl_c_at(5):` presses Ctrl-C behind the fifth step of the run inside."""

    @contextmanager
    def pressed(step: int):
        advance = loop._Run._advance

        def stop(self: loop._Run, *, seconds: float) -> None:
            advance(self, seconds=seconds)
            if self.progress.step == step:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "_advance", stop)
            yield

    return pressed
