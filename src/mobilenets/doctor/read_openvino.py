"""OpenVINO's IR -> `Graph`, in ONNX's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError
from ..runtime.engines.open_vino import import_openvino, reason_of
from .graph import Graph, Node, Port

__all__ = ["graph_of_openvino"]

OPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Convolution": "Conv",
        "GroupConvolution": "Conv",
        "Multiply": "Mul",
        "Subtract": "Sub",
        "Divide": "Div",
        "Minimum": "Min",
        "Maximum": "Max",
        "ReLU": "Relu",
        "Clamp": "Clip",
        "HSwish": "HardSwish",
        "HSigmoid": "HardSigmoid",
        "SoftMax": "Softmax",
        "Softmax": "Softmax",
        "BatchNormInference": "BatchNormalization",
        "ShapeOf": "Shape",
        "Convert": "Cast",
    }
)
TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {"f32": "float32", "f16": "float16", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64"}
)
BYTES: Final = ("int8", "uint8")


def graph_of_openvino(path: Path) -> Graph:
    """The graph of an `.xml` with its weights beside it.

    Raises:
        MissingExtraError: openvino is not installed.
        FileFormatError: OpenVINO does not read it.
    """
    try:
        ov = import_openvino()
    except ImportError as error:
        raise MissingExtraError("openvino", extra="openvino") from error
    try:
        model = ov.Core().read_model(str(path))
    except Exception as error:  # OpenVINO raises plain RuntimeErrors
        raise FileFormatError(
            f"{path} cannot be read: {reason_of(error)}",
            wanted="OpenVINO's IR, with its .bin beside it",
            do="check the path, or export it again",
        ) from error
    return _Reading(model).graph()


class _Reading:
    def __init__(self, model: Any) -> None:
        self._model = model
        self._nodes: list[Node] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        self._outputs: list[Port] = []

    def graph(self) -> Graph:
        for op in self._model.get_ordered_ops():
            self._read(op)
        inputs = tuple(
            Port(port.get_node().get_friendly_name(), _type(port), _sides(port.get_partial_shape()))
            for port in self._model.inputs
        )
        return Graph(
            format="openvino",
            nodes=tuple(self._nodes),
            constants=self._constants,
            inputs=inputs,
            outputs=tuple(self._outputs),
            shapes=self._shapes,
        )

    def _read(self, op: Any) -> None:
        kind, name = op.get_type_name(), op.get_friendly_name()
        for number, port in enumerate(op.outputs()):
            self._shapes[_value(name, number)] = _sides(port.get_partial_shape())
        inputs = [_value(s.get_node().get_friendly_name(), s.get_index()) for s in map(_source, op.inputs())]
        if kind == "Constant":
            self._constants[name] = np.asarray(op.data)
            return
        if kind == "Result":
            port = op.input(0).get_source_output()
            self._outputs.append(Port(inputs[0], _type(port), _sides(port.get_partial_shape())))
            return
        if kind == "Parameter":
            return
        sides = [side for side in self._shapes[_value(name, 0)] if side is not None]
        if kind == "Reshape" and inputs[0] in self._constants and np.prod(sides) == self._constants[inputs[0]].size:
            self._constants[name] = self._constants[inputs[0]].reshape(sides)  # filters by groups
            return
        if kind == "FakeQuantize" and self._fake(name, inputs, int(op.get_attributes()["levels"])):
            return
        if kind == "Multiply" and self._weight(name, inputs):
            return
        attributes = self._attributes(kind, op, inputs)
        if kind == "Clamp":
            for end in ("min", "max"):
                self._constants[f"{name}/{end}"] = np.array(op.get_attributes()[end], np.float32)
            inputs += [f"{name}/min", f"{name}/max"]
        outputs = tuple(_value(name, number) for number in range(len(op.outputs())))
        self._nodes.append(Node(name, OPS.get(kind, kind), tuple(inputs), outputs, attributes))

    def _attributes(self, kind: str, op: Any, inputs: list[str]) -> dict[str, Any]:
        given = op.get_attributes()
        if kind in ("Convolution", "GroupConvolution"):
            weight = self._shapes.get(inputs[1], ())
            auto = str(given["auto_pad"]).upper()
            return {
                "strides": list(given["strides"]),
                "dilations": list(given["dilations"]),
                "pads": [*given["pads_begin"], *given["pads_end"]],
                "kernel_shape": [int(side or 1) for side in weight[-2:]],
                "auto_pad": auto if auto.startswith("SAME") else "NOTSET",
                "group": int(weight[0] or 1) if kind == "GroupConvolution" else 1,
            }
        if kind == "Transpose" and inputs[1] in self._constants:
            return {"perm": self._constants[inputs[1]].reshape(-1).tolist()}
        if kind == "HSigmoid":
            return {"alpha": 1 / 6, "beta": 0.5}
        if kind == "Pad" and inputs[1] in self._constants and inputs[2] in self._constants:
            return {"pads": [*self._constants[inputs[1]].tolist(), *self._constants[inputs[2]].tolist()]}
        return {}

    def _fake(self, name: str, inputs: list[str], levels: int) -> bool:
        """A FakeQuantize with one range is a pair of QuantizeLinear and DequantizeLinear."""
        low, high = (self._constants.get(each) for each in inputs[1:3])
        if low is None or high is None or low.size != 1 or high.size != 1 or levels != 256:
            return False
        step = (float(high.reshape(-1)[0]) - float(low.reshape(-1)[0])) / (levels - 1)
        zero = round(-float(low.reshape(-1)[0]) / step) if np.isfinite(step) and step > 0 else 0
        self._constants[f"{name}/scale"] = np.array(step, np.float32)
        self._constants[f"{name}/zero"] = np.array(np.clip(zero, 0, 255), np.uint8)
        around = (f"{name}/scale", f"{name}/zero")
        self._shapes[f"{name}/bytes"] = self._shapes[name]
        self._nodes.append(Node(f"{name}/quantize", "QuantizeLinear", (inputs[0], *around), (f"{name}/bytes",)))
        self._nodes.append(Node(name, "DequantizeLinear", (f"{name}/bytes", *around), (name,)))
        return True

    def _weight(self, name: str, inputs: list[str]) -> bool:
        """Bytes times a scale, with the zero point subtracted before or not, are a DequantizeLinear."""
        if inputs[1] not in self._constants:
            return False
        makers = {node.outputs[0]: node for node in self._nodes[-8:]}
        value, zero = inputs[0], None
        node = makers.get(value)
        if node is not None and node.op == "Sub":
            value, zero = node.inputs
            node = makers.get(value)
        if node is not None and node.op == "Cast":
            value = node.inputs[0]
        kept = self._constants.get(value)
        if kept is None or kept.dtype.name not in BYTES:
            return False
        ends = (value, inputs[1]) if zero is None else (value, inputs[1], zero)
        self._nodes.append(Node(name, "DequantizeLinear", ends, (name,)))
        return True


def _source(port: Any) -> Any:
    return port.get_source_output()


def _value(name: str, number: int) -> str:
    return name if number == 0 else f"{name}:{number}"


def _type(port: Any) -> str:
    return TYPES.get(port.get_element_type().get_type_name(), "other")


def _sides(shape: Any) -> tuple[int | None, ...]:
    if shape.rank.is_dynamic:
        return ()
    return tuple(side.get_length() if side.is_static else None for side in shape)
