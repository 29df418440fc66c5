"""OpenVINO, on the CPU."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, first_line
from ...records import Artifact, Precision
from .signature import cannot_open, check_logits, check_pixels, check_tensors, fails_on

__all__ = ["OpenVinoEngine", "cpu_options", "import_openvino", "reason_of"]

# What OpenVINO is asked to compute in. Left to itself it takes bfloat16 wherever the processor has it.
_ARITHMETIC: Final[Mapping[Precision, str]] = {
    "fp32": "f32",
    "fp16": "f32",
    "bf16": "bf16",
    "int8": "f32",
    "int8-weights": "f32",
    "int8-dynamic": "f32",
}


def cpu_options(precision: Precision, *, threads: int) -> dict[str, Any]:
    """How a model is compiled here, for answers and for whoever measures them."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _ARITHMETIC[precision],
    }


@final
class OpenVinoEngine:
    """OpenVINO on the CPU, tuned for the time of one answer.

    Its arithmetic is the artifact's precision and nothing else: without that hint, float32 files are computed in
    bfloat16 on processors that have it. Calling `run` from several Python threads is safe; they take turns.

    Args:
        files: the ONNX file, or the XML and its weights, by their names.
        artifact: their record.
        threads: threads of one answer.

    Raises:
        FileFormatError: the content is not such a model, or not the one that the record describes.
        UsageError: the artifact is bf16 and this processor has no bfloat16.
    """

    def __init__(self, files: Mapping[str, bytes], *, artifact: Artifact, threads: int) -> None:
        ov = import_openvino()
        self._artifact = artifact
        self._threads = threads
        self._version = str(ov.__version__).partition("-")[0]
        self._core = ov.Core()
        if artifact.precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(
                f"{artifact.file} is bf16, and this processor has no bfloat16",
                wanted="AVX-512 BF16, AMX, or an ARM processor with BF16",
                do="use the fp32 artifact here; OpenVINO would compute this one as float32 without saying so",
            )
        weights = [ov.Tensor(np.frombuffer(files[name], np.uint8)) for name in artifact.companions]
        try:
            self._model = self._core.read_model(files[artifact.file], *weights)
            self._single = self._compiled(batch=1)
        except Exception as error:  # OpenVINO raises plain RuntimeErrors
            raise cannot_open(
                artifact, reason_of(error), wanted=f"a model that OpenVINO {self._version} runs"
            ) from error
        self._many: Any = None  # made when a batch of more than one comes
        self._lock = threading.Lock()
        check_tensors(
            artifact=artifact,
            inputs={i.any_name: i.element_type.get_type_name() for i in self._model.inputs},
            outputs={o.any_name: o.element_type.get_type_name() for o in self._model.outputs},
            pixels="u8",
            logits="f32",
        )

    @property
    def name(self) -> str:
        """The engine's key in `ENGINES`."""
        return "openvino"

    @property
    def version(self) -> str:
        """OpenVINO's version."""
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
        with self._lock:  # a request runs one answer at a time
            try:
                if len(pixels) > 1 and self._many is None:
                    self._many = self._compiled(batch=None)
                request = self._single if len(pixels) == 1 else self._many
                answer = request.infer({self._artifact.input_name: np.ascontiguousarray(pixels)}, share_inputs=True)
                logits = answer[self._artifact.output_name]
            except Exception as error:  # as above
                raise fails_on(len(pixels), self._artifact, reason_of(error)) from error
        return check_logits(logits, count=len(pixels), artifact=self._artifact)

    def _compiled(self, *, batch: int | None) -> Any:
        """A request for batches of that size, or of any: knowing the size saves a tenth of a small network's time."""
        model = self._model
        if batch is not None:
            model = model.clone()
            model.reshape({i: [batch, *list(i.partial_shape)[1:]] for i in model.inputs})
        wanted = _ARITHMETIC[self._artifact.precision]
        compiled = self._core.compile_model(model, "CPU", cpu_options(self._artifact.precision, threads=self._threads))
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if taken != wanted:
            raise RuntimeError(f"it computes in {taken} where {wanted} was asked for")
        return compiled.create_infer_request()


def import_openvino() -> Any:
    """The module openvino, kept from reporting its use: on import it writes to a web service of its makers.

    Only that reporting, a package of its own, is made unavailable, and only while openvino is imported: it then takes
    the stub that it carries for installations without the package.
    """
    with _hidden("openvino_telemetry"):
        import openvino

    return openvino


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Make a package's import fail, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own mark for "not to be found"
    try:
        yield
    finally:
        del sys.modules[package]


def reason_of(error: Exception) -> str:
    """The line that says something: OpenVINO begins with where in its source it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or [first_line(error)])[0]
