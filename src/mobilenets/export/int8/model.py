"""An ONNX model as the steps of quantising see it: nodes by what they make, constants as arrays."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Model"]


@final
class Model:
    """A copy of an ONNX model that can be changed; the one it was made of stays as it is.

    Args:
        proto: an `onnx.ModelProto` whose nodes have one output each.
    """

    def __init__(self, proto: Any) -> None:
        from onnx import helper, numpy_helper

        self._helper = helper
        self._numpy = numpy_helper
        self._proto = type(proto)()
        self._proto.CopyFrom(proto)
        self.nodes: list[Any] = list(self._proto.graph.node)
        self.constants: dict[str, NDArray[Any]] = {
            each.name: numpy_helper.to_array(each) for each in self._proto.graph.initializer
        }

    def proto(self) -> Any:
        """The changed model, without nodes and constants that nothing reads. Nodes are in an order that can be run."""
        made = type(self._proto)()
        made.CopyFrom(self._proto)
        outputs = {output.name for output in made.graph.output}
        nodes = self._ordered(self._needed(outputs))
        read = {name for node in nodes for name in node.input} | outputs
        del made.graph.node[:]
        del made.graph.initializer[:]
        del made.graph.value_info[:]
        made.graph.node.extend(nodes)
        made.graph.initializer.extend(
            self._numpy.from_array(np.asarray(value), name)  # ascontiguousarray would give scalars an axis
            for name, value in self.constants.items()
            if name in read
        )
        domains = {each.domain for each in made.opset_import}
        for domain in sorted({node.domain for node in nodes} - domains - {"ai.onnx"}):
            made.opset_import.append(self._helper.make_opsetid(domain, 1))
        return made

    def node(
        self,
        op: str,
        inputs: Iterable[str],
        *,
        name: str,
        output: str = "",
        more: Iterable[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node; returns the name of its first output: the node's, or `output`. `more` outputs follow it."""
        outputs = [output or name, *more]
        self.nodes.append(
            self._helper.make_node(op, list(inputs), outputs, name=name, domain=domain or None, **attributes)
        )
        return outputs[0]

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Set a constant; returns its name."""
        self.constants[name] = value
        return name

    def maker(self, value: str) -> Any | None:
        """The node that computes a value; None for inputs and constants."""
        return next((node for node in self.nodes if value in node.output), None)

    def readers(self, value: str) -> list[Any]:
        """The nodes that read a value."""
        return [node for node in self.nodes if value in node.input]

    def attributes(self, node: Any) -> dict[str, Any]:
        """Of a node, by name."""
        return {each.name: self._helper.get_attribute_value(each) for each in node.attribute}

    def is_depthwise(self, node: Any) -> bool:
        """Whether a node is a convolution of each channel with filters of its own."""
        return node.op_type == "Conv" and bool(self.attributes(node).get("group", 1) > 1)

    def set_attributes(self, node: Any, **values: Any) -> None:
        """Set some attributes of a node."""
        kept = [each for each in node.attribute if each.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(self._helper.make_attribute(name, value) for name, value in values.items())])

    def read_instead(self, old: str, new: str, *, but: Iterable[str] = ()) -> None:
        """Let every node that reads `old` read `new`, except those named in `but`."""
        kept = set(but)
        for node in self.readers(old):
            if node.name not in kept:
                for number, name in enumerate(node.input):
                    if name == old:
                        node.input[number] = new

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all values; the batch counts as one."""
        from onnx import shape_inference

        inferred = shape_inference.infer_shapes(self.proto()).graph
        return {
            each.name: tuple(dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim)
            for each in (*inferred.input, *inferred.value_info, *inferred.output)
        }

    def _needed(self, outputs: set[str]) -> list[Any]:
        makers = {name: node for node in self.nodes for name in node.output}
        needed: dict[int, Any] = {}
        waiting = list(outputs)
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and id(node) not in needed:
                needed[id(node)] = node
                waiting.extend(node.input)
        return [node for node in self.nodes if id(node) in needed]

    def _ordered(self, nodes: list[Any]) -> list[Any]:
        """So that every value is made before it is read, and otherwise in the order given."""
        makers = {name: number for number, node in enumerate(nodes) for name in node.output}
        awaited = [{makers[name] for name in node.input if name in makers} for node in nodes]
        readers: dict[int, list[int]] = {}
        for number, needs in enumerate(awaited):
            for maker in needs:
                readers.setdefault(maker, []).append(number)
        ready = [number for number, needs in enumerate(awaited) if not needs]
        heapq.heapify(ready)
        ordered: list[Any] = []
        while ready:
            number = heapq.heappop(ready)
            ordered.append(nodes[number])
            for reader in readers.get(number, ()):
                awaited[reader].discard(number)
                if not awaited[reader]:
                    heapq.heappush(ready, reader)
        if len(ordered) < len(nodes):
            waiting = [node.name for node, needs in zip(nodes, awaited, strict=True) if needs]
            raise ValueError(f"the nodes {waiting} wait for each other")
        return ordered
