"""The winner leaves the workshop: exported, gated, measured again, judged on images that chose nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..bench import Latency, measure_all
from ..bundle import Bundle
from ..data import Dataset, Pixels
from ..errors import BudgetError, GateError
from ..export import describe, export
from ..export.images import calibration_images, gate_images
from ..metrics import softmax
from ..progress import say
from ..records import Artifact, Precision
from ..runtime import Evaluation, evaluate, open_artifact
from .records import Accuracy, Budget, Delivered, Mistake

__all__ = ["Delivery", "deliver"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
BENCH_SECONDS = 3.0
TRIES = 3  # at a quiet moment: other work on the machine only ever makes a network look slower
MOST_MISTAKES = 24


@dataclass(frozen=True)
class Delivery:
    """What passed, the recommended one first, and what did not."""

    delivered: tuple[Delivered, ...]
    not_delivered: tuple[str, ...]
    mistakes: tuple[Mistake, ...]


def deliver(
    bundle: Bundle,
    dataset: Dataset,
    budget: Budget,
    *,
    out: Path,
    validation: Pixels,
    test: Pixels | None,
    elsewhere: Mapping[Precision, Latency] | None = None,
) -> Delivery:
    """Export to `out`/fp32 and, if it pays, `out`/int8; measure; evaluate.

    Of those that pass their gates and keep the budget, the one with the higher validation accuracy is recommended.

    Args:
        bundle: the trained network.
        dataset: whose training images calibrate int8.
        budget: to keep, measured on the files themselves.
        out: the folder of the fit; artifacts in it, of a network that was refused before, are removed.
        validation: prepared images for the gates.
        test: prepared images for the final numbers; None: they are on the validation images.
        elsewhere: what the network takes on the device that the budget is for; None: it is for this machine.

    Raises:
        BudgetError: nothing that passed the gates keeps the budget.
        GateError: the float32 file does not answer like its network.
    """
    gate = gate_images(validation, on="val")
    made: dict[Precision, Artifact] = {}
    refused: list[str] = []
    for precision in PRECISIONS:
        shutil.rmtree(out / precision, ignore_errors=True)
    say("exporting: fp32")
    made["fp32"] = export(bundle, out / "fp32", images=gate)
    say(describe(made["fp32"]))
    say("exporting: int8")
    try:
        made["int8"] = export(
            bundle,
            out / "int8",
            images=gate,
            precision="int8",
            calibration=calibration_images(dataset, bundle.preprocess),
            faster_than=out / "fp32" if elsewhere is None else None,
            threads=budget.threads,
        )
        say(describe(made["int8"]))
    except GateError as error:
        refused.append(f"int8: {error.got}")
        say(f"int8 is not delivered: {error.got}")
    if elsewhere is None:
        latencies = dict(zip(made, _measured([out / precision for precision in made], budget), strict=True))
    else:
        latencies = _slower_left_out(elsewhere)
    kept: list[tuple[float, Delivered, Evaluation]] = []
    judged = validation if test is None else test
    split: Literal["val", "test"] = "val" if test is None else "test"
    for precision, artifact in made.items():
        latency = latencies.get(precision)
        trouble = _over_budget(artifact, latency, budget)
        if trouble or latency is None:
            refused.append(f"{precision}: {trouble}")
            shutil.rmtree(out / precision)
            say(f"{precision} is not delivered: {trouble}")
            continue
        evaluation = evaluate(open_artifact(out / precision, threads=budget.threads), judged.images, judged.targets)
        drop = next(g.value for g in artifact.gates if g.name == "accuracy_drop")
        kept.append((drop, _delivered(precision, artifact, latency, evaluation, split=split), evaluation))
    if not kept:
        raise BudgetError(
            f"{bundle.spec.name} as exported does not keep the budget: {'; '.join(refused)}",
            wanted="a file that does, at the pessimistic end of its measurement",
            do="allow a little more, or repeat when the machine is quiet",
        )
    kept.sort(key=lambda entry: entry[0])
    return Delivery(
        delivered=tuple(delivered for _, delivered, _ in kept),
        not_delivered=tuple(refused),
        mistakes=_mistakes(kept[0][2], judged, dataset.labels),
    )


def _measured(paths: Sequence[Path], budget: Budget) -> tuple[Latency, ...]:
    """Latencies of all in turn; the quietest of a few tries where something seems too slow."""
    best: list[Latency] = []
    for number in range(TRIES):
        again = measure_all(paths, threads=budget.threads, seconds=BENCH_SECONDS * (number + 1))
        best = [min(pair, key=lambda latency: latency.high_ms) for pair in zip(best or again, again, strict=True)]
        if budget.latency_ms is None or all(latency.high_ms <= budget.latency_ms for latency in best):
            break
    return tuple(best)


def _slower_left_out(told: Mapping[Precision, Latency]) -> dict[Precision, Latency]:
    """A device's latencies, without that of an int8 file that saves no time there."""
    fp32, int8 = told.get("fp32"), told.get("int8")
    pays = fp32 is None or int8 is None or int8.median_ms < fp32.median_ms
    return {precision: latency for precision, latency in told.items() if pays or precision == "fp32"}


def _over_budget(artifact: Artifact, latency: Latency | None, budget: Budget) -> str:
    if latency is None:
        return "the device did not time it, or it saves no time there"
    if budget.latency_ms is not None and latency.high_ms > budget.latency_ms:
        return f"measured {latency.median_ms:.2f} ms, up to {latency.high_ms:.2f} of {budget.latency_ms:g} ms"
    if budget.size_mb is not None and artifact.size_mb > budget.size_mb:
        return f"{artifact.size_mb:.2f} MB of {budget.size_mb:g} MB"
    return ""


def _delivered(
    precision: Precision,
    artifact: Artifact,
    latency: Latency,
    evaluation: Evaluation,
    *,
    split: Literal["val", "test"],
) -> Delivered:
    return Delivered(
        path=precision,
        precision=precision,
        size_mb=artifact.size_mb,
        latency=latency,
        accuracy=Accuracy(
            split=split,
            n=evaluation.n,
            top1=evaluation.top1,
            top1_low=evaluation.top1_low,
            top1_high=evaluation.top1_high,
            top5=evaluation.top5,
            calibration_error=evaluation.calibration_error,
            per_class=tuple(None if np.isnan(share) else float(share) for share in evaluation.per_class),
            confusion=tuple(tuple(int(count) for count in row) for row in evaluation.confusion),
        ),
        gates=artifact.gates,
    )


def _mistakes(evaluation: Evaluation, judged: Pixels, labels: tuple[str, ...]) -> tuple[Mistake, ...]:
    probabilities = softmax(evaluation.logits)
    said = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1)
    wrong = np.flatnonzero(said != judged.targets)
    return tuple(
        Mistake(
            image=judged.names[i],
            truth=labels[int(judged.targets[i])],
            said=labels[int(said[i])],
            probability=float(sure[i]),
        )
        for i in wrong[np.argsort(-sure[wrong], kind="stable")][:MOST_MISTAKES]
    )
