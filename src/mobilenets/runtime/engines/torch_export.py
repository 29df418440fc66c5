"""torch itself, running a program of `torch.export`. The one engine of the field that is the workshop's."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, first_line
from ...records import Artifact
from .signature import cannot_open, check_logits, check_pixels, fails_on

__all__ = ["FACTS_FILE", "TorchExportEngine"]

FACTS_FILE: Final = "mobilenets.json"  # an extra file in the archive


@final
class TorchExportEngine:
    """A `.pt2` program, run operator by operator on the CPU.

    Its threads are those of the whole process, as torch has it. Calling `run` from several Python threads is safe; they
    take turns.

    Args:
        files: the `.pt2` file by its name.
        artifact: its record.
        threads: threads within an operator.

    Raises:
        FileFormatError: the content is not such a program, or not the one that the record describes.
    """

    def __init__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> None:
        import torch

        self._torch: Any = torch
        self._artifact = artifact
        self._threads = threads
        torch.set_num_threads(threads)
        try:
            program = torch.export.load(io.BytesIO(files[artifact.file]))
        except Exception as error:  # whatever the readers of zip, JSON and tensors raise
            raise cannot_open(
                artifact,
                first_line(error),
                wanted=f"a program that torch {torch.__version__} loads",
                do="export it again; programs of another release of torch may not load",
            ) from error
        (given,) = program.graph_signature.user_inputs
        if given != artifact.input_name:
            raise FileFormatError(
                f"{artifact.file} has the input {given}",
                wanted=f"{artifact.input_name} as artifact.json says",
                do="export it again",
            )
        # Images come in by pixels; filters that lie by pixels as well need not be turned for each answer.
        self._network = program.module().to(memory_format=torch.channels_last)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""
        return "torch"

    @property
    def version(self) -> str:
        """torch's version."""
        return str(self._torch.__version__)

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
        given = self._torch.from_numpy(np.array(pixels, order="C"))  # a copy: torch asks for memory it may write to
        with self._lock, self._torch.inference_mode():
            try:
                logits = self._network(given).numpy()
            except RuntimeError as error:
                raise fails_on(len(pixels), self._artifact, first_line(error)) from error
        return check_logits(logits, count=len(pixels), artifact=self._artifact)
