"""ONNX graph -> LiteRT (`.tflite`), operator by operator. No torch, no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ...errors import SpecError
from .bytes import BYTE_OPERATORS, stays_bytes
from .operators import OPERATORS
from .translation import Translation, Value

__all__ = ["OPERATORS", "to_tflite"]

FACTS_NAME: Final = "mobilenets"


def to_tflite(model: Any, *, facts: Mapping[str, str], half: bool = False) -> bytes:
    """The `.tflite` file of one of our ONNX graphs; the batch dimension is free.

    Args:
        model: an ONNX model (`onnx.ModelProto`) that takes pixels: float32, as `to_onnx` writes it, or int8, as
            `quantize` makes it for LiteRT.
        facts: texts by name, kept as the metadata entry "mobilenets", a JSON object.
        half: keep the weights as float16.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        SpecError: the graph has an operator that is not known here.
        FileFormatError: a weight is beyond float16's range.
    """
    work = Translation(model, half=half)
    (source,), (result,) = model.graph.input, model.graph.output
    pixels = work.file.computed(source.name, work.shapes[source.name], type="UINT8")
    work.values[source.name] = Value(tensor=pixels, shape=work.shapes[source.name], layout="plain")
    for node in work.nodes:
        if node.output[0] in work.done:
            continue
        if stays_bytes(work, node):
            BYTE_OPERATORS[node.op_type](work, node)
            continue
        if node.op_type not in OPERATORS:
            raise SpecError(
                f"{node.name} is a {node.op_type}, which LiteRT files are not written with",
                wanted="one of " + ", ".join(OPERATORS),
                do="add it to OPERATORS in export/tflite/operators.py",
            )
        OPERATORS[node.op_type](work, node)
    return work.file.packed(
        name=model.graph.name,
        inputs={source.name: pixels},
        outputs={result.name: work.as_plain(result.name).tensor},
        facts={FACTS_NAME: json.dumps(facts, ensure_ascii=False).encode()},
    )
