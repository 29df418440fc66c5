"""What tests of whole fits share."""

from __future__ import annotations

from pathlib import Path

import pytest

from making import write_dark_and_light
from mobilenets.export import artifact
from mobilenets.fit import deliver


@pytest.fixture
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are timed all the same; how exactly decides nothing here."""
    monkeypatch.setattr(artifact, "SPEED_SECONDS", 0.2)
    monkeypatch.setattr(deliver, "BENCH_SECONDS", 0.5)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 pictures in two classes."""
    return write_dark_and_light(tmp_path_factory.mktemp("photos"), 150)
