"""ONNX files -> `Graph`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError, first_line
from .graph import Graph, Node, Port

__all__ = ["graph_of_onnx", "load_onnx"]


def load_onnx(path: Path, *, weights: Path | None = None) -> Any:
    """The `onnx.ModelProto` of a file, with the weights that lie beside it.

    Args:
        path: the file.
        weights: the folder of the weights, where that is another one.

    Raises:
        MissingExtraError: the package onnx is not installed.
        FileFormatError: not an ONNX model, or its weights are not beside it.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", extra="export") from error
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.load_external_data_for_model(model, str(weights or path.parent))
    except Exception as error:  # protobuf's own, OSError, and what checks the files of weights
        raise FileFormatError(
            f"{path} cannot be read: {first_line(error)}",
            wanted="a whole ONNX model, with the files of weights that it names beside it",
            do="check the path, or export it again",
        ) from error
    if not model.graph.node:
        raise FileFormatError(f"{path} has no operators", wanted="an ONNX model", do="check the path")
    return model


def graph_of_onnx(model: Any) -> Graph:
    """The graph of an `onnx.ModelProto`. What is inside If and Loop is not looked at.

    Raises:
        FileFormatError: it has no input or no output.
    """
    from onnx import helper, numpy_helper

    constants: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    same: dict[str, str] = {}  # a value that is another one by another name -> that one
    nodes = []
    for proto in model.graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in proto.attribute}
        inputs = tuple(same.get(name, name) for name in proto.input)
        if proto.op_type == "Constant":
            value = _constant(attributes, numpy_helper)
            if value is not None:
                constants[proto.output[0]] = value
                continue
        if proto.op_type == "Identity":
            same[proto.output[0]] = inputs[0]
            continue
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        nodes.append(
            Node(
                name=proto.name or (proto.output[0] if proto.output else proto.op_type),
                op=proto.op_type,
                inputs=inputs,
                outputs=tuple(proto.output),
                attributes=attributes,
                domain=domain,
            )
        )
    inputs = tuple(_port(info, helper) for info in model.graph.input if info.name not in constants)
    outputs = tuple(_port(info, helper, same) for info in model.graph.output)
    if not inputs or not outputs:
        raise FileFormatError(
            f"the model has {len(inputs)} inputs and {len(outputs)} outputs", wanted="one of each", do="export it again"
        )
    opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return Graph(
        format="onnx",
        nodes=tuple(nodes),
        constants=constants,
        inputs=inputs,
        outputs=outputs,
        shapes=_shapes(model),
        opset=max(opsets, default=None),
        metadata={each.key: each.value for each in model.metadata_props},
    )


def _constant(attributes: Mapping[str, Any], numpy_helper: Any) -> NDArray[Any] | None:
    if "value" in attributes:
        return np.asarray(numpy_helper.to_array(attributes["value"]))
    for name in ("value_float", "value_int", "value_floats", "value_ints"):
        if name in attributes:
            return np.asarray(attributes[name])
    return None


def _port(info: Any, helper: Any, same: Mapping[str, str] | None = None) -> Port:
    tensor = info.type.tensor_type
    try:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except KeyError:  # sequences and maps, which classifiers of other kinds give
        kind = "other"
    name = (same or {}).get(info.name, info.name)
    return Port(name=name, type=kind, shape=_sides(tensor.shape.dim))


def _sides(dims: Any) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)


def _shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    from onnx import shape_inference

    try:
        inferred = shape_inference.infer_shapes(model).graph
    except Exception:  # files above 2 GB, and operators that contradict themselves: then less is known
        inferred = model.graph
    return {
        each.name: _sides(each.type.tensor_type.shape.dim)
        for each in (*inferred.input, *inferred.value_info, *inferred.output)
        if each.type.tensor_type.HasField("shape")
    }
