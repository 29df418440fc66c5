"""A fit for another device: a kit of untrained networks to be timed there, and its latencies when they come back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..bench import DeviceLatencies, Latency
from ..data import Dataset
from ..errors import BudgetError, UsageError
from ..export import write_ungated
from ..files import digest_of, new_folder
from ..progress import track
from ..records import Environment, Precision, read_record, to_json
from ..train.choose import native_side
from .candidates import Option, options
from .latency import noise, of_measured, untrained_bundle
from .plan import static_status
from .records import Budget, LatencyEstimate
from .starts import Starts, Weights
from .view.wording import plural

__all__ = ["DeviceTable", "write_kit"]


class DeviceTable:
    """Latencies that another device measured, in place of a `LatencyTable` of this machine."""

    def __init__(self, path: Path) -> None:
        """Reads what `bench --kit` left.

        Raises:
            FileFormatError: not such a file.
        """
        self.path, self.told = path, read_record(path, DeviceLatencies, what="file of a device's latencies")
        self._by_name = self.told.by_name

    @property
    def identity(self) -> list[str]:
        """What makes another fit of it."""
        return [digest_of(to_json(self.told))]

    @property
    def device(self) -> Environment:
        """Where the latencies are from."""
        return self.told.environment

    def estimate(
        self, choices: Sequence[Option], *, limit_ms: float | None = None, seconds: float = math.inf
    ) -> dict[Option, LatencyEstimate]:
        """The measured latencies of those that the device knows; the others are left out."""
        del limit_ms, seconds  # nothing is measured
        found = {}
        for option in choices:
            entry = self._by_name.get((option.spec.name, option.precision))
            if entry is not None and entry.spec_digest == option.spec.digest:
                found[option] = of_measured(entry.latency)
        return found

    def confirm(self, option: Option) -> LatencyEstimate:
        """As `estimate` has it; for a device predicts nothing."""
        return self.estimate([option])[option]

    def delivered(self, name: str) -> Mapping[Precision, Latency]:
        """What the device told of a network, by precision."""
        return {entry.precision: entry.latency for entry in self.told.entries if entry.spec_name == name}

    def note(self) -> str:
        """How the latencies were found, in a sentence."""
        environment, count = self.told.environment, len(self.told.entries)
        threads = plural(self.told.threads, "thread")
        return f"{count} measured on {environment.cpu}, {environment.cores} cores, with {threads} ({self.path.name})"


def write_kit(
    dataset: Dataset,
    budget: Budget,
    *,
    folder: Path,
    families: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    weights: Weights = "none",
) -> int:
    """Write every network that a fit would weigh, untrained, in float32 and int8, to be timed on another device.

    Args:
        dataset: labelled images; their size and classes decide what suits.
        budget: what is beyond its megabytes or mult-adds is left out.
        folder: a new one.
        families: as for `fit`.
        alphas: as for `fit`.
        resolutions: as for `fit`.
        weights: as for `fit`.

    Returns:
        How many.

    Raises:
        BudgetError: nothing keeps the budget.
        UsageError: the folder is there already; and what `fit` raises of its choices.
    """
    if folder.exists():
        raise UsageError(f"{folder} is there already", wanted="a new folder for the kit", do="name another")
    side = native_side(dataset)
    choices = options(
        classes=len(dataset.labels),
        native_side=side,
        families=families,
        alphas=alphas,
        resolutions=resolutions,
        precisions=("fp32", "int8"),
        starts=Starts(weights).had(families, alphas, unasked=side is None),
    )
    kept = [option for option in choices if static_status(option, budget) is None]
    if not kept:
        raise BudgetError(
            f"none of {len(choices)} networks keeps the budget", wanted="one that does", do="allow a little more"
        )
    with new_folder(folder) as begun:
        for option in track(kept, total=len(kept), what=f"writing {len(kept)} networks"):
            path = begun / f"{option.spec.name}-{option.precision}"
            write_ungated(untrained_bundle(option.spec), path, precision=option.precision, calibration=noise(option))
    return len(kept)
