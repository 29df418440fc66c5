"""A file of any of the formats, run on arrays of its own type and layout; no record is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError, UsageError, first_line
from ..records import Format
from ..runtime.engines.onnx_runtime import session_options
from ..runtime.engines.open_vino import import_openvino
from .graph import Graph

__all__ = ["Runner", "runner_for"]

BATCH = 16


class Runner(Protocol):
    """Answers arrays."""

    def run(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Answer a batch.

        Args:
            array: in the file's own type and layout, (N, ...).

        Returns:
            the first output, float32 (N, classes).

        Raises:
            FileFormatError: the file fails.
        """


def runner_for(content: Path | bytes, graph: Graph) -> Runner:
    """Open a file.

    Args:
        content: its path, or an ONNX model in memory.
        graph: of it.

    Raises:
        FileFormatError: the engine's library does not open it.
        MissingExtraError: that library is not installed.
        UsageError: bytes of another format than ONNX.
    """
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape else None
    if graph.format == "onnx":
        return _Onnx(content, graph, batch)
    if isinstance(content, bytes):
        raise UsageError(f"a {graph.format} file as bytes", wanted="its path", do="write it to a file")
    if graph.format == "tflite":
        return _LiteRt(content)
    if graph.format == "openvino":
        return _OpenVino(content, batch)
    raise _no_runner(graph.format)


def _no_runner(format: Format) -> UsageError:
    return UsageError(f"the format is {format}", wanted="onnx, tflite or openvino", do="export to one of these")


def _in_batches(array: NDArray[Any], size: int | None, answer: Any) -> NDArray[np.float32]:
    """Answers of a file that takes batches of one size only, or of any; the last one is filled up."""
    answers = []
    step = size or BATCH
    for start in range(0, len(array), step):
        part = array[start : start + step]
        missing = step - len(part) if size else 0
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        answers.append(np.asarray(answer(np.ascontiguousarray(filled)), np.float32)[: len(part)].reshape(len(part), -1))
    return np.concatenate(answers)


def _failed(error: Exception, *, what: str) -> FileFormatError:
    return FileFormatError(
        f"the file {what}: {first_line(error)}",
        wanted="a model that its engine runs",
        do="export it again",
    )


@final
class _Onnx:
    def __init__(self, content: Path | bytes, graph: Graph, batch: int | None) -> None:
        import onnxruntime as ort

        quantised = any("uantizeLinear" in node.op or node.op.startswith("QLinear") for node in graph.nodes)
        looked_at = (content if isinstance(content, bytes) else content.read_bytes()) if quantised else None
        options = session_options("int8" if quantised else "fp32", threads=1, content=looked_at)
        try:
            self._session = ort.InferenceSession(
                content if isinstance(content, bytes) else str(content), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise _failed(error, what="does not open") from error
        self._input, self._batch = self._session.get_inputs()[0].name, batch

    def run(self, array: NDArray[Any]) -> NDArray[np.float32]:
        first = [self._session.get_outputs()[0].name]
        try:
            return _in_batches(array, self._batch, lambda part: self._session.run(first, {self._input: part})[0])
        except Exception as error:  # as above
            raise _failed(error, what="fails on these images") from error


@final
class _LiteRt:
    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtraError("ai_edge_litert", extra="litert") from error
        try:
            self._interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError, OSError) as error:
            raise _failed(error, what="does not open") from error
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def run(self, array: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return _in_batches(array, int(self._input["shape"][0]), self._answer)
        except (ValueError, RuntimeError) as error:
            raise _failed(error, what="fails on these images") from error

    def _answer(self, part: NDArray[Any]) -> NDArray[Any]:
        self._interpreter.set_tensor(self._input["index"], part)
        self._interpreter.invoke()
        given = self._interpreter.get_tensor(self._output["index"])
        scale, zero = self._output["quantization"]
        return np.asarray(scale * (given.astype(np.float32) - zero) if scale else given)


@final
class _OpenVino:
    def __init__(self, path: Path, batch: int | None) -> None:
        try:
            ov = import_openvino()
        except ImportError as error:
            raise MissingExtraError("openvino", extra="openvino") from error
        try:
            # Left to itself it computes in bfloat16 where the processor can, and another number is another answer.
            self._model = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise _failed(error, what="does not open") from error
        self._batch = batch

    def run(self, array: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return _in_batches(array, self._batch, lambda part: self._model([part])[self._model.outputs[0]])
        except Exception as error:  # as above
            raise _failed(error, what="fails on these images") from error
