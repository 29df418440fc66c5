"""Latencies of many networks on a device, for a fit that is trained elsewhere. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from ..errors import UsageError
from ..files import write_json
from ..progress import track
from ..records import Environment, Precision, read_record, to_json
from ..runtime import default_threads, read_artifact
from .measure import Latency, measure_all

__all__ = ["LATENCIES_NAME", "DeviceLatencies", "KitLatency", "a_few_at_a_time", "measure_kit"]

T = TypeVar("T")

LATENCIES_NAME: Final = "latencies.json"
GROUP: Final = 4  # measured in turn, so that they share what disturbs the machine; a board has memory for so many


class KitLatency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one network takes for one image on the device."""

    spec_name: str
    spec_digest: str
    precision: Precision
    latency: Latency


class DeviceLatencies(msgspec.Struct, frozen=True, kw_only=True):
    """What a device told of a kit: `latencies.json`."""

    environment: Environment  # the device
    threads: int
    entries: tuple[KitLatency, ...]

    @property
    def by_name(self) -> Mapping[tuple[str, Precision], KitLatency]:
        """By the network's name and precision."""
        return {(entry.spec_name, entry.precision): entry for entry in self.entries}


def a_few_at_a_time(networks: Sequence[T]) -> Iterator[Sequence[T]]:
    """Many networks in groups that are small enough to be measured in turn, with progress."""
    groups = [networks[i : i + GROUP] for i in range(0, len(networks), GROUP)]
    yield from track(groups, total=len(groups), what=f"measuring {len(networks)} networks on this machine")


def measure_kit(folder: Path, *, threads: int | None = None, seconds: float = 1.0) -> DeviceLatencies:
    """Measure every artifact of a folder on this machine, a few in turn at a time, into `latencies.json` there.

    It is written after each few, and the same call goes on where it was.

    Args:
        folder: holds folders of artifacts, as `fit --kit` writes them.
        threads: of the engine; None: the cores this process may use, at most 4.
        seconds: for the rounds of each artifact.

    Raises:
        UsageError: there are no artifacts, or the folder has latencies of another machine or number of threads.
        CheckError: a worker crashed.
    """
    paths = sorted(path.parent for path in folder.glob("*/artifact.json"))
    if not paths:
        raise UsageError(
            f"{folder} holds no folders of artifacts", wanted="a kit", do="write one: mobilenets fit ... --kit DIR"
        )
    here, file = Environment.capture(), folder / LATENCIES_NAME
    found = DeviceLatencies(environment=here, threads=threads or default_threads(), entries=())
    if file.exists():
        before = read_record(file, DeviceLatencies, what="file of a device's latencies")
        if (before.environment.machine_digest, before.threads) != (here.machine_digest, found.threads):
            raise UsageError(
                f"{file} is of {before.environment.cpu} with {before.threads} threads",
                wanted=f"latencies of this machine, {here.cpu}, with {found.threads}",
                do="move that file away, or name its threads",
            )
        found = before
    records = {path: read_artifact(path)[0] for path in paths}
    known = found.by_name
    waiting = [path for path in paths if (records[path].spec_name, records[path].precision) not in known]
    for group in a_few_at_a_time(waiting):
        latencies = measure_all(group, threads=found.threads, seconds=seconds)
        made = tuple(
            KitLatency(
                spec_name=records[path].spec_name,
                spec_digest=records[path].spec_digest,
                precision=records[path].precision,
                latency=latency,
            )
            for path, latency in zip(group, latencies, strict=True)
        )
        found = msgspec.structs.replace(found, entries=(*found.entries, *made))
        write_json(file, to_json(found))
    return found
