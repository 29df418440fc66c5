"""What the reader of TensorFlow Lite files refuses, and how it says so."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from making import settled_bundle
from mobilenets.errors import FileFormatError, MissingExtraError
from mobilenets.weights import to_bundle
from mobilenets.weights.tflite import read_tflite
from weights.tflite_tables import V1, V2, V3
from weights.tflite_writer import Style, altered, write


def refused(content: bytes, folder: Path) -> str:
    (folder / "some.tflite").write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        read_tflite(folder / "some.tflite")
    return str(caught.value)


def kind_of(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex].builtinCode
    return next(name for name, value in vars(schema.BuiltinOperator).items() if value == code)


def operators(model: Any, kind: str) -> list[tuple[int, Any]]:
    every = enumerate(model.subgraphs[0].operators)
    return [(index, operator) for index, operator in every if kind_of(model, operator) == kind]


def turned_into(kind: str, of: str, *, which: int = 0, code: str = "") -> Callable[[Any], None]:
    """Make one operator another one."""

    def change(model: Any) -> None:
        new = schema.OperatorCodeT()
        new.builtinCode = getattr(schema.BuiltinOperator, kind)
        new.deprecatedBuiltinCode = min(new.builtinCode, 127)
        new.customCode = code or None
        model.operatorCodes.append(new)
        operator = operators(model, of)[which][1]
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.builtinOptions, operator.builtinOptionsType = None, 0

    return change


def with_options(of: str, which: int = 0, **options: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in options.items():
            setattr(operators(model, of)[which][1].builtinOptions, name, value)

    return change


def with_input_shape(*shape: int, signature: tuple[int, ...] | None = None) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
        tensor.shape = list(shape)
        tensor.shapeSignature = None if signature is None else list(signature)

    return change


def added_to_the_first(model: Any) -> None:
    """The second sum of V2 takes what the first convolution gave, two rows too early."""
    graph = model.subgraphs[0]
    sums = operators(model, "ADD")
    graph.operators[sums[1][0]].inputs = [sums[1][1].inputs[0], graph.operators[0].outputs[0]]


def two_inputs(model: Any) -> None:
    model.subgraphs[0].inputs = [*model.subgraphs[0].inputs, 1]


def two_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = [*model.subgraphs[0].outputs, model.subgraphs[0].operators[3].outputs[0]]


def without_pooling(model: Any) -> None:
    """The classifier's vector is the map, laid out."""
    graph = model.subgraphs[0]
    index, mean = operators(model, "MEAN")[0]
    reshape = operators(model, "RESHAPE")[0][1]
    assert index + 1 == graph.operators.index(reshape)
    reshape.inputs = [mean.inputs[0], reshape.inputs[1]]


def computed_later(model: Any) -> None:
    model.subgraphs[0].operators.reverse()


APART = Style(activations="separate")
CASES: dict[str, tuple[Any, Style, Callable[[Any], None], str]] = {
    "sigmoid as activation": (V1, APART, turned_into("LOGISTIC", "RELU6"), "operator 1 LOGISTIC"),
    "sigmoid at the end": (V1, Style(), turned_into("LOGISTIC", "SOFTMAX"), "LOGISTIC"),
    "unknown activation": (V1, APART, turned_into("TANH", "RELU6", which=2), "operator 5 TANH"),
    "newer operator": (V1, APART, turned_into("STABLEHLO_CASE", "RELU6"), "operator 1"),
    "unknown fused activation": (
        V1,
        Style(),
        with_options("CONV_2D", fusedActivationFunction=4),
        "operator 0 CONV_2D: with the activation tanh",
    ),
    "custom": (V1, APART, turned_into("CUSTOM", "RELU6", code="MyOp"), "operator 1 custom MyOp"),
    "compiled": (V1, APART, turned_into("CUSTOM", "RELU6", code="edgetpu-custom-op"), "compiled for the Edge TPU"),
    "stride 3": (V1, Style(), with_options("CONV_2D", strideW=3, strideH=3), "operator 0 CONV_2D: kernel 3, stride 3"),
    "oblong stride": (V1, Style(), with_options("CONV_2D", strideW=1), "not square"),
    "stride 0": (V1, Style(), with_options("CONV_2D", strideW=0, strideH=0), "stride 0"),
    "no padding": (V1, Style(), with_options("DEPTHWISE_CONV_2D", padding=1), "operator 1 DEPTHWISE_CONV_2D: zeros of"),
    "window": (
        V1,
        Style(pooling="average_pool"),
        with_options("AVERAGE_POOL_2D", filterWidth=2, filterHeight=2),
        "AVERAGE_POOL_2D: a window of (2, 2)",
    ),
    "activation behind a sum": (V2, Style(), with_options("ADD", fusedActivationFunction=1), "behind a sum"),
    "sum over two rows": (V2, Style(), added_to_the_first, "operator"),
    "two inputs": (V1, Style(), two_inputs, "2 inputs"),
    "oblong": (V1, Style(), with_input_shape(1, 32, 48, 3), "32x48 pixels"),
    "five channels": (V1, Style(), with_input_shape(1, 32, 32, 5), "channels"),
    "no image": (V1, Style(), with_input_shape(1, 3072), "shape (1, 3072)"),
    "free sides": (V1, Style(), with_input_shape(1, 1, 1, 3, signature=(-1, -1, -1, 3)), "sides left free"),
    "two outputs": (V2, Style(end="map"), two_outputs, "2 outputs, and no classifier among them"),
    "no pooling": (
        V1,
        Style(classifier="dense"),
        without_pooling,
        "RESHAPE: from (1, 8, 8, 24) to (1, 24), and no vector",
    ),
    "out of order": (V1, Style(), computed_later, "computes it before it is used"),
    "another gate": (V3, Style(), turned_into("MAXIMUM", "MUL"), "operator"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_table_can_hold_is_refused_by_its_operator(case: str, tmp_path: Path) -> None:
    spec, style, change, said = CASES[case]
    assert said in refused(altered(write(settled_bundle(spec), style), change), tmp_path)


def test_a_row_that_no_mobilenet_has_is_named(tmp_path: Path) -> None:
    """An expansion without activation, in a row around which a sum goes."""
    change = with_options("CONV_2D", 4, fusedActivationFunction=0)
    message = refused(altered(write(settled_bundle(V2)), change), tmp_path)
    assert "operator 8 DEPTHWISE_CONV_2D: no row begins with: depthwise 3x3 stride 1 to 40" in message


def test_differently_padded_convolutions_are_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        """Zeros of V1's second strided convolution, all around instead of at the end."""
        tensors, buffers = model.subgraphs[0].tensors, model.buffers
        zeros = [tensors[operator.inputs[1]].buffer for _, operator in operators(model, "PAD")]
        sides = [np.frombuffer(bytes(buffers[buffer].data), np.int32) for buffer in zeros]
        uneven = [buffer for buffer, pads in zip(zeros, sides, strict=True) if pads[2] != pads[3]]
        assert len(uneven) == 2
        even = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
        buffers[uneven[1]].data = np.frombuffer(even.tobytes(), np.uint8)

    message = refused(altered(write(settled_bundle(V1), Style(padding="separate")), change), tmp_path)
    assert "DEPTHWISE_CONV_2D: zeros of (1, 1, 1, 1)" in message
    assert "same padding, as the convolutions before it" in message


# Files that are not whole


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", bytes(4) + b"TFL3", b"\x1c\x00\x00\x00TFL3" + bytes(40), b"PK\x03\x04" * 9]
)
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    assert "a whole TensorFlow Lite model" in refused(content, tmp_path)


def test_the_extra_that_reads_such_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "some.tflite").write_bytes(write(settled_bundle(V1)))
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingExtraError, match=r"tflite.*\[train\]"):
        read_tflite(tmp_path / "some.tflite")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="cannot read"):
        read_tflite(tmp_path / "none.tflite")


@pytest.mark.parametrize("share", np.linspace(0.01, 0.99, 25))
def test_a_torn_file_is_refused(share: float, tmp_path: Path) -> None:
    content = write(settled_bundle(V1))
    refused(content[: int(share * len(content))], tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(write(settled_bundle(V2), Style(numbers="uint8" if seed % 2 else "float32")))
    for _ in range(generator.integers(1, 30)):
        place = int(generator.integers(len(content)))
        content[place : place + 4] = generator.choice(
            [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", bytes(4), generator.bytes(4)]
        )
    (tmp_path / "some.tflite").write_bytes(bytes(content))
    with contextlib.suppress(FileFormatError):
        to_bundle(read_tflite(tmp_path / "some.tflite"))


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        weight = model.subgraphs[0].tensors[operators(model, "CONV_2D")[0][1].inputs[1]]
        values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32).copy()
        values[0] = np.nan
        model.buffers[weight.buffer].data = np.frombuffer(values.tobytes(), np.uint8)

    (tmp_path / "some.tflite").write_bytes(altered(write(settled_bundle(V1)), change))
    with pytest.raises(FileFormatError, match=r"rows\.0\.conv\.conv\.weight holds numbers that are not finite"):
        to_bundle(read_tflite(tmp_path / "some.tflite"))
