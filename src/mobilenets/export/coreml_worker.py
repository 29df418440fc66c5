"""`torch.export` program -> Core ML, in a process of its own: torch, numpy and coremltools are all it imports.

    python coreml_worker.py lower  PROGRAM.pt2 FACTS.json MODEL.mlpackage fp32|fp16|int8-weights
    python coreml_worker.py answer MODEL.mlpackage PIXELS.npy LOGITS.npy

It may be run by the Python of another environment, where this package is not installed: it imports nothing of it.

Core ML itself runs on Apple's systems only. What `answer` does instead is to read the finished package back and to
compute its operators, one after the other, with its weights, by torch in float32. So the file is held to what it says,
and what is left to Apple is to do what it says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["FACTS_PREFIX", "answer", "lower", "main"]

FACTS_PREFIX = "mobilenets."  # of the package's user-defined metadata


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "lower":
        lower(*map(Path, sys.argv[2:5]), precision=sys.argv[5])
    else:
        answer(*map(Path, sys.argv[2:]))


def lower(program: Path, facts: Path, package: Path, *, precision: str) -> None:
    """Write the package of a program that takes float images (1, C, R, R) of values from 0 to 255.

    With "int8-weights", filters and matrices are bytes with a step per output channel, computed with in float16.
    Activations stay what they are: `linear_quantize_activations` runs the model to calibrate, which needs a Mac.
    """
    import json

    import coremltools as ct
    import numpy as np
    import torch

    exported = torch.export.load(program).run_decompositions({})
    (example,), _ = exported.example_inputs
    colours = ct.colorlayout.RGB if example.shape[1] == 3 else ct.colorlayout.GRAYSCALE
    arithmetic = {"fp32": ct.precision.FLOAT32, "fp16": ct.precision.FLOAT16, "int8-weights": ct.precision.FLOAT16}
    model = ct.convert(
        exported,
        inputs=[ct.ImageType(name="pixels", shape=example.shape, color_layout=colours)],
        outputs=[ct.TensorType(name="logits", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=arithmetic[precision],
        skip_model_load=True,
    )
    if precision == "int8-weights":
        model = _with_byte_weights(model)
    for name, value in json.loads(facts.read_text(encoding="utf-8")).items():
        model.user_defined_metadata[FACTS_PREFIX + name] = value
    model.save(str(package))


def _with_byte_weights(model: Any) -> Any:
    from coremltools.optimize import coreml

    # All of them, however small: the file is judged as a whole. Biases have one dimension and are left alone.
    each = coreml.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
    )
    return coreml.linear_quantize_weights(
        model, coreml.OptimizationConfig(op_type_configs={"conv": each, "linear": each})
    )


def answer(package: Path, pixels: Path, logits: Path) -> None:
    """Write the logits float32 (N, classes) for pixels uint8 (N, R, R, C), both as numpy's files."""
    import coremltools as ct
    import numpy as np
    import torch
    from coremltools.converters.mil.frontend.milproto.load import load

    model = ct.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    (function,) = program.functions.values()
    with torch.inference_mode():
        images = torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).float()
        answers = [_computed(function, image[None]) for image in images]
    np.save(logits, torch.cat(answers).numpy())


def _computed(function: Any, image: Any) -> Any:
    """A function of the package, operator by operator."""
    import torch

    values: dict[str, Any] = {next(iter(function.inputs)): image}

    def value_of(var: Any) -> Any:
        if var is None or isinstance(var, list | tuple):
            return var
        if var.name in values:
            return values[var.name]
        if isinstance(var.val, str):
            return var.val
        constant = torch.as_tensor(var.val)
        return constant.float() if constant.is_floating_point() else constant

    for operator in function.operations:
        if operator.op_type == "const":
            continue
        if operator.op_type not in OPERATORS:
            raise SystemExit(f"the package has an operator {operator.op_type}, which is not known here")
        inputs = {name: value_of(var) for name, var in operator.inputs.items() if var is not None}
        # How an operator is set is a plain value; only tensors are computed with.
        settings = {name: var.val for name, var in operator.inputs.items() if getattr(var, "val", None) is not None}
        values[operator.outputs[0].name] = OPERATORS[operator.op_type](inputs, settings)
    return values[function.outputs[0].name]


def _conv(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    import torch.nn.functional as F

    top, bottom, left, right = (int(side) for side in settings["pad"])
    if str(settings["pad_type"]) not in ("custom", "valid"):
        raise SystemExit(f"a convolution pads {settings['pad_type']!s}, which is not known here")
    if str(settings["pad_type"]) == "valid":
        top = bottom = left = right = 0
    return F.conv2d(
        F.pad(inputs["x"], (left, right, top, bottom)),
        inputs["weight"],
        inputs.get("bias"),
        stride=tuple(int(step) for step in settings["strides"]),
        dilation=tuple(int(step) for step in settings["dilations"]),
        groups=int(settings["groups"]),
    )


def _norm(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    import torch.nn.functional as F

    return F.batch_norm(
        inputs["x"],
        inputs["mean"],
        inputs["variance"],
        inputs["gamma"],
        inputs["beta"],
        eps=float(settings["epsilon"]),
    )


def _pad(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    """By pairs (before, after), first dimension first; torch wants the last first."""
    import torch.nn.functional as F

    sides = [int(side) for side in settings["pad"]]
    pairs = [sides[i : i + 2] for i in range(0, len(sides), 2)]
    return F.pad(
        inputs["x"], [side for pair in reversed(pairs) for side in pair], value=float(settings["constant_val"])
    )


def _matmul(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    x, y = inputs["x"], inputs["y"]
    x = x.transpose(-1, -2) if settings.get("transpose_x") else x
    y = y.transpose(-1, -2) if settings.get("transpose_y") else y
    return x @ y


def _gelu(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    import torch.nn.functional as F

    if str(settings["mode"]) != "EXACT":
        raise SystemExit(f"GELU is {settings['mode']!s}, and should be EXACT")
    return F.gelu(inputs["x"])


def _expanded(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    value = inputs["x"]
    for axis in sorted(int(axis) for axis in settings["axes"]):
        value = value.unsqueeze(axis)
    return value


def _linear(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    import torch.nn.functional as F

    return F.linear(inputs["x"], inputs["weight"], inputs.get("bias"))


def _from_bytes(inputs: dict[str, Any], settings: dict[str, Any]) -> Any:
    """(bytes - zero point) * step, both along one axis."""
    import torch

    values = torch.as_tensor(settings["quantized_data"])
    shape = [1] * values.dim()
    shape[int(settings["axis"])] = -1
    step, zero = (torch.as_tensor(settings[name]).float().reshape(shape) for name in ("scale", "zero_point"))
    return (values.float() - zero) * step


# Core ML's definitions: apple.github.io/coremltools, "MIL Ops".
OPERATORS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "add": lambda i, s: i["x"] + i["y"],
    "batch_norm": _norm,
    "cast": lambda i, s: i["x"],  # everything is float32 here
    "clip": lambda i, s: i["x"].clamp(float(s["alpha"]), float(s["beta"])),
    "constexpr_affine_dequantize": _from_bytes,
    "conv": _conv,
    "expand_dims": _expanded,
    "gelu": _gelu,
    "linear": _linear,
    "matmul": _matmul,
    "mul": lambda i, s: i["x"] * i["y"],
    "pad": _pad,
    "reduce_mean": lambda i, s: i["x"].mean([int(a) for a in s["axes"]], keepdim=bool(s["keep_dims"])),
    "relu": lambda i, s: i["x"].clamp(min=0),
    "relu6": lambda i, s: i["x"].clamp(0, 6),
    "reshape": lambda i, s: i["x"].reshape([int(side) for side in s["shape"]]),
    "sigmoid_hard": lambda i, s: (float(s["alpha"]) * i["x"] + float(s["beta"])).clamp(0, 1),
    "softmax": lambda i, s: i["x"].softmax(int(s["axis"])),
    "squeeze": lambda i, s: i["x"].squeeze(tuple(int(axis) for axis in s["axes"])),
    "thresholded_relu": lambda i, s: i["x"] * (i["x"] >= float(s["alpha"])),
    "transpose": lambda i, s: i["x"].permute([int(axis) for axis in s["perm"]]),
}


if __name__ == "__main__":
    main()
