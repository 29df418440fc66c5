"""ONNX Runtime, on the CPU."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from ...errors import first_line
from ...processor import has_vnni
from ...records import Artifact, Precision
from .signature import cannot_open, check_logits, check_pixels, check_tensors, fails_on

__all__ = ["FITTING", "OnnxRuntimeEngine", "adds_in_16_bits", "session_options", "sums_fit"]

FITTING: Final = "mobilenets.sums fit in 16 bits"
"""The key in the metadata of int8 files whose weights are chosen so (`export.int8.weights`)."""


def adds_in_16_bits() -> bool:
    """Whether ONNX Runtime adds pairs of products of bytes in 16 bits, where most int8 models overflow and are wrong.

    It does on x86 without VNNI. Where that cannot be seen (only Linux tells), it is taken for granted.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not has_vnni()


def sums_fit(content: bytes) -> bool:
    """Whether an ONNX file says that its int8 weights never overflow so. Files of other makers do not say."""
    return FITTING.encode() in content


def session_options(precision: Precision, *, threads: int, content: bytes | None) -> Any:
    """How a session is opened here (`onnxruntime.SessionOptions`), for answers and for whoever measures them.

    Args:
        precision: of the file.
        threads: within an operator.
        content: of the file, looked at where its sums matter (`sums_fit`); None: they fit.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # of this session only; what it logs as an error it raises as well
    if precision == "int8" and content is not None and adds_in_16_bits() and not sums_fit(content):
        # Then int8 weights are taken as unsigned bytes, which do not overflow, and are slower.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@final
class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    Between runs its threads spin for a while, waiting for work: ONNX Runtime's default, kept because sleeping instead
    costs a fifth of the speed (see `bench.worker`, which waits until they are quiet). Calling `run` from several
    Python threads is safe.

    Args:
        files: the ONNX file by its name.
        artifact: its record.
        threads: threads within an operator; operators run one after the other.

    Raises:
        FileFormatError: the content is not an ONNX model, or not the one that the record describes.
    """

    def __init__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> None:
        import onnxruntime as ort

        content = files[artifact.file]
        options = session_options(artifact.precision, threads=threads, content=content)
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise cannot_open(
                artifact, first_line(error), wanted=f"an ONNX model that ONNX Runtime {ort.__version__} runs"
            ) from error
        self._artifact = artifact
        self._threads = threads
        self._version = str(ort.__version__)
        check_tensors(
            artifact=artifact,
            inputs={i.name: i.type for i in self._session.get_inputs()},
            outputs={o.name: o.type for o in self._session.get_outputs()},
            pixels="tensor(uint8)",
            logits="tensor(float)",
        )

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
        check_pixels(pixels, artifact=self._artifact)
        try:
            (logits,) = self._session.run(
                [self._artifact.output_name], {self._artifact.input_name: np.ascontiguousarray(pixels)}
            )
        except Exception as error:  # as above: no common base class
            raise fails_on(len(pixels), self._artifact, first_line(error)) from error
        return check_logits(logits, count=len(pixels), artifact=self._artifact)
