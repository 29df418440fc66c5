"""ExecuTorch's runtime, on the CPU. Its Python bindings hand tensors of torch in and out, and so need torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import metadata
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, first_line
from ...records import Artifact
from .signature import cannot_open, check_logits, check_pixels

__all__ = ["ExecuTorchEngine"]


@final
class ExecuTorchEngine:
    """An ExecuTorch program, whose work XNNPACK does.

    Batches are answered image by image: the files hold memory plans for one. Threads are those of the whole process.
    Calling `run` from several Python threads is safe; they take turns.

    Args:
        files: the `.pte` file by its name.
        artifact: its record.
        threads: threads within an operator.

    Raises:
        FileFormatError: the content is not such a program.
    """

    def __init__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> None:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        self._torch: Any = torch
        self._artifact = artifact
        self._threads = threads
        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)  # unsafe while something runs; nothing does yet
        try:
            self._program = Runtime.get().load_program(files[artifact.file])
            self._forward: Any = self._program.load_method("forward")
        except (RuntimeError, ValueError) as error:
            raise cannot_open(
                artifact, first_line(error), wanted=f"a program that ExecuTorch {self.version} runs"
            ) from error
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""
        return "executorch"

    @property
    def version(self) -> str:
        """ExecuTorch's version."""
        return metadata.version("executorch")

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
                answers = [self._one(image) for image in pixels]
            except RuntimeError as error:
                raise FileFormatError(
                    f"{self._artifact.file} fails on an image: {first_line(error)}",
                    wanted="a model that answers images of the size its record tells",
                    do="export it again",
                ) from error
        return check_logits(np.concatenate(answers), count=len(pixels), artifact=self._artifact)

    def _one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = self._forward.execute([self._torch.from_numpy(np.array(image[None], order="C"))])
        answer: NDArray[np.float32] = logits.numpy().copy()  # the next answer is written to the same memory
        return answer
