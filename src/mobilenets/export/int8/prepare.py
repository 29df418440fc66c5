"""The float32 graph in the shape that int8 kernels are fast at. Every step keeps what the graph says.

1. The gate of squeeze-and-excite, hard-sigmoid(x) = clip(x / 6 + 1 / 2, 0, 1), loses its operator: a sixth and a half
   go into the convolution before it, and the clip is what bytes do anyway.
2. Depthwise filters get zeros beside them up to sixteen channels at a time.
3. The first convolution reads four columns of the image as one pixel of twelve channels.
4. Pixels go in as the bytes they are.

The second and the third are for ONNX Runtime alone, the last for it and LiteRT. What each is worth is in `docs/log.md`.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...records import Preprocess
from ..onnx_graph import INPUT_NAME, OUTPUT_NAME
from .model import Model

__all__ = ["BYTES", "Centre", "Kernels", "centre_of", "prepared"]

Kernels = Literal["onnxruntime", "openvino", "litert"]  # whose ways of computing bytes a graph is arranged for

BYTES: Final = "input.bytes"  # the first convolution's input: whole numbers, 0 where a pixel is the mean
CHANNELS: Final = 16  # that the depthwise kernel takes at a time; the rest of another number goes one by one
COLUMNS: Final = 4  # of the image in one pixel of the first convolution; 4 x 3 channels, a multiple of 4
HALF: Final = 0.5001  # of a pixel's step: how far a mean may be from the byte that stands for zero


def prepared(proto: Any, preprocess: Preprocess, *, kernels: Kernels) -> Any:
    """The graph to quantise (`onnx.ModelProto`, float32), from one that `to_onnx` wrote.

    Its answers are those of the given one up to rounding, with one exception: where the mean lies halfway between two
    bytes (TensorFlow's 127.5), what a convolution pads with is half a byte off.

    Args:
        proto: a float32 ONNX model that takes pixels.
        preprocess: what it does with them.
        kernels: which steps are taken.

    Raises:
        UsageError: the kernels are unknown.
    """
    model = Model(proto)
    _gates_to_clips(model)
    if kernels == "onnxruntime":
        _widen_depthwise(model)
        _pixels_as_bytes(model, preprocess, in_columns=True)
    elif kernels == "litert":
        _pixels_as_bytes(model, preprocess, in_columns=False)
    elif kernels != "openvino":
        raise UsageError(f"kernels {kernels!r}", wanted="onnxruntime, openvino or litert", do="use one")
    return model.proto()


def _gates_to_clips(model: Model) -> None:
    for gate in [node for node in model.nodes if node.op_type == "HardSigmoid"]:
        conv = model.maker(gate.input[0])
        if conv is None or conv.op_type != "Conv" or len(model.readers(gate.input[0])) > 1:
            continue
        options = model.attributes(gate)
        alpha, beta = options["alpha"], options["beta"]
        weight, bias = conv.input[1:]
        model.constants[weight] = (model.constants[weight].astype(np.float64) * alpha).astype(np.float32)
        model.constants[bias] = (model.constants[bias].astype(np.float64) * alpha + beta).astype(np.float32)
        low, high = (
            model.constant(f"{gate.name}.{end}", np.array(value, np.float32))
            for end, value in (("low", 0), ("high", 1))
        )
        model.nodes.remove(gate)
        model.node("Clip", [gate.input[0], low, high], name=gate.name)


def _widen_depthwise(model: Model) -> None:
    """Round the channels of depthwise convolutions up to what the kernel takes at a time.

    Nobody reads the channels that come in addition: their weights in every convolution behind are zero. So it does not
    matter what they hold.
    """
    shapes = model.shapes()
    groups = _tied_channels(model, shapes)
    wanted: dict[str, int] = {}
    for conv in model.nodes:
        if model.is_depthwise(conv):
            channels = shapes[conv.output[0]][1]
            group = groups.of(conv.output[0])
            if channels % CHANNELS and group not in groups.fixed:
                wanted[group] = -(-channels // CHANNELS) * CHANNELS
    for node in model.nodes:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        reads, makes = (wanted.get(groups.of(value)) for value in (node.input[0], node.output[0]))
        weight = model.constants[node.input[1]]
        if makes is not None:
            weight = _padded(weight, 0, makes)
            model.constants[node.input[2]] = _padded(model.constants[node.input[2]], 0, makes)
        if model.is_depthwise(node):
            model.set_attributes(node, group=weight.shape[0])
        elif reads is not None:
            weight = _padded(weight, 1, reads)
        model.constants[node.input[1]] = weight


def _padded(array: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    widths = [(0, size - n if number == axis else 0) for number, n in enumerate(array.shape)]
    return np.pad(array, widths)


class _Groups:
    """Values whose channels must stay equal in number, by a representative; `fixed` are those that cannot change."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}
        self.fixed: set[str] = set()

    def of(self, value: str) -> str:
        while value in self._above:
            value = self._above[value]
        return value

    def tie(self, one: str, other: str) -> None:
        one, other = self.of(one), self.of(other)
        if one != other:
            self._above[one] = other
            if one in self.fixed:
                self.fixed.add(other)

    def fix(self, value: str) -> None:
        self.fixed.add(self.of(value))


# Operators that keep channels apart and in order. Others end what can be widened.
CHANNELWISE: Final = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul", "Erf", "Div"})


def _tied_channels(model: Model, shapes: dict[str, tuple[int, ...]]) -> _Groups:
    groups = _Groups()
    for value in (INPUT_NAME, OUTPUT_NAME):
        groups.fix(value)
    for node in model.nodes:
        given, made = node.input[0], node.output[0]
        if node.op_type == "Conv":
            if model.is_depthwise(node):
                groups.tie(given, made)
        elif node.op_type in ("GlobalAveragePool", "Flatten"):
            groups.tie(given, made)  # one pixel is left, so that flattening keeps channels
        elif node.op_type in CHANNELWISE:
            for name in node.input:
                if name not in model.constants:
                    groups.tie(name, made)
                elif model.constants[name].size > 1:
                    groups.fix(made)  # a number per channel
        elif node.op_type != "Gemm":
            for name in (*node.input, made):
                if name not in model.constants:
                    groups.fix(name)
    return groups


class Centre(NamedTuple):
    """What is taken from a pixel's bytes before the first convolution, (C,), in bytes."""

    whole: bool  # one whole number for all channels, so that what is left of a byte is a byte
    taken: NDArray[np.float64]
    rest: NDArray[np.float64]  # that and the mean are so far apart; the first convolution's bias has it


def centre_of(preprocess: Preprocess) -> Centre:
    """The mean of the preprocessing, or one whole byte for all channels where their means are near enough to it."""
    mean = 255 * np.array(preprocess.mean, np.float64)
    zero = float(np.clip(np.round(mean.mean()), 0, 255))
    if (np.abs(zero - mean) <= HALF).all():
        return Centre(whole=True, taken=np.full_like(mean, zero), rest=zero - mean)
    return Centre(whole=False, taken=mean, rest=np.zeros_like(mean))


def _pixels_as_bytes(model: Model, preprocess: Preprocess, *, in_columns: bool) -> None:
    """Everything between the pixels and the first convolution becomes one subtraction.

    The scales go into the convolution's weights. What is subtracted is one whole byte for all channels, if their means
    are near enough to it, and the rest goes into the bias; then quantising gives the pixel back, and both steps fall
    away. Else it is each channel's mean.
    """
    conv = next((node for node in model.nodes if node.op_type == "Conv"), None)
    if conv is None or conv.input[0] != "input.normalised" or len(model.readers("input.normalised")) > 1:
        return
    centre, std = centre_of(preprocess), np.array(preprocess.std, np.float64)
    channels = len(std)
    weight = model.constants[conv.input[1]].astype(np.float64)
    depthwise = model.is_depthwise(conv)
    weight /= 255 * (std.reshape(-1, 1, 1, 1) if depthwise else std.reshape(1, -1, 1, 1))
    taps = weight.sum(axis=(2, 3))
    added = taps[:, 0] * centre.rest if depthwise else taps @ centre.rest
    bias = model.constants[conv.input[2]].astype(np.float64) + added
    side = preprocess.resolution
    weight, columns = _in_columns(model, conv, weight, side=side) if in_columns else (weight, 1)
    if columns > 1:
        bias = np.tile(bias, weight.shape[0] // len(bias))
    model.constants[conv.input[1]] = weight.astype(np.float32)
    model.constants[conv.input[2]] = bias.astype(np.float32)
    value = INPUT_NAME
    if columns > 1:
        shape = np.array([0, side, side // columns, columns * channels], np.int64)
        value = model.node("Reshape", [value, model.constant("input.columns.shape", shape)], name="input.columns")
    if centre.whole:
        value = model.node("Transpose", [value], name="input.columns.planes", perm=[0, 3, 1, 2])
        value = model.node("Cast", [value], name="input.columns.float", to=1)
        value = model.node(
            "Add", [value, model.constant("input.mean", np.array(-centre.taken[0], np.float32))], name=BYTES
        )
    else:
        # As long as a line of the image: three numbers at a time are slow.
        line = np.tile(-centre.taken, side).reshape(1, 1, side // columns, columns * channels).astype(np.float32)
        value = model.node("Cast", [value], name="input.columns.float", to=1)
        value = model.node("Add", [value, model.constant("input.mean", line)], name="input.columns.centred")
        value = model.node("Transpose", [value], name=BYTES, perm=[0, 3, 1, 2])
    conv.input[0] = value


def _in_columns(model: Model, conv: Any, weight: NDArray[np.float64], *, side: int) -> tuple[NDArray[np.float64], int]:
    """The weights of the first convolution for pixels of COLUMNS columns each, and its output taken apart again.

    One filter for each of the output columns that such a pixel stands for, side by side as channels: in a channels-last
    image both regroupings move nothing. Returns the weights as they are, and 1, where that does not fit.
    """
    attributes = model.attributes(conv)
    out, channels, kernel, _ = weight.shape
    (stride, _), (top, left, bottom, right) = attributes["strides"], attributes["pads"]
    positions = COLUMNS // stride if COLUMNS % stride == 0 else 0
    made = (side + left + right - kernel) // stride + 1
    if (
        model.is_depthwise(conv)
        or attributes["dilations"] != [1, 1]
        or side % COLUMNS
        or not positions
        or made != side // COLUMNS * positions
    ):
        return weight, 1
    before = -(-left // COLUMNS)
    after = max(stride * (positions - 1) - left + kernel - 1, 0) // COLUMNS
    wide = np.zeros((positions, out, COLUMNS, channels, kernel, before + 1 + after))
    for position in range(positions):
        for tap in range(kernel):
            pixel, column = divmod(stride * position - left + tap, COLUMNS)
            wide[position, :, column, :, :, pixel + before] = weight[:, :, :, tap]
    model.set_attributes(
        conv,
        kernel_shape=[kernel, before + 1 + after],
        strides=[stride, 1],
        pads=[top, before, bottom, after],
    )
    _apart_again(
        model,
        conv.output[0],
        positions=positions,
        out=out,
        width=made,
        height=(side + top + bottom - kernel) // stride + 1,
    )
    return wide.reshape(positions * out, COLUMNS * channels, kernel, before + 1 + after), COLUMNS


def _apart_again(model: Model, value: str, *, positions: int, out: int, width: int, height: int) -> None:
    """Behind the activation, which is the convolution's own to an int8 kernel, the columns become pixels again."""
    readers = model.readers(value)
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip", "HardSwish"):
        value = readers[0].output[0]
    rows = f"{value}.pixels"
    shape = model.constant(f"{rows}.shape", np.array([0, height, width, out], np.int64))
    others = list(model.readers(value))
    last = model.node("Transpose", [value], name=f"{value}.rows", perm=[0, 2, 3, 1])
    last = model.node("Reshape", [last, shape], name=rows)
    last = model.node("Transpose", [last], name=f"{value}.planes", perm=[0, 3, 1, 2])
    for node in others:
        for number, name in enumerate(node.input):
            if name == value:
                node.input[number] = last
