"""Static int8 of a bundle: which ranges and corrections, and which rows stay float32, tried on images held back."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import MissingExtraError, UsageError
from ..progress import say
from .calibration import MOST_FLOAT, MOST_HELD, check_answers, check_calibration, held_back
from .gate import Limits
from .int8 import (
    Kernels,
    Range,
    RangeMethod,
    Ranges,
    calibrated,
    channel_means,
    corrected,
    equalized,
    layer_steps,
    prepared,
    quantized,
    trained_ranges,
)
from .onnx_graph import INPUT_NAME, OUTPUT_NAME, to_onnx

__all__ = ["Calibrate", "Quantized", "Trial", "quantize"]

Calibrate = Literal["auto", "minmax", "percentile", "entropy"]

BATCH: Final = 16


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One way to quantise, and what it did to calibration images that it did not see."""

    calibration: RangeMethod
    trained: bool = False  # ranges are those that the weights were trained with; `calibration` is of the few others
    corrected: bool = False  # biases; see `int8.corrected`
    equalized: bool = False  # channels; see `int8.equalized`
    floats: tuple[str, ...] = ()  # rows that stay float32: "rows.3", "head"
    agreement: float | None = None  # share of images with float32's top-1; None: nothing was held back
    noise: float | None = None  # variance of what was added to the logits, in variances of the logits
    n: int = 0  # images held back

    def described(self) -> str:
        """In one line."""
        ways = ["ranges as trained" if self.trained else str(self.calibration)]
        ways += ["biases corrected"] * self.corrected + ["channels equalised"] * self.equalized
        ways += [f"{', '.join(self.floats)} in float32"] if self.floats else []
        if self.noise is None or self.agreement is None:
            return ", ".join(ways)
        return (
            f"{', '.join(ways)}: noise {100 * self.noise:.2f} % of the logits' variance,"
            f" {100 * self.agreement:.1f} % of {self.n} images answered alike"
        )


class Quantized(NamedTuple):
    """An int8 model and how it came about."""

    model: Any  # onnx.ModelProto
    trials: tuple[Trial, ...]
    kept: Trial


def quantize(
    bundle: Bundle, images: NDArray[np.uint8], *, calibration: Calibrate = "auto", kernels: Kernels = "onnxruntime"
) -> Quantized:
    """The int8 model of a bundle: weights int8 per output channel, activations uint8, pixels in, float32 logits out.

    With "auto", a quarter of the images is held back, and on them is tried: ranges by min-max and by percentile, each
    with biases as they are and corrected; and channels equalised, where there are ReLUs. What adds the least noise to
    the logits is kept. If even that answers fewer of the images like float32 than the gate asks for, the rows that add
    most of the noise, each measured by itself, stay float32, as few as are needed and at most a third.

    Where the last step of the bundle was training for int8, "auto" takes the ranges that were trained and tries
    nothing: the weights were made for them.

    Fewer than 4 x LEAST_HELD images are too few to judge by; then it is min-max and nothing else. A named calibration
    is taken as it is, from all images.

    Args:
        bundle: a trained network.
        images: prepared training images, uint8 (N, R, R, C), N >= 1.
        calibration: how ranges are found.
        kernels: arrange the graph for these. All engines can read such a model, but gain nothing by another's.

    Raises:
        UsageError: there are no images, or the calibration or the kernels are unknown.
        MissingExtraError: onnx or onnxruntime is not installed.
        CheckError: the network answers in float32 with what is no number.
    """
    if calibration not in get_args(Calibrate):
        raise UsageError(f"calibration {calibration!r}", wanted=", ".join(get_args(Calibrate)), do="use one")
    check_calibration(images)
    graph = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
    check_answers(_answers(graph, images[:BATCH]), name=bundle.spec.name)
    proto = prepared(graph, bundle.preprocess, kernels=kernels)
    trained = trained_ranges(bundle) if calibration == "auto" else None
    if trained is not None:
        return _as_trained(proto, trained, images, kernels=kernels)
    judged = held_back(len(images))
    if calibration != "auto" or not judged.any():
        only = Trial(calibration="minmax" if calibration == "auto" else calibration)
        model = quantized(proto, _ranges(proto, images, method=only.calibration), kernels=kernels)
        return Quantized(model=model, trials=(only,), kept=only)
    return _Search(proto, images[~judged], images[judged], kernels=kernels).best()


def _as_trained(proto: Any, trained: Ranges, images: NDArray[np.uint8], *, kernels: Kernels) -> Quantized:
    """With the ranges of the training; values that only other engines round have what is seen."""
    ranges = {**calibrated(proto, images, method="minmax"), **trained}
    model = quantized(proto, ranges, kernels=kernels)
    judging = images[:MOST_HELD]
    agreement, noise = _compared(_answers(proto, judging), _answers(model, judging))
    kept = Trial(calibration="minmax", trained=True, agreement=agreement, noise=noise, n=len(judging))
    say(f"int8, {kept.described()}")
    return Quantized(model=model, trials=(kept,), kept=kept)


class _Search:
    """What is known of one network while ways to quantise it are tried."""

    def __init__(self, proto: Any, seen: NDArray[np.uint8], held: NDArray[np.uint8], *, kernels: Kernels) -> None:
        self._seen = seen
        self._held = held
        self._kernels = kernels
        self._reference = _answers(proto, held)
        self._graphs = {False: proto}
        even = equalized(proto, seen)
        if even is not None:
            self._graphs[True] = even
        self._steps = {even: layer_steps(graph) for even, graph in self._graphs.items()}
        self._means = {even: channel_means(graph, seen) for even, graph in self._graphs.items()}
        self._ranges: dict[tuple[bool, RangeMethod], Ranges] = {}
        self.trials: list[Trial] = []

    def best(self) -> Quantized:
        asked = [Trial(calibration=method, corrected=corrects) for method in _TRIED for corrects in (False, True)]
        if True in self._graphs:
            asked.append(Trial(calibration="minmax", corrected=True, equalized=True))
        # Agreement counts images, and a hundred of them say little; noise is measured on every logit.
        model, kept = min((self._tried(trial) for trial in asked), key=lambda found: _noise(found[1]))
        enough = Limits.of("int8").agreement
        if (kept.agreement or 0) < enough:
            model, kept = self._mixed(model, kept, enough=enough)
        return Quantized(model=model, trials=tuple(self.trials), kept=kept)

    def _mixed(self, model: Any, kept: Trial, *, enough: float) -> tuple[Any, Trial]:
        """The fewest float32 rows that bring the agreement about, or what was given where a third does not."""
        alone = {
            row: _noise(self._tried(msgspec.structs.replace(kept, floats=(row,)), quiet=True)[1])
            for row in _rows(self._graphs[False])
        }
        order = sorted(alone, key=lambda row: alone[row])
        for count in range(1, int(MOST_FLOAT * len(order)) + 1):
            better = self._tried(msgspec.structs.replace(kept, floats=tuple(order[:count])))
            if (better[1].agreement or 0) >= enough:
                return better
        return model, kept

    def _tried(self, asked: Trial, *, quiet: bool = False) -> tuple[Any, Trial]:
        graph, steps = self._graphs[asked.equalized], self._steps[asked.equalized]
        key = (asked.equalized, asked.calibration)
        if key not in self._ranges:
            self._ranges[key] = _ranges(graph, self._seen, method=asked.calibration)
        floats = _nodes_of(graph, asked.floats)
        if asked.corrected:
            graph = corrected(graph, self._means[asked.equalized], steps, floats=floats)
        model = quantized(graph, self._ranges[key], kernels=self._kernels, floats=floats, steps=steps)
        agreement, noise = _compared(self._reference, _answers(model, self._held))
        trial = msgspec.structs.replace(asked, agreement=agreement, noise=noise, n=len(self._held))
        self.trials.append(trial)
        if not quiet:
            say(f"int8, {trial.described()}")
        return model, trial


# Entropy is left to those who ask: it takes as long as the others together, and cost V2 3.6 points of top-1 where the
# others cost none (`docs/log.md`).
_TRIED: Final[tuple[RangeMethod, ...]] = ("minmax", "percentile")


def _noise(trial: Trial) -> float:
    return math.inf if trial.noise is None or math.isnan(trial.noise) else trial.noise


def _row_of(node: Any) -> str:
    """The row of the table that a node belongs to: "rows.3", "head"; "input" for what comes before."""
    parts = node.name.split(".")
    return f"rows.{parts[1]}" if parts[0] == "rows" else "head" if node.name == OUTPUT_NAME else str(parts[0])


def _rows(proto: Any) -> list[str]:
    return [row for row in dict.fromkeys(_row_of(node) for node in proto.graph.node) if row != "input"]


def _nodes_of(proto: Any, rows: Collection[str]) -> set[str]:
    return {node.name for node in proto.graph.node if _row_of(node) in rows}


def _compared(reference: NDArray[np.float32], answered: NDArray[np.float32]) -> tuple[float, float]:
    varies = float(np.square(reference - reference.mean(axis=0)).sum())
    added = float(np.square(answered - reference).sum())
    agreement = float((reference.argmax(axis=1) == answered.argmax(axis=1)).mean())
    return agreement, added / varies if varies > 0 else math.nan


def _ranges(proto: Any, images: NDArray[np.uint8], *, method: RangeMethod) -> Ranges:
    """With every logit in its range, whatever the method: the greatest, which a percentile drops, is the answer."""
    found = calibrated(proto, images, method=method)
    if method != "minmax":
        logits = _answers(proto, images)
        found[OUTPUT_NAME] = Range(float(logits.min()), float(logits.max()))
    return found


def _answers(proto: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, classes)."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra="export") from error
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = [
        session.run([OUTPUT_NAME], {INPUT_NAME: images[start : start + BATCH]})[0]
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(found).astype(np.float32)
