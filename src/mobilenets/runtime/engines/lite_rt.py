"""LiteRT (TensorFlow Lite's new name), on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import final

import numpy as np
from numpy.typing import NDArray

from ...errors import first_line
from ...records import Artifact
from .signature import cannot_open, check_logits, check_pixels, check_tensors, fails_on

__all__ = ["LiteRtEngine"]


@final
class LiteRtEngine:
    """LiteRT's interpreter, whose work XNNPACK does.

    Calling `run` from several Python threads is safe; they take turns. A batch of another size than the last one costs
    a new plan of the memory.

    Args:
        files: the `.tflite` file by its name.
        artifact: its record.
        threads: threads within an operator.

    Raises:
        FileFormatError: the content is not such a model, or not the one that the record describes.
    """

    def __init__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> None:
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self._artifact = artifact
        self._threads = threads
        self._version = str(ai_edge_litert.__version__)
        try:
            self._interpreter = Interpreter(model_content=files[artifact.file], num_threads=threads)
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise cannot_open(
                artifact, first_line(error), wanted=f"a model that LiteRT {self._version} runs"
            ) from error
        check_tensors(
            artifact=artifact,
            inputs={each["name"]: np.dtype(each["dtype"]).name for each in inputs},
            outputs={each["name"]: np.dtype(each["dtype"]).name for each in outputs},
            pixels="uint8",
            logits="float32",
        )
        self._pixels = inputs[0]["index"]
        self._logits = next(each["index"] for each in outputs if each["name"] == artifact.output_name)
        self._batch = int(inputs[0]["shape"][0])
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""
        return "litert"

    @property
    def version(self) -> str:
        """LiteRT's version."""
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
        check_pixels(pixels, artifact=self._artifact)
        with self._lock:
            try:
                if len(pixels) != self._batch:
                    self._interpreter.resize_tensor_input(self._pixels, list(pixels.shape))
                    self._interpreter.allocate_tensors()
                    self._batch = len(pixels)
                self._interpreter.set_tensor(self._pixels, np.ascontiguousarray(pixels))
                self._interpreter.invoke()
                logits = self._interpreter.get_tensor(self._logits)  # a copy
            except (ValueError, RuntimeError) as error:
                self._batch = 0  # whatever state it is in: the next batch sets it up anew
                raise fails_on(len(pixels), self._artifact, first_line(error)) from error
        return check_logits(logits, count=len(pixels), artifact=self._artifact)
