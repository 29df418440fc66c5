"""The flatbuffer of a `.tflite` file: tensors and operators in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingExtraError

__all__ = ["Steps", "TfliteFile"]

SCHEMA_VERSION: Final = 3
IDENTIFIER: Final = b"TFL3"
SIGNATURE: Final = "serving_default"  # the name that TensorFlow gives it, and its tools look for


class Steps(NamedTuple):
    """What whole numbers q of a tensor stand for: (q - zero) * step, with one step or one for each place on an axis."""

    steps: NDArray[np.float32]  # (1,) or (places,)
    zero: int = 0
    axis: int = 0


class TfliteFile:
    """A model of one graph in the making. Tensors are handed around by their numbers.

    The first dimension of everything that is computed is the batch: 1 as stored, and free.

    Raises:
        MissingExtraError: ai-edge-litert, which brings the file's schema, is not installed.
    """

    def __init__(self) -> None:
        try:
            from ai_edge_litert import schema_py_generated as schema
        except ImportError as error:
            raise MissingExtraError("ai_edge_litert", extra="litert") from error
        self._schema = schema
        self._buffers = [schema.BufferT()]  # the first one is empty: what is computed has no content
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}  # operator and version -> their place among the codes

    def computed(self, name: str, shape: Sequence[int], *, type: str = "FLOAT32", steps: Steps | None = None) -> int:
        """A tensor that is computed, or comes in; `shape` without the batch."""
        made = self._tensor(name, [1, *shape], type=type, buffer=0, free=True)
        if steps is not None:
            self.read_as(made, steps)
        return made

    def fixed(self, name: str, shape: Sequence[int]) -> int:
        """A float32 tensor that is computed and has no batch: a weight that is unpacked."""
        return self._tensor(name, list(shape), type="FLOAT32", buffer=0, free=False)

    def constant(self, name: str, value: NDArray[Any], *, steps: Steps | None = None) -> int:
        """A tensor with content: float32, float16, int32 or int8."""
        types = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8"}
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self._buffers.append(buffer)
        kind, number = types[value.dtype.name], len(self._buffers) - 1
        made = self._tensor(name, list(value.shape), type=kind, buffer=number, free=False)
        if steps is not None:
            self.read_as(made, steps)
        return made

    def read_as(self, tensor: int, steps: Steps) -> None:
        """Say what a tensor's whole numbers stand for."""
        said = self._schema.QuantizationParametersT()
        said.scale = np.asarray(steps.steps, np.float32)
        said.zeroPoint = np.full(len(said.scale), steps.zero, np.int64)
        said.quantizedDimension = steps.axis
        self._tensors[tensor].quantization = said

    def add(self, kind: str, inputs: Sequence[int], output: int, *, version: int = 1, **options: Any) -> int:
        """Append an operator; returns its output.

        Args:
            kind: the operator as the schema calls it ("CONV_2D").
            inputs: tensors.
            output: the tensor that it computes.
            version: of the operator, the first that knows the types of these tensors; an older LiteRT refuses the file.
            options: fields of the operator's options, as the schema calls them, with `table` naming the options' type
                where that is not the operator's own name ("Pool2DOptions"), "NONE" where it has none.
        """
        code = getattr(self._schema.BuiltinOperator, kind)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        operator.inputs, operator.outputs = list(inputs), [output]
        table = options.pop("table")
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
        operator.builtinOptions = None if table == "NONE" else getattr(self._schema, f"{table}T")()
        for field, value in options.items():
            setattr(operator.builtinOptions, field, value)
        self._operators.append(operator)
        return output

    def activation(self, name: str) -> int:
        """The number of an activation that an operator does at its end: NONE, RELU, RELU6."""
        number: int = getattr(self._schema.ActivationFunctionType, name)
        return number

    def padding(self, name: str) -> int:
        """The number of SAME or VALID."""
        number: int = getattr(self._schema.Padding, name)
        return number

    def packed(
        self, *, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int], facts: Mapping[str, bytes]
    ) -> bytes:
        """The file.

        Args:
            name: of the graph.
            inputs: tensors by name, in order.
            outputs: likewise.
            facts: kept as metadata, by name.
        """
        import flatbuffers

        schema = self._schema
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, self._tensors, self._operators
        graph.inputs, graph.outputs = list(inputs.values()), list(outputs.values())
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = SCHEMA_VERSION, "mobilenets", [graph]
        model.operatorCodes = [self._code(*known) for known in self._codes]
        model.metadata = [self._metadata(fact, content) for fact, content in facts.items()]
        model.buffers = self._buffers
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = self._names(inputs), self._names(outputs)
        model.signatureDefs = [signature]
        builder = flatbuffers.Builder(sum(len(b.data) for b in self._buffers if b.data is not None) + 2**16)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: list[int], *, type: str, buffer: int, free: bool) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, shape, buffer
        tensor.type = getattr(self._schema.TensorType, type)
        if free:
            tensor.shapeSignature = [-1, *shape[1:]]
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _code(self, number: int, version: int) -> Any:
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, 127)  # where readers from before 2020 look; 127 sends them on
        return code

    def _metadata(self, name: str, content: bytes) -> Any:
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        entry = self._schema.MetadataT()
        entry.name, entry.buffer = name, len(self._buffers) - 1
        return entry

    def _names(self, tensors: Mapping[str, int]) -> list[Any]:
        entries = []
        for name, index in tensors.items():
            entry = self._schema.TensorMapT()
            entry.name, entry.tensorIndex = name, index
            entries.append(entry)
        return entries
