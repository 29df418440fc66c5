"""How long each candidate takes on this machine: measured on untrained exports, or predicted from measured neighbours.

Speed does not depend on what the weights are, so a network is measured before a second is spent on training it.
Measurements are kept on disk, by spec, precision, engine, threads and machine.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec, Layer
from ..bench import Latency, a_few_at_a_time, measure_all
from ..bundle import Bundle
from ..errors import FileFormatError
from ..export import write_ungated
from ..files import cache_root, digest_of, write_json
from ..progress import say
from ..records import Environment, Preprocess, read_record, to_json
from ..runtime import default_threads
from .candidates import Option
from .records import LatencyEstimate

__all__ = ["LatencyTable", "noise", "of_measured", "untrained_bundle"]

SECONDS = 1.0  # of rounds for each
ACCURATE = 0.10  # greatest error of predictions for measured networks that still lets us predict others
MARGIN = 2.0  # a prediction's interval is so many times that error wide
UNPROVEN = 0.5  # what is taken for that error where too few were measured to know it
CALIBRATION_IMAGES = 16  # random; an untrained int8 network has no accuracy to lose


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    latency: Latency
    environment: Environment


class LatencyTable:
    """Latencies of one image on this machine, with `threads` threads.

    Args:
        threads: of the engine; None: its default.
        cache_dir: where measurements are kept; None: the cache folder.
        measure: `bench.measure_all`, or another with its signature.
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        cache_dir: Path | None = None,
        measure: Callable[..., tuple[Latency, ...]] = measure_all,
    ) -> None:
        self.threads = threads or default_threads()
        self._folder = cache_root() / "latency" if cache_dir is None else cache_dir
        self._measure = measure
        self._environment = Environment.capture()
        self._known: dict[tuple[str, str], Latency] = {}
        self.measured = self.reused = self.predicted = 0
        self.worst_error: float | None = None

    @property
    def identity(self) -> list[str]:
        """Nothing: a machine's own latencies make no other fit of it."""
        return []

    @property
    def device(self) -> None:
        """None but this machine."""
        return

    def delivered(self, name: str) -> None:
        """None: files are measured as they are delivered."""
        del name

    def measure(self, options: Sequence[Option], *, until: float = math.inf) -> bool:
        """Measure those that are not known yet, a few in turn at a time; whether there was time for all.

        Args:
            options: what is measured.
            until: when no more are begun, by `time.monotonic`.
        """
        waiting = [option for option in dict.fromkeys(options) if self._lookup(option) is None]
        for group in a_few_at_a_time(waiting):
            if time.monotonic() > until:
                return False
            with tempfile.TemporaryDirectory() as folder:
                paths = []
                for number, option in enumerate(group):
                    path = Path(folder) / str(number)
                    bundle = untrained_bundle(option.spec)
                    write_ungated(bundle, path, precision=option.precision, calibration=noise(option))
                    paths.append(path)
                for option, latency in zip(
                    group, self._measure(paths, threads=self.threads, seconds=SECONDS), strict=True
                ):
                    kept = msgspec.structs.replace(latency, path=option.spec.name)
                    self._known[_key(option)] = kept
                    self._folder.mkdir(parents=True, exist_ok=True)
                    write_json(self._file(option), to_json(_Kept(latency=kept, environment=self._environment)))
                    self.measured += 1
        return True

    def estimate(
        self, options: Sequence[Option], *, limit_ms: float | None = None, seconds: float = math.inf
    ) -> dict[Option, LatencyEstimate]:
        """An estimate for every option, measuring as few as will do.

        Within a family, resolution and precision, wider networks are measured only while narrower ones keep
        `limit_ms`; what lies beyond is extrapolated and told apart by `how`. Between measured ones, latency is
        interpolated over the width, if that is proven: leaving each measured one out and predicting it from the others
        is never wrong by more than ACCURATE. Otherwise everything up to the limit is measured. Predictions carry twice
        the worst such error as their interval, and are to be confirmed before anything depends on them.

        After `seconds` nothing more is measured but the narrowest of each family, resolution and precision; what is
        left is predicted, however badly.
        """
        until = time.monotonic() + seconds
        lines: dict[tuple[str, int, str], list[Option]] = {}
        for option in sorted(options, key=lambda o: o.cost.mult_adds):
            lines.setdefault((option.family, option.spec.resolution, option.precision), []).append(option)
        # Every second and the last: enough inner points to judge predictions by.
        probes = [[o for i, o in enumerate(line) if i % 2 == 0 or i == len(line) - 1] for line in lines.values()]
        in_time = self._measure_widening(probes, limit_ms=limit_ms, until=until)
        errors = [error for line in lines.values() for error in self._errors(line, limit_ms)]
        self.worst_error = max(errors) if errors else None
        if in_time and (self.worst_error is None or self.worst_error > ACCURATE):
            if self.worst_error is not None:
                say(f"predicting latencies would be wrong by up to {100 * self.worst_error:.0f} %: measuring instead")
            in_time = self._measure_widening([*lines.values()], limit_ms=limit_ms, until=until)
        if not in_time:
            say("measuring has had its share of the time: networks that are left are judged by their neighbours")
        estimates = {}
        for line in lines.values():
            for option in line:
                latency = self._lookup(option)
                if latency is None:
                    self.predicted += 1
                estimates[option] = self._predict(line, option) if latency is None else of_measured(latency)
        return estimates

    def _measure_widening(self, lines: Sequence[Sequence[Option]], *, limit_ms: float | None, until: float) -> bool:
        """Measure the narrowest of every line, then wider ones while there is time; whether there was for all."""
        for turn in range(max(map(len, lines), default=0)):
            waiting = [line[turn] for line in lines if len(line) > turn and not self._beyond(line[:turn], limit_ms)]
            if not self.measure(waiting, until=until if turn else math.inf):
                return False
        return True

    def _beyond(self, narrower: Sequence[Option], limit_ms: float | None) -> bool:
        """Whether a narrower network was measured and is surely too slow already."""
        known = [latency for option in narrower if (latency := self._lookup(option)) is not None]
        return limit_ms is not None and any(latency.low_ms > limit_ms for latency in known)

    def confirm(self, option: Option) -> LatencyEstimate:
        """The measured latency of one option."""
        self.measure([option])
        latency = self._lookup(option)
        assert latency is not None  # just measured
        return of_measured(latency)

    def note(self) -> str:
        """How the latencies were found, in a sentence."""
        text = f"{self.measured} measured now, {self.reused} from earlier measurements on this machine, "
        text += f"{self.predicted} predicted from measured neighbours"
        if self.worst_error is not None:
            text += f" (worst error when predicting measured ones: {100 * self.worst_error:.1f} %)"
        return text

    def _lookup(self, option: Option) -> Latency | None:
        if _key(option) not in self._known and self._file(option).exists():
            try:
                self._known[_key(option)] = read_record(self._file(option), _Kept, what="latency").latency
                self.reused += 1
            except FileFormatError:
                return None  # of another version of this program; measured anew and written over
        return self._known.get(_key(option))

    def _file(self, option: Option) -> Path:
        # A new release of the engine may be faster or slower, so its version is part of the name.
        versions = self._environment.versions
        about = [*_key(option), self.threads, self._environment.machine_digest, versions.get("onnxruntime")]
        return self._folder / f"{digest_of(about)}.json"

    def _errors(self, line: Sequence[Option], limit_ms: float | None) -> list[float]:
        """Relative errors of inner measured options when predicted from the others of their line."""
        known = [option for option in line if self._lookup(option) is not None]
        errors = []
        for place, option in enumerate(known[1:-1], start=1):
            if self._beyond(known[:place], limit_ms):
                break
            others = [o for o in known if o is not option]
            actual = self._known[_key(option)].median_ms
            errors.append(abs(self._interpolated(others, option) / actual - 1))
        return errors

    def _predict(self, line: Sequence[Option], option: Option) -> LatencyEstimate:
        known = [o for o in line if self._lookup(o) is not None]
        middle = self._interpolated(known, option)
        width = MARGIN * (UNPROVEN if self.worst_error is None else self.worst_error)
        return LatencyEstimate(
            median_ms=middle, low_ms=middle / (1 + width), high_ms=middle * (1 + width), how="predicted"
        )

    def _interpolated(self, known: Sequence[Option], option: Option) -> float:
        # Pointwise products grow with the square of the width, activations and depthwise products with the width, the
        # rest not at all: a parabola over the width, for which the root of the mult-adds stands, rounding included.
        xs = np.sqrt([o.cost.mult_adds for o in known])
        ys = np.array([self._known[_key(o)].median_ms for o in known])
        x = math.sqrt(option.cost.mult_adds)
        if x > xs[-1] or len(known) < 3:  # beyond the widest measured one, time grows at most in proportion
            nearest = int(np.abs(xs - x).argmin())
            return float(ys[nearest] * (x / xs[nearest]) ** 2)
        return float(np.polyval(np.polyfit(xs, ys, 2, w=1 / ys), x))


def of_measured(latency: Latency) -> LatencyEstimate:
    """A measurement as an estimate."""
    return LatencyEstimate(median_ms=latency.median_ms, low_ms=latency.low_ms, high_ms=latency.high_ms, how="measured")


def untrained_bundle(spec: ArchSpec) -> Bundle:
    """A bundle with random tensors of the right shapes, to be measured and thrown away.

    Values are those of a network at its start, so that nothing overflows or becomes denormal, which some processors
    are slow with.
    """
    rng = np.random.default_rng(0)
    tensors: dict[str, NDArray[np.float32]] = {}
    for placed in spec.placed():
        for layer in placed.row.layers(placed.in_channels):
            if layer.name in ("squeeze", "excite"):
                tensors |= _layer_tensors(f"rows.{placed.index}.excite.{layer.name}", layer, rng, bare=True)
            else:
                tensors |= _layer_tensors(f"rows.{placed.index}.{layer.name}", layer, rng, bare=False)
    for layer in spec.head.layers(spec.out_channels):
        tensors |= _layer_tensors(f"head.{layer.name}", layer, rng, bare=True, norm_at="head.norm")
    return Bundle(
        spec=spec,
        task="classify",
        labels=tuple(f"class {i}" for i in range(spec.head.classes)),
        preprocess=_plain(spec),
        tensors=tensors,
        history=({"step": "untrained"},),
    )


def _layer_tensors(
    at: str, layer: Layer, rng: np.random.Generator, *, bare: bool, norm_at: str | None = None
) -> dict[str, NDArray[np.float32]]:
    if layer.kind == "attention":
        return {}  # products of tensors that other layers made
    if layer.kind == "scale":
        return {f"{at}.gamma": np.ones(layer.out_channels, np.float32)}
    made: dict[str, NDArray[np.float32]] = {}
    if layer.kind == "norm":
        norm_at = at
    else:
        conv = at if bare else f"{at}.conv"
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels // layer.groups)
        if layer.kind != "linear":
            shape = (*shape, layer.kernel, layer.kernel)
        scale = math.sqrt(2 / math.prod(shape[1:]))
        made[f"{conv}.weight"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        if layer.bias:
            made[f"{conv}.bias"] = np.zeros(layer.out_channels, np.float32)
    if layer.norm:
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            made[f"{norm_at or f'{at}.norm'}.{name}"] = np.full(layer.out_channels, value, np.float32)
    return made


def _plain(spec: ArchSpec) -> Preprocess:
    middle = (0.5,) * spec.channels
    return Preprocess(resolution=spec.resolution, channels=spec.channels, mean=middle, std=middle)


def noise(option: Option) -> NDArray[np.uint8] | None:
    """Pictures (N, R, R, C) that calibrate an untrained int8 network; None for float32."""
    if option.precision == "fp32":
        return None
    spec = option.spec
    shape = (CALIBRATION_IMAGES, spec.resolution, spec.resolution, spec.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _key(option: Option) -> tuple[str, str]:
    return option.spec.digest, option.precision
