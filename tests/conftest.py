"""Fixtures that every test may use."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests fill a cache of their own and leave the user's alone; they ask no server for weights, be there a
    network or not, unless they bring one of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("MOBILENETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """torch draws the same numbers in a test each time, whatever ran before; tests without torch do not load it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` beside the checkout: real images and other people's models."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("there is no folder shared/data beside the checkout")
    return folder


@pytest.fixture
def ctrl_c_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AbstractContextManager[None]]:
    """`with ctrl_c_at(5):` presses Ctrl-C behind the fifth step of the training inside; it is heard behind the sixth,
    or behind the fifth where an epoch ends there. With `once=FOLDER` only where that folder is there by then."""
    from mobilenets.train import loop

    @contextmanager
    def pressed(step: int, *, once: Path | None = None):
        advance = loop._Run._advance

        def stop(self: loop._Run, *, seconds: float) -> None:
            advance(self, seconds=seconds)
            if self.progress.step == step and (once is None or once.is_dir()):
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(loop._Run, "_advance", stop)
            yield

    return pressed
