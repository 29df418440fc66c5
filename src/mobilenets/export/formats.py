"""What a bundle can be exported to. The fourth of the five extension tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..records import Format, Precision
from .byte_weights import with_byte_weights, with_dynamic_bytes
from .half import with_half_weights
from .inside import facts_of
from .int8 import Kernels
from .onnx_graph import to_onnx
from .openvino_ir import to_openvino
from .quantize import quantize
from .tflite import to_tflite

__all__ = ["FORMATS", "MADE_ELSEWHERE", "Calibration", "Made", "Maker", "onnx_file"]

Calibration = NDArray[np.uint8]  # (N, R, R, C), prepared training images
Made = Mapping[str, bytes]  # content by file name, the model file first and what it needs beside it after that
Maker = Callable[[Bundle, Calibration | None], Made]


def _graph(bundle: Bundle) -> Any:
    """The float32 ONNX model, from which other formats are made as well."""
    return to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)


def onnx_file(model: Any, bundle: Bundle) -> Made:
    """An ONNX model as a file that carries its labels and preprocessing."""
    for name, value in facts_of(bundle).items():
        model.metadata_props.add(key=f"mobilenets.{name}", value=value)
    return {"model.onnx": model.SerializeToString()}


def _onnx_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    return onnx_file(_graph(bundle), bundle)


def _onnx_fp16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Weights in float16; `calibration` is not looked at."""
    return onnx_file(with_half_weights(_graph(bundle)), bundle)


def _onnx_int8_weights(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Weights as bytes, computed in float32; `calibration` is not looked at."""
    return onnx_file(with_byte_weights(_graph(bundle)), bundle)


def _onnx_int8_dynamic(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Bytes whose ranges are found at each run; `calibration` is not looked at."""
    return onnx_file(with_dynamic_bytes(_graph(bundle)), bundle)


def _onnx_int8(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Static int8, per-channel weights.

    Raises:
        UsageError: there are no calibration images.
    """
    return onnx_file(_quantized(bundle, calibration), bundle)


def _quantized(bundle: Bundle, calibration: Calibration | None, *, kernels: Kernels = "onnxruntime") -> Any:
    """The int8 ONNX model.

    Raises:
        UsageError: there are no calibration images.
    """
    if calibration is None:
        calibration = np.zeros((0,), np.uint8)
    return quantize(bundle, calibration, kernels=kernels).model


def _openvino_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    return to_openvino(_graph(bundle), facts=facts_of(bundle))


def _openvino_fp16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Weights in float16; `calibration` is not looked at."""
    return to_openvino(_graph(bundle), facts=facts_of(bundle), half=True)


def _openvino_bf16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Computed in bfloat16, as the engine is told when it opens the file. float16 keeps three bits more of a weight."""
    return to_openvino(_graph(bundle), facts=facts_of(bundle), half=True)


def _openvino_int8(bundle: Bundle, calibration: Calibration | None) -> Made:
    """The int8 ONNX model as OpenVINO has it.

    Raises:
        UsageError: there are no calibration images.
    """
    return to_openvino(_quantized(bundle, calibration, kernels="openvino"), facts=facts_of(bundle))


def _tflite_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    return {"model.tflite": to_tflite(_graph(bundle), facts=facts_of(bundle))}


def _tflite_fp16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Weights in float16; `calibration` is not looked at."""
    return {"model.tflite": to_tflite(_graph(bundle), facts=facts_of(bundle), half=True)}


def _tflite_int8(bundle: Bundle, calibration: Calibration | None) -> Made:
    """The int8 ONNX model as LiteRT has it.

    Raises:
        UsageError: there are no calibration images.
    """
    model = _quantized(bundle, calibration, kernels="litert")
    return {"model.tflite": to_tflite(model, facts=facts_of(bundle))}


def _executorch_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    from .outside import to_executorch  # torch takes seconds to import, and the other formats need none

    return to_executorch(bundle, facts=facts_of(bundle))


def _executorch_int8(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Static int8 by XNNPACK's quantiser, per-channel weights.

    Raises:
        UsageError: there are no calibration images.
    """
    from .outside import to_executorch_int8

    images = np.zeros((0,), np.uint8) if calibration is None else calibration
    return to_executorch_int8(bundle, facts=facts_of(bundle), images=images)


def _coreml_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    from .outside import to_coreml

    return to_coreml(bundle, facts=facts_of(bundle), precision="fp32")


def _coreml_fp16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Kept and computed in float16, which is what Apple's neural engine does; `calibration` is not looked at."""
    from .outside import to_coreml

    return to_coreml(bundle, facts=facts_of(bundle), precision="fp16")


def _coreml_int8_weights(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Weights as bytes, computed in float16; `calibration` is not looked at.

    int8 for activations is not to be had here: coremltools calibrates it by running the model, which needs a Mac.
    """
    from .outside import to_coreml

    return to_coreml(bundle, facts=facts_of(bundle), precision="int8-weights")


def _pt2_fp32(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Float32; `calibration` is not looked at."""
    from .torch_program import to_pt2

    return {"model.pt2": to_pt2(bundle, facts=facts_of(bundle))}


def _pt2_bf16(bundle: Bundle, calibration: Calibration | None) -> Made:
    """Kept and computed in bfloat16; `calibration` is not looked at."""
    import torch

    from .torch_program import to_pt2

    return {"model.pt2": to_pt2(bundle, facts=facts_of(bundle), dtype=torch.bfloat16)}


FORMATS: Mapping[tuple[Format, Precision], Maker] = MappingProxyType(
    {
        ("onnx", "fp32"): _onnx_fp32,
        ("onnx", "fp16"): _onnx_fp16,
        ("onnx", "int8"): _onnx_int8,
        ("onnx", "int8-weights"): _onnx_int8_weights,
        ("onnx", "int8-dynamic"): _onnx_int8_dynamic,
        ("openvino", "fp32"): _openvino_fp32,
        ("openvino", "fp16"): _openvino_fp16,
        ("openvino", "bf16"): _openvino_bf16,
        ("openvino", "int8"): _openvino_int8,
        ("tflite", "fp32"): _tflite_fp32,
        ("tflite", "fp16"): _tflite_fp16,
        ("tflite", "int8"): _tflite_int8,
        ("executorch", "fp32"): _executorch_fp32,
        ("executorch", "int8"): _executorch_int8,
        ("coreml", "fp32"): _coreml_fp32,
        ("coreml", "fp16"): _coreml_fp16,
        ("coreml", "int8-weights"): _coreml_int8_weights,
        ("pt2", "fp32"): _pt2_fp32,
        ("pt2", "bf16"): _pt2_bf16,
    }
)
# What there is, but cannot be made here: why, and what can.
MADE_ELSEWHERE: Mapping[tuple[Format, Precision], tuple[str, str]] = MappingProxyType(
    {
        ("coreml", "int8"): (
            "a Mac: coremltools finds the ranges of activations by running the model, and only Apple's systems run it",
            "export as int8-weights, or quantise the fp16 package there (linear_quantize_activations)",
        )
    }
)
