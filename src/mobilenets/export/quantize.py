"""Static int8 of a bundle: which ranges, which corrections, tried on images that were held back."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import MissingExtraError, UsageError
from ..progress import say
from .int8 import RangeMethod, calibrated, channel_means, corrected, prepared, quantized
from .onnx_graph import INPUT_NAME, OUTPUT_NAME, to_onnx

__all__ = ["Calibrate", "Quantized", "Trial", "quantize"]

Calibrate = Literal["auto", "minmax", "percentile", "entropy"]

# What "auto" tries. Entropy is left to those who ask: it takes as long as the others together, and cost V2 3.6 points
# of top-1 where the others cost none (`docs/log.md`).
TRIED: Final[tuple[RangeMethod, ...]] = ("minmax", "percentile")
HELD: Final = 0.25  # share of the calibration images that judge, and do not calibrate
LEAST_HELD: Final = 8  # fewer images tell nothing
MOST_HELD: Final = 128
BATCH: Final = 16


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One way to quantise, and what it did to calibration images that it did not see."""

    calibration: RangeMethod
    corrected: bool  # biases
    agreement: float | None = None  # share of images with float32's top-1; None: nothing was held back
    noise: float | None = None  # variance of what was added to the logits, in variances of the logits
    n: int = 0


class Quantized(NamedTuple):
    """An int8 model and how it came about."""

    model: Any  # onnx.ModelProto
    trials: tuple[Trial, ...]
    kept: Trial


def quantize(
    bundle: Bundle, images: NDArray[np.uint8], *, calibration: Calibrate = "auto", for_onnxruntime: bool = True
) -> Quantized:
    """The int8 model of a bundle: weights int8 per output channel, activations uint8, pixels in, float32 logits out.

    With "auto", a quarter of the images is held back. Ranges by min-max and by percentile, each with biases as they are
    and corrected (`int8.corrected`), are tried on them, and what adds the least noise to the logits is kept. Fewer than
    4 x LEAST_HELD images are too few to judge by; then it is min-max and nothing else. A named calibration is taken as
    it is, from all images.

    Args:
        bundle: a trained network.
        images: prepared training images, uint8 (N, R, R, C), N >= 1.
        calibration: how ranges are found.
        for_onnxruntime: arrange the graph for ONNX Runtime's kernels. Other engines read the same file, but gain
            nothing by it.

    Raises:
        UsageError: there are no images, or the calibration is unknown.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    if calibration not in get_args(Calibrate):
        raise UsageError(f"calibration {calibration!r}", wanted=", ".join(get_args(Calibrate)), do="use one")
    if not len(images):
        raise UsageError(
            "int8 without calibration images",
            wanted="some hundred prepared training images, from which value ranges are read",
            do="give the data set the model was trained on (--data)",
        )
    proto = prepared(
        to_onnx(bundle.spec, bundle.tensors, bundle.preprocess), bundle.preprocess, for_onnxruntime=for_onnxruntime
    )
    held = min(int(HELD * len(images)), MOST_HELD) if calibration == "auto" else 0
    if held < LEAST_HELD:
        method: RangeMethod = "minmax" if calibration == "auto" else calibration
        model = quantized(proto, calibrated(proto, images, method=method), for_onnxruntime=for_onnxruntime)
        only = Trial(calibration=method, corrected=False)
        return Quantized(model=model, trials=(only,), kept=only)
    # Every so-many-th, for data sets lie sorted by class.
    judged = np.zeros(len(images), bool)
    judged[np.linspace(0, len(images) - 1, held).astype(np.int64)] = True
    return _best(proto, images[~judged], images[judged], for_onnxruntime=for_onnxruntime)


def _best(proto: Any, seen: NDArray[np.uint8], held: NDArray[np.uint8], *, for_onnxruntime: bool) -> Quantized:
    reference = _answers(proto, held)
    graphs = {False: proto, True: corrected(proto, channel_means(proto, seen))}
    trials: list[tuple[Trial, Any]] = []
    for method in TRIED:
        ranges = calibrated(proto, seen, method=method)
        for corrects, graph in graphs.items():
            model = quantized(graph, ranges, for_onnxruntime=for_onnxruntime)
            agreement, noise = _compared(reference, _answers(model, held))
            trial = Trial(calibration=method, corrected=corrects, agreement=agreement, noise=noise, n=len(held))
            say(f"int8, {_told(trial)}")
            trials.append((trial, model))
    # Agreement counts images, and a hundred of them say little; noise is a number of every logit.
    kept, model = min(trials, key=lambda pair: _order(pair[0]))
    return Quantized(model=model, trials=tuple(trial for trial, _ in trials), kept=kept)


def _order(trial: Trial) -> float:
    noise = trial.noise
    return math.inf if noise is None or math.isnan(noise) else noise


def _told(trial: Trial) -> str:
    biases = "biases corrected" if trial.corrected else "biases as they are"
    return (
        f"{trial.calibration}, {biases}: noise {100 * (trial.noise or 0):.2f} % of the logits' variance,"
        f" {100 * (trial.agreement or 0):.1f} % of {trial.n} held-back images answered alike"
    )


def _compared(reference: NDArray[np.float32], answered: NDArray[np.float32]) -> tuple[float, float]:
    varies = float(np.square(reference - reference.mean(axis=0)).sum())
    added = float(np.square(answered - reference).sum())
    agreement = float((reference.argmax(axis=1) == answered.argmax(axis=1)).mean())
    return agreement, added / varies if varies > 0 else math.nan


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
