"""A ledger that is being written: a step is made, exported, measured and judged, and on disk before the next begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import assert_never, final

import msgspec

from ..arch import cost
from ..bench import Latency, measure_all, paired_ratio
from ..bundle import Bundle, read_bundle
from ..compress import Measure, Target, costs_of
from ..data import Dataset, Pixels, SplitName, prepared
from ..errors import CheckError, GateError, UsageError
from ..export import GateImages, export, export_int8
from ..export.gate import SPEEDUP
from ..export.images import calibration_images, gate_images
from ..files import new_folder, write_json, write_text
from ..progress import say
from ..records import Precision, read_record, to_json
from ..runtime import evaluate, open_artifact, read_artifact
from .judge import judge
from .records import Judged, Ledger, Line, Measured, Plan, Ratio, StepName
from .steps import STEPS, LeftOut, Standing, Stopped, Work, over_budget
from .table import to_markdown

__all__ = ["LEDGER_NAME", "Account"]

LEDGER_NAME = "ledger.json"
SECONDS = 3.0  # of rounds for each artifact that is timed in turn
TRIES = 3  # to keep a latency: other work on the machine only ever makes a network look slower


@final
class Account:
    """A ledger that is being written, and what its lines are measured with.

    Args:
        out: the folder of the run.
        bundle: what it all begins with.
        dataset: whose images judge, calibrate and pass the gates.
        empty: the ledger with its plan; `open` fills it.
    """

    def __init__(self, out: Path, bundle: Bundle, dataset: Dataset, empty: Ledger) -> None:
        self._out = out
        self._bundle = bundle
        self._dataset = dataset
        self.ledger = empty

    def open(self, *, resume: bool, measure: Callable[[Precision], Measure] | None) -> None:
        """Go on with what is there under the same plan, or begin with the start's line.

        Raises:
            UsageError: what is there is another run, or is not to be gone on with.
            GateError: the start does not pass the gate.
        """
        path = self._out / LEDGER_NAME
        if path.is_file():
            before = read_record(path, Ledger, what="ledger")
            if not resume:
                raise UsageError(f"{path} is there already", wanted="a new folder", do="name another, or resume")
            fields = Plan.__struct_fields__
            if other := [f for f in fields if getattr(before.plan, f) != getattr(self.ledger.plan, f)]:
                raise UsageError(
                    f"{path} is of another run: not the same as then: {', '.join(other)}",
                    wanted="the same command, images and machine as before",
                    do="repeat that command, or compress into another folder",
                )
            self.ledger = before
            return
        artifact, _ = self._exported(self._bundle, "fp32", folder="start", fp32=None)
        start = self._measured(self._bundle, artifact, fp32=artifact, bundle_at=None, before=None)
        if "test" in self._dataset.splits:
            start = msgspec.structs.replace(start, test=self._judged(artifact, "test"))
        self.ledger = msgspec.structs.replace(
            self.ledger, most=_absolute(self.ledger.plan.target, self._bundle, start, measure)
        )
        self._write(Line(step="start", verdict="start", why="the network as it was given, in float32", measured=start))

    def take(self, number: int, name: StepName, work: Work) -> bool:
        """Do step `number`, and write its line; False: it was interrupted, and goes on when it is taken again."""
        step, standing = STEPS[name], self._standing()
        folder = f"{number}-{name}"
        say(f"step {number} of {len(work.plan.steps)}: {name}")
        try:
            made = step.make(standing, work, self._out / folder / "run")
            if isinstance(made, Stopped):
                return False
            if isinstance(made, LeftOut):
                self._write(Line(step=name, verdict="left out", why=made.why))
                return True
            same = made.bundle.digest == standing.measured.digest
            fp32 = standing.measured.fp32 if same else None
            artifact, told = self._exported(made.bundle, made.precision, folder=folder, fp32=fp32)
        except CheckError as error:  # a gate that refuses, a bound out of reach, a training that diverges
            lost = isinstance(error, GateError) and any(gate != SPEEDUP for gate in error.failed)
            self._write(Line(step=name, verdict="rolled back", why=f"{error.got}; {error.wanted}", lost=lost))
            return True
        # A training that kept the weights it began with still left ranges for int8 in its history.
        untouched = same and made.bundle.history == standing.bundle.history
        measured = self._measured(
            made.bundle,
            artifact,
            fp32=fp32 or (artifact if made.precision == "fp32" else f"{folder}/fp32"),
            bundle_at=standing.measured.bundle if untouched else f"{folder}/run/best",
            before=standing.measured,
        )
        start = self._start()
        judged = judge(
            measured, start=start, before=standing.measured, max_drop=work.plan.max_drop, pays_by=step.pays_by
        )
        notes = "; ".join(note for note in (judged.why, made.note, told) if note)
        self._write(Line(step=name, verdict=judged.verdict, why=notes, lost=judged.lost, measured=measured))
        return True

    def close(self) -> None:
        """Hand out what stands, and judge it on the test images; nothing to do where it was done before."""
        if self.ledger.finished:
            return
        at, standing = self.ledger.standing(), self._standing()
        measured, plan = standing.measured, self.ledger.plan
        if at and "test" in self._dataset.splits:
            measured = msgspec.structs.replace(measured, test=self._judged(measured.artifact, "test"))
        over = None
        if plan.target is not None and self.ledger.most is not None:
            over = self._over(measured, plan.target, self.ledger.most)
        standing.bundle.write(self._out / "best")
        with new_folder(self._out / "artifact") as part:
            shutil.copytree(self._out / measured.artifact, part, dirs_exist_ok=True)
        lines = list(self.ledger.lines)
        lines[at] = msgspec.structs.replace(lines[at], measured=measured)
        self.ledger = msgspec.structs.replace(self.ledger, lines=tuple(lines), finished=True, over=over)
        self._save()

    def _over(self, measured: Measured, target: Target, most: float) -> str | None:
        """Whether the bound is exceeded; a latency by the quietest of a few measurements."""
        over = over_budget(measured, of=target, most=most)
        for number in range(1, TRIES):
            if over is None or target.of != "latency_ms":
                break
            (again,) = self._timed([measured.artifact], seconds=SECONDS * (number + 1))
            over = over_budget(msgspec.structs.replace(measured, latency=again), of=target, most=most)
        return over

    def _start(self) -> Measured:
        measured = self.ledger.lines[0].measured
        assert measured is not None  # it is written with the artifact, or not at all
        return measured

    def _standing(self) -> Standing:
        at = self.ledger.standing()
        measured = self.ledger.lines[at].measured
        assert measured is not None  # only what was measured is kept
        bundle = self._bundle if measured.bundle is None else read_bundle(self._out / measured.bundle)
        return Standing(bundle, measured, in_vain=self.ledger.lines[at + 1 :])

    def _exported(self, bundle: Bundle, precision: Precision, *, folder: str, fp32: str | None) -> tuple[str, str]:
        """The artifact of a network, relative to the ledger, behind its gate, and what to say of how it was made.

        Args:
            bundle: the network.
            precision: of the artifact.
            folder: the step's.
            fp32: the float32 artifact of this network, where there is one.
        """
        beside = fp32 or f"{folder}/fp32"
        if fp32 is None:
            export(bundle, self._out / beside, images=self._gate_images)
        if precision == "fp32":
            return beside, ""
        if precision == "int8":
            _, made = export_int8(
                bundle,
                self._out / folder / "int8",
                images=self._gate_images,
                calibration_images=calibration_images(self._dataset, bundle.preprocess),
                faster_than=self._out / beside,
                threads=self.ledger.plan.threads,
            )
            return f"{folder}/int8", made.kept.described()
        if precision == "int8-weights":
            export(bundle, self._out / folder / precision, images=self._gate_images, precision=precision)
            return f"{folder}/{precision}", ""
        if precision == "fp16" or precision == "bf16" or precision == "int8-dynamic":
            raise UsageError(f"a step in {precision}", wanted="fp32, int8 or int8-weights", do="correct the step")
        assert_never(precision)

    def _measured(
        self, bundle: Bundle, artifact: str, *, fp32: str, bundle_at: str | None, before: Measured | None
    ) -> Measured:
        """An artifact judged on the validation images, and timed in turn with the start and with what stood before."""
        val = self._judged(artifact, "val")
        record, _ = read_artifact(self._out / artifact)
        others = [] if before is None else list(dict.fromkeys((self._start().artifact, before.artifact)))
        latency, *beside = self._timed([artifact, *others], seconds=SECONDS)
        ratios = {other: _ratio(latency, its) for other, its in zip(others, beside, strict=True)}
        counted = cost(bundle.spec)
        return Measured(
            digest=bundle.digest,
            precision=record.precision,
            mult_adds=counted.mult_adds,
            parameters=counted.parameters,
            size_mb=record.size_mb,
            val=val,
            latency=latency,
            faster_than_start=None if before is None else ratios[self._start().artifact],
            faster_than_before=None if before is None else ratios[before.artifact],
            bundle=bundle_at,
            artifact=artifact,
            fp32=fp32,
        )

    def _timed(self, artifacts: list[str], *, seconds: float) -> tuple[Latency, ...]:
        """Latencies of artifacts in turn, each in a process of its own; their paths stay relative to the ledger."""
        found = measure_all([self._out / path for path in artifacts], threads=self.ledger.plan.threads, seconds=seconds)
        return tuple(
            msgspec.structs.replace(latency, path=path, name=path)
            for path, latency in zip(artifacts, found, strict=True)
        )

    def _judged(self, artifact: str, split: SplitName) -> Judged:
        pixels = self._validation if split == "val" else self._pixels(split)
        model = open_artifact(self._out / artifact, threads=self.ledger.plan.threads)
        found = evaluate(model, pixels.images, pixels.targets)
        return Judged(split=split, n=found.n, top1=found.top1, top1_low=found.top1_low, top1_high=found.top1_high)

    @cached_property
    def _validation(self) -> Pixels:
        return self._pixels("val")

    @cached_property
    def _gate_images(self) -> GateImages:
        return gate_images(self._validation, on="val")

    def _pixels(self, split: SplitName) -> Pixels:
        return prepared(self._dataset, split, self._bundle.preprocess)

    def _write(self, line: Line) -> None:
        """Add a line, and say it."""
        say(f"{line.step}: {line.verdict}: {line.why}")
        self.ledger = msgspec.structs.replace(self.ledger, lines=(*self.ledger.lines, line))
        self._save()

    def _save(self) -> None:
        write_json(self._out / LEDGER_NAME, to_json(self.ledger))
        write_text(self._out / "ledger.md", to_markdown(self.ledger))


def _absolute(
    target: Target | None, bundle: Bundle, start: Measured, measure: Callable[[Precision], Measure] | None
) -> float | None:
    """What the target allows, as a number; a share is one of what the start costs, its file for a size."""
    if target is None:
        return None
    if not target.relative:
        return target.most
    if target.of == "size_mb":
        return target.absolute(start.size_mb)
    if target.of == "latency_ms":
        assert measure is not None  # checked before anything began
        return target.absolute(measure("fp32")(bundle.spec))
    return target.absolute(costs_of(bundle.spec)[target.of])


def _ratio(latency: Latency, other: Latency) -> Ratio:
    """How many times as fast as the other."""
    value, low, high = paired_ratio(other, latency)
    return Ratio(value=value, low=low, high=high, rounds=latency.rounds)
