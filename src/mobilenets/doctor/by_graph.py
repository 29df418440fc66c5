"""Rules about the operators of a file: what costs time, and what ties it to one runtime."""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from .graph import Graph, Node, short
from .pieces import Pieces, pieces_of
from .records import Finding
from .seen import Seen

__all__ = [
    "activation_in_pieces",
    "dynamic_shapes",
    "norms_not_folded",
    "old_opset",
    "operators_of_one_runtime",
    "other_provider",
    "pads_outside",
    "planes_for_pixels",
    "stray_transposes",
    "training_mode",
]

OLDEST: Final = 13  # before it there is no scale per channel in QuantizeLinear; 14 brought HardSwish
EXPORT_AGAIN: Final = "torch.onnx.export(model.eval(), image, path, opset_version=17)"
SHAPE_OPS: Final = ("Shape", "Size", "ConstantOfShape", "NonZero", "Range")
LAYOUTS: Final = ((0, 2, 3, 1), (0, 3, 1, 2))
TRAINED: Final = ("Dropout", "BatchNormalization")


def activation_in_pieces(seen: Seen) -> Finding | None:
    """Hard-sigmoid or hard-swish as a chain of elementwise operators."""
    found = pieces_of(seen.graph)
    if not found:
        return None
    kinds = Counter(each.kind for each in found)
    written = Counter(" ".join(node.op for node in each.nodes) for each in found)
    told = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
    told += " written as " + ", ".join(f"{chain} ({count})" for chain, count in written.items())
    left = None
    if seen.compiled is not None:
        pieces = pieces_of(seen.compiled.graph)
        left = len(pieces)
        share = seen.compiled.share_of([node for each in pieces for node in each.nodes])
        told += f"; ONNX Runtime runs {left} of them piece by piece"
        told += f", {_percent(share)} of the time here" if left else ", for it knows this pattern"
    opset = seen.graph.opset
    why = (
        f"; opset {opset} has no HardSwish, 14 has" if opset is not None and opset < 14 and kinds["hard-swish"] else ""
    )
    return Finding(
        problem="activation in pieces",
        weight="note" if left == 0 else "slow",
        evidence=told + why,
        costs=_passes(seen.graph, found),
        remedy=f"build the network with torch.nn.Hardswish and Hardsigmoid and write {EXPORT_AGAIN}; or import its "
        "weights: mobilenets import CHECKPOINT, mobilenets export BUNDLE",
        nodes=tuple(node.name for each in found for node in each.nodes),
    )


def _passes(graph: Graph, found: tuple[Pieces, ...]) -> str:
    more = sum(graph.elements(node.outputs[0]) for each in found for node in each.nodes[:-1])
    counted = f" ({more:,} numbers an image)" if more else ""
    return f"each piece but the last writes a map and reads it again{counted}, which one operator does not"


def norms_not_folded(seen: Seen) -> Finding | None:
    """Batch normalisation, or a factor per channel, right behind a convolution."""
    found = [node for node in seen.graph.nodes if _is_norm(seen.graph, node)]
    if not found:
        return None
    told = f"{len(found)} {_plural(len(found), 'norm')} behind convolutions, {_names(found)}"
    left = None
    if seen.compiled is not None:
        left = sum(_is_norm(seen.compiled.graph, node) for node in seen.compiled.graph.nodes)
        told += f"; ONNX Runtime folds {len(found) - left} of them when it opens the file, {left} run"
    costs = "each is one more pass over a map, and int8 tools find worse ranges"
    if left == 0:
        costs = "nothing in ONNX Runtime; engines that do not fold pay a pass over each map, and quantisers meet norms"
    return Finding(
        problem="norms not folded",
        weight="note" if left == 0 else "slow",
        evidence=told,
        costs=costs,
        remedy=f"export for inference: {EXPORT_AGAIN}",
        nodes=tuple(node.name for node in found),
    )


def _is_norm(graph: Graph, node: Node) -> bool:
    if not node.inputs or node.op not in ("BatchNormalization", "Mul"):
        return False
    for name in node.inputs[: 1 if node.op == "BatchNormalization" else 2]:
        source = graph.source(name)
        before = graph.maker(source)
        if before is None or before.op not in ("Conv", "FusedConv", "Gemm") or len(graph.users(source)) > 1:
            continue
        if node.op == "BatchNormalization":
            return True
        other = next((each for each in node.inputs if each != name), "")
        constant = graph.constants.get(graph.source(other))
        if constant is not None and constant.size > 1:
            return True
    return False


def stray_transposes(seen: Seen) -> Finding | None:
    """Maps turned between planes and pixels in the middle of a network."""
    graph = seen.graph
    found = [node for node in graph.works("Transpose") if _is_stray(seen, node)]
    if not found:
        return None
    moved = sum(graph.elements(node.outputs[0]) for node in found)
    told = f"{len(found)} {_plural(len(found), 'Transpose')} of maps behind the first layer, {_names(found)}"
    told += f", {moved:,} numbers an image" if moved else ""
    if seen.compiled is not None:
        told += f"; Transpose takes {_percent(seen.compiled.share('Transpose'))} of the time here"
    return Finding(
        problem="stray transposes",
        weight="slow",
        evidence=told,
        costs="each reads and writes a whole map and computes nothing",
        remedy="convert without changing the layout on the way: python -m tf2onnx.convert --inputs-as-nchw IMAGE for "
        "TensorFlow; or import the weights: mobilenets import CHECKPOINT, mobilenets export BUNDLE",
        nodes=tuple(node.name for node in found),
    )


def _is_stray(seen: Seen, node: Node) -> bool:
    graph = seen.graph
    perm = tuple(node.attributes.get("perm", ()))
    if perm not in LAYOUTS or (seen.front is not None and node.name in seen.front.nodes):
        return False
    shape = graph.shapes.get(node.outputs[0], ())
    if len(shape) == 4 and sum(side not in (None, 1) for side in shape[1:]) < 2:
        return False  # one pixel: nothing moves
    if _reaches_input(graph, node.inputs[0]):
        return False
    # A reshape between two transpositions that undo each other regroups pixels: in a channels-last map nothing moves.
    return not (_regroups(graph, node, "before") or _regroups(graph, node, "after"))


def _reaches_input(graph: Graph, value: str) -> bool:
    node = graph.maker(graph.source(value))
    while node is not None and node.op in ("Reshape", "Transpose", "Add", "Sub", "Mul", "Div", "Cast"):
        value = node.inputs[0]
        node = graph.maker(graph.source(value))
    return node is None


def _regroups(graph: Graph, node: Node, side: str) -> bool:
    if side == "after":
        near = [each for each in graph.users(node.outputs[0]) if each.op == "Reshape"]
        far = [each for one in near for each in graph.users(one.outputs[0])]
    else:
        middle = graph.maker(graph.source(node.inputs[0]))
        if middle is None or middle.op != "Reshape":
            return False
        maker = graph.maker(graph.source(middle.inputs[0]))
        far = [] if maker is None else [maker]
    back = tuple(np.argsort(node.attributes["perm"]).tolist())
    return any(each.op == "Transpose" and tuple(each.attributes.get("perm", ())) == back for each in far)


def pads_outside(seen: Seen) -> Finding | None:
    """Pad as an operator of its own before a convolution. LiteRT has no other way to pad evenly, so not there."""
    graph = seen.graph
    if graph.format == "tflite":
        return None
    found = [
        node
        for node in graph.works("Pad")
        if any(each.op in ("Conv", "MaxPool") for each in graph.users(node.outputs[0]))
    ]
    if not found:
        return None
    computed = sum(graph.constants.get(graph.source(node.inputs[1])) is None for node in found if len(node.inputs) > 1)
    told = f"{len(found)} Pad before convolutions, {_names(found)}"
    told += f"; {computed} compute how much when they run" if computed else ""
    left = None
    if seen.compiled is not None:
        left = len(seen.compiled.graph.works("Pad"))
        told += f"; {left} of them run in ONNX Runtime, {_percent(seen.compiled.share('Pad'))} of the time here"
    return Finding(
        problem="pads outside convolutions",
        weight="note" if left == 0 else "slow",
        evidence=told,
        costs="each copies a whole map to put zeros around it"
        if left != 0
        else "a copy of a map in engines that do not fuse",
        remedy="give the sides to the convolution (ONNX takes uneven ones: pads=[0, 0, 1, 1]); for timm's tf_ models: "
        "mobilenets import timm:NAME, mobilenets export BUNDLE",
        nodes=tuple(node.name for node in found),
    )


def dynamic_shapes(seen: Seen) -> Finding | None:
    """Height or width is free, or the file computes with shapes. A free batch alone is fine."""
    graph = seen.graph
    free = [port.name for port in graph.inputs if len(port.shape) == 4 and None in port.shape[1:]]
    # OpenVINO writes shapes of constants as operators into every file, and folds them when it opens it.
    asked = () if graph.format == "openvino" else graph.works(*SHAPE_OPS)
    if not free and not asked:
        return None
    told = []
    if free:
        shapes = [[side or "?" for side in port.shape] for port in graph.inputs if port.name in free]
        told.append(f"the input {free[0]} has the shape {shapes[0]}")
    left = len(asked)
    if asked:
        told.append(f"{len(asked)} operators ask for shapes, {_names(asked)}")
        if seen.compiled is not None:
            left = len(seen.compiled.graph.works(*SHAPE_OPS))
            told.append(f"{left} of them are left when ONNX Runtime has optimised")
    slow = bool(left) and bool(asked)
    return Finding(
        problem="dynamic shapes",
        weight="slow" if slow else "note",
        evidence="; ".join(told),
        costs="engines cannot plan memory and layouts ahead, and small operators on shapes run for every image",
        remedy="export with a fixed side, without height and width in dynamic_axes; or fix it: python -m "
        "onnxruntime.tools.make_dynamic_shape_fixed --input_name X --input_shape 1,3,224,224 IN OUT"
        if free
        else "pads computed from shapes are what timm's tf_ models do: mobilenets import timm:NAME writes numbers; "
        "for others: onnxsim IN OUT",
        nodes=tuple(node.name for node in asked),
    )


def old_opset(seen: Seen) -> Finding | None:
    """An ONNX opset from before what MobileNets need."""
    opset = seen.graph.opset
    if opset is None or opset >= OLDEST:
        return None
    return Finding(
        problem="old opset",
        weight="note",
        evidence=f"the file is of opset {opset}",
        costs="no HardSwish (14) and no scales per channel for int8 (13); tools must convert it first",
        remedy=f"{EXPORT_AGAIN}; or onnx.version_converter.convert_version(model, 17)",
    )


def operators_of_one_runtime(seen: Seen) -> Finding | None:
    """Operators outside ONNX's own set."""
    found = [node for node in seen.graph.nodes if node.domain not in ("", "ai.onnx.ml")]
    if not found:
        return None
    domains = Counter(node.domain for node in found)
    machine = any("nchwc" in domain for domain in domains)
    told = ", ".join(f"{count} of {domain}" for domain, count in domains.items())
    costs = "only ONNX Runtime opens it"
    if machine:
        costs += ", and only on processors like the one that it was optimised on"
    return Finding(
        problem="operators of one runtime",
        weight="slow" if machine else "note",
        evidence=f"operators outside ONNX: {told}, {_names(found)}",
        costs=costs,
        remedy="keep the file from before ONNX Runtime optimised or quantised it (QuantFormat.QDQ writes plain ONNX), "
        "and let each engine optimise it when it opens it",
        nodes=tuple(node.name for node in found),
    )


def other_provider(seen: Seen) -> Finding | None:
    """Operators that another provider than the one that was asked for took."""
    if seen.compiled is None:
        return None
    asked = seen.compiled.asked
    fell = {name: each for name, each in seen.compiled.ran.items() if each.provider != asked}
    if not fell:
        return None
    ops = Counter(each.op for each in fell.values())
    takers = sorted({each.provider for each in fell.values()})
    share = sum(each.share for each in fell.values())
    told = f"{len(fell)} of {len(seen.compiled.ran)} operators were not taken by {asked} but by {', '.join(takers)}: "
    told += ", ".join(f"{op} ({count})" for op, count in ops.most_common(6)) + f", {_percent(share)} of the time here"
    return Finding(
        problem="other provider",
        weight="slow",
        evidence=told,
        costs="maps travel between the two at each border",
        remedy=f"ask for what computes: providers=[{takers[0]!r}]; or look up which operators {asked} takes and leave "
        "the others out of the network",
        nodes=tuple(fell),
    )


def planes_for_pixels(seen: Seen) -> Finding | None:
    """A LiteRT file that takes (N, C, H, W): its kernels know (N, H, W, C) only."""
    graph = seen.graph
    if graph.format != "tflite" or seen.front is None or not seen.front.input_planes:
        return None
    turned = graph.works("Transpose")
    if not turned:
        return None
    told = f"the input has the shape {list(graph.inputs[0].shape)}, and {len(turned)} TRANSPOSE turn maps, "
    return Finding(
        problem="planes in a format of pixels",
        weight="slow",
        evidence=told + _names(turned),
        costs="each reads and writes a whole map and computes nothing",
        remedy="convert with the image by pixels: litert_torch.to_channel_last_io(model, args=[0]) before converting",
        nodes=tuple(node.name for node in turned),
    )


def training_mode(seen: Seen) -> Finding | None:
    """Norms or dropout that behave as in training."""
    found = []
    for node in seen.graph.works(*TRAINED):
        flag = node.attributes.get("training_mode", 0)
        if node.op == "Dropout" and len(node.inputs) > 2:
            constant = seen.graph.constants.get(node.inputs[2])
            flag = bool(constant is not None and np.asarray(constant).any())
        if flag or (node.op == "BatchNormalization" and len(node.outputs) > 1):
            found.append(node)
    if not found:
        return None
    return Finding(
        problem="training mode",
        weight="wrong",
        evidence=f"{len(found)} operators are in training mode, {_names(found)}",
        costs="norms take the statistics of the batch and dropout draws: one image is answered by chance",
        remedy=f"switch before exporting: {EXPORT_AGAIN}",
        nodes=tuple(node.name for node in found),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def _names(nodes: tuple[Node, ...] | list[Node]) -> str:
    return "first " + short(nodes[0].name) if len(nodes) > 1 else short(nodes[0].name)
