"""What runs a model file: the table of engines."""

from __future__ import annotations

import os
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, UsageError
from ..records import Artifact, Format

__all__ = ["DEFAULT_ENGINES", "ENGINES", "Engine", "OnnxRuntimeEngine", "Opener", "default_threads"]

# A MobileNet's layers are small: more threads than this wait for one another more than they work.
DEFAULT_THREADS_LIMIT = 4


class Engine(Protocol):
    """A model, opened and ready to answer."""

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""

    @property
    def version(self) -> str:
        """The version of the library behind it."""

    @property
    def threads(self) -> int:
        """How many threads compute one answer."""

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answer a batch.

        Args:
            pixels: uint8 (N, R, R, C), N >= 1, as `images.load` makes them.

        Returns:
            logits, float32 (N, classes).

        Raises:
            UsageError: another dtype or shape.
        """


class Opener(Protocol):
    """Opens a model file's content with one engine."""

    def __call__(self, content: bytes, *, artifact: Artifact, threads: int) -> Engine:
        """Raise FileFormatError when the content is not such a model."""


def default_threads() -> int:
    """The cores that this process may use, at most 4."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min(cores, DEFAULT_THREADS_LIMIT))


@final
class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Between runs its threads spin for a while, waiting for work: ONNX Runtime's default, kept because sleeping instead
    costs a fifth of the speed (see `bench.worker`, which waits until they are quiet). Calling `run` from several
    Python threads is safe.

    Args:
        content: the ONNX file.
        artifact: its record.
        threads: threads within an operator; operators run one after the other.

    Raises:
        FileFormatError: the content is not an ONNX model, or not the one that the record describes.
    """

    def __init__(self, content: bytes, *, artifact: Artifact, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # of this session only; what it logs as an error it raises as well
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise FileFormatError(
                f"{artifact.file} cannot be opened: {_first_line(error)}",
                wanted=f"an ONNX model that ONNX Runtime {ort.__version__} runs",
                do="export it again",
            ) from error
        self._artifact = artifact
        self._threads = threads
        self._version = str(ort.__version__)
        self._check_signature()

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""
        return "onnxruntime"

    @property
    def version(self) -> str:
        """ONNX Runtime's version."""
        return self._version

    @property
    def threads(self) -> int:
        """How many threads compute one answer."""
        return self._threads

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answer a batch: pixels uint8 (N, R, R, C) -> logits float32 (N, classes).

        Raises:
            UsageError: another dtype or shape.
            FileFormatError: the model fails while it runs, or answers in another shape.
        """
        _check_pixels(pixels, artifact=self._artifact)
        try:
            (logits,) = self._session.run(
                [self._artifact.output_name], {self._artifact.input_name: np.ascontiguousarray(pixels)}
            )
        except Exception as error:  # as above: no common base class
            raise FileFormatError(
                f"{self._artifact.file} fails on a batch of {len(pixels)}: {_first_line(error)}",
                wanted="a model that answers batches of any size",
                do="export it again; if memory ran out, use a smaller batch",
            ) from error
        if logits.shape != (len(pixels), len(self._artifact.labels)):
            raise FileFormatError(
                f"{self._artifact.file} answers {logits.shape} to a batch of {len(pixels)}",
                wanted=f"logits ({len(pixels)}, {len(self._artifact.labels)})",
                do="export it again",
            )
        answer: NDArray[np.float32] = logits
        return answer

    def _check_signature(self) -> None:
        """The record and the graph agree on names and types."""
        artifact = self._artifact
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        for side, got, wanted in (
            ("inputs", inputs, {artifact.input_name: "tensor(uint8)"}),
            ("outputs", outputs, {artifact.output_name: "tensor(float)"}),
        ):
            agrees = got == wanted if side == "inputs" else wanted.items() <= got.items()
            if not agrees:
                raise FileFormatError(
                    f"{artifact.file} has the {side} {got}",
                    wanted=f"{wanted} as artifact.json says",
                    do="export it again",
                )


def _check_pixels(pixels: NDArray[Any], *, artifact: Artifact) -> None:
    """Refuse what the model was not made for.

    Raises:
        UsageError: not an array, not uint8, or not (N, R, R, C) with N >= 1.
    """
    side, channels = artifact.preprocess.resolution, artifact.preprocess.channels
    wanted = f"uint8 (N, {side}, {side}, {channels}) with N >= 1"
    if not isinstance(pixels, np.ndarray):
        raise UsageError(f"pixels is a {type(pixels).__name__}", wanted=f"an array {wanted}", do="use images.load")
    if pixels.dtype != np.uint8:
        raise UsageError(
            f"pixels are {pixels.dtype}",
            wanted=f"{wanted}: values 0 to 255, the model scales them itself",
            do="use images.load, and do not normalise",
        )
    if pixels.ndim != 4 or pixels.shape[1:] != (side, side, channels) or not len(pixels):
        do = "add the batch axis: pixels[None]" if pixels.shape == (side, side, channels) else "use images.load"
        raise UsageError(f"pixels have the shape {pixels.shape}", wanted=wanted, do=do)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


ENGINES: dict[str, Opener] = {
    "onnxruntime": OnnxRuntimeEngine,
}

# Which engine opens a format when none is named.
DEFAULT_ENGINES: dict[Format, str] = {
    "onnx": "onnxruntime",
}
