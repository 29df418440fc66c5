"""Feeding a file the numbers that its first layer shall see, whatever it normalises itself."""

from __future__ import annotations

from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ..records import Artifact
from .front import Front
from .graph import Graph
from .read_onnx import graph_of_onnx
from .running import Runner, runner_for

__all__ = ["Feeder", "feeder_for"]

ABOVE = 0.02  # share of the numbers that bytes cut off, from which on a way cannot be tried so


class Feeder(Protocol):
    """Answers to images whose normalised numbers are given."""

    def logits(self, numbers: NDArray[np.float32]) -> NDArray[np.float32] | str:
        """Answer a batch.

        Args:
            numbers: what the first layer shall see, float32 (N, R, R, C).

        Returns:
            logits (N, classes), or why this file cannot be fed so.
        """


def feeder_for(runner: Runner, graph: Graph, front: Front, *, artifact: Artifact | None, model: Any) -> Feeder:
    """The feeder that suits a file.

    Args:
        runner: of the file.
        graph: of it.
        front: what it does with its pixels.
        artifact: its record, if it has one.
        model: the `onnx.ModelProto`, for ONNX files.
    """
    if graph.inputs[0].type.startswith("float"):
        return _Floats(runner, planes=front.input_planes, dtype=np.dtype(graph.inputs[0].type))
    quantised = any("uantize" in node.op or node.op.startswith("QLinear") for node in graph.nodes)
    if model is not None and front.whole and not quantised:
        cut = _cut(model, graph, front)
        if cut is not None:
            return _Floats(runner_for(cut.SerializeToString(), graph_of_onnx(cut)), planes=front.planes)
    if artifact is not None:
        mean, std = np.array(artifact.preprocess.mean), np.array(artifact.preprocess.std)
    elif (front.scale > 0).all():
        mean, std = front.normalisation()
    else:
        channels = len(front.scale)
        mean, std = np.zeros(channels), np.full(channels, 1 / 255)
    return _Bytes(runner, mean=mean, std=std, planes=front.input_planes, dtype=np.dtype(graph.inputs[0].type))


@final
class _Floats:
    """Files that take floats."""

    def __init__(self, runner: Runner, *, planes: bool, dtype: np.dtype[Any] | None = None) -> None:
        self._runner, self._planes, self._dtype = runner, planes, dtype or np.dtype(np.float32)

    def logits(self, numbers: NDArray[np.float32]) -> NDArray[np.float32] | str:
        array = numbers.transpose(0, 3, 1, 2) if self._planes else numbers
        return self._runner.run(array.astype(self._dtype))


@final
class _Bytes:
    """Files that take bytes and normalise them: the bytes that lead to the wanted numbers, where there are any."""

    def __init__(
        self, runner: Runner, *, mean: NDArray[np.float64], std: NDArray[np.float64], planes: bool, dtype: np.dtype[Any]
    ) -> None:
        self._runner, self._mean, self._std, self._planes, self._dtype = runner, mean, std, planes, dtype

    def logits(self, numbers: NDArray[np.float32]) -> NDArray[np.float32] | str:
        lowest, highest = np.iinfo(self._dtype).min, np.iinfo(self._dtype).max
        wanted = np.round(255 * (self._mean + self._std * numbers))
        cut_off = float(((wanted < lowest) | (wanted > highest)).mean())
        if cut_off > ABOVE:
            return (
                f"the file takes bytes, and {100 * cut_off:.0f} % of these numbers are beyond what bytes become in it"
            )
        array = np.clip(wanted, lowest, highest).astype(self._dtype)
        return self._runner.run(array.transpose(0, 3, 1, 2) if self._planes else array)


def _cut(model: Any, graph: Graph, front: Front) -> Any | None:
    """The ONNX model that begins behind its own normalisation; None where that is not possible."""
    from onnx import TensorProto, helper

    made = type(model)()
    made.CopyFrom(model)
    kept = [node for node in made.graph.node if node.output and node.output[0] not in _made_by(graph, front)]
    shape: list[Any] = list(graph.shapes.get(front.value, ()))
    if len(shape) != 4:
        return None
    shape[0] = "batch"
    del made.graph.node[:], made.graph.input[:]
    made.graph.node.extend(kept)
    made.graph.input.append(helper.make_tensor_value_info(front.value, TensorProto.FLOAT, shape))
    return made


def _made_by(graph: Graph, front: Front) -> set[str]:
    return {name for node in graph.nodes if node.name in front.nodes for name in node.outputs}
