"""Rules about what a file says and what its record says of it."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from ..arch.layers import same_pads
from ..errors import SpecError
from ..profiling import table_of
from .graph import Graph, Node, short
from .names import NAME_KEYS, names_in
from .records import Finding
from .seen import Seen

__all__ = [
    "changed_file",
    "labels_missing",
    "labels_unlike_outputs",
    "mixed_padding",
    "normalisation_unlike_record",
    "not_finite",
    "numbers_text",
    "padding_of",
    "padding_unlike_table",
    "softmax_inside",
    "table_padding",
    "thousand_and_one",
]

BACKGROUND: Final = re.compile(r".*background.*|null|none|n/?a|dummy|unknown", re.IGNORECASE)
PLACEHOLDER: Final = re.compile(r"(class|label)[ _-]?\d+", re.IGNORECASE)
OFF: Final = 0.002  # of mean and std, in [0, 1]: half a pixel's step
EXPORT: Final = "mobilenets export BUNDLE --data DATA"


def changed_file(seen: Seen) -> Finding | None:
    """The file is not the one that its record was written for."""
    if seen.artifact is None:
        return None
    said = {seen.artifact.file: seen.artifact.file_sha256, **seen.artifact.companions}
    changed = [name for name, digest in seen.digests.items() if said.get(name) != digest]
    if not changed:
        return None
    told = f"SHA-256 of {changed[0]} is {seen.digests[changed[0]][:12]}..., artifact.json says "
    return Finding(
        problem="changed file",
        weight="wrong",
        evidence=told + f"{said.get(changed[0], 'nothing')[:12]}...",
        costs="what the gates found out holds for another file",
        remedy=f"copy it again, or export it again: {EXPORT}",
    )


def not_finite(seen: Seen) -> Finding | None:
    """Constants with infinity or no number in them. Bounds may be infinite, filters may not."""
    odd = [
        name
        for name, value in seen.graph.constants.items()
        if value.dtype.kind == "f" and value.size > 1 and not np.isfinite(value).all()
    ]
    if not odd:
        return None
    count = sum(int((~np.isfinite(seen.graph.constants[name])).sum()) for name in odd)
    return Finding(
        problem="numbers that are not finite",
        weight="wrong",
        evidence=f"{count} numbers in {len(odd)} tensors are infinite or no numbers, first {short(odd[0])}",
        costs="answers are no numbers",
        remedy="look at the training for divergence, or export in float32 if the tensors are float16",
        nodes=tuple(odd),
    )


def normalisation_unlike_record(seen: Seen) -> Finding | None:
    """Mean and std inside the file are others than those in artifact.json."""
    if seen.artifact is None or seen.front is None or not seen.front.whole or seen.is_int8:
        return None
    mean, std = seen.front.normalisation()
    said = seen.artifact.preprocess
    if len(mean) != len(said.mean):
        return None
    off = max(float(np.abs(mean - said.mean).max()), float(np.abs(std - said.std).max()))
    if off <= OFF:
        return None
    return Finding(
        problem="normalisation unlike its record",
        weight="wrong",
        evidence=f"the file subtracts {numbers_text(mean)} and divides by {numbers_text(std)}; artifact.json says "
        f"{numbers_text(said.mean)} and {numbers_text(said.std)}",
        costs="the network sees other numbers than it was trained with, or whoever reads the record feeds them",
        remedy=f"correct mean and std in the bundle and export again: {EXPORT}",
        nodes=tuple(sorted(seen.front.nodes)),
    )


def numbers_text(values: object) -> str:
    """One number per channel, for a sentence."""
    return "(" + ", ".join(f"{value:.3f}" for value in np.asarray(values).tolist()) + ")"


def _outputs(seen: Seen) -> int | None:
    shape = seen.graph.outputs[0].shape
    return shape[-1] if shape else None


def labels_unlike_outputs(seen: Seen) -> Finding | None:
    """Another number of labels than of outputs, or a label twice."""
    count = _outputs(seen)
    if seen.artifact is None:
        return None
    labels = seen.artifact.labels
    if count is not None and count != len(labels):
        told = f"{count} outputs and {len(labels)} labels"
        more = " (one is the background that TensorFlow counts as class 0)" if count == len(labels) + 1 else ""
        return Finding(
            problem="labels unlike the outputs",
            weight="wrong",
            evidence=told + more,
            costs="names are given to the wrong outputs, or the file does not run",
            remedy="give one label per output, in the order of the outputs, and export again",
        )
    twice = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
    if not twice:
        return None
    return Finding(
        problem="labels unlike the outputs",
        weight="wrong",
        evidence=f"{len(twice)} labels are there more than once, first {twice[0]!r}",
        costs="two outputs cannot be told apart, and data is matched to the last of them",
        remedy="name each class once, and export again",
    )


def thousand_and_one(seen: Seen) -> Finding | None:
    """1001 outputs: TensorFlow's ImageNet networks have a background before the thousand classes."""
    if _outputs(seen) != 1001:
        return None
    if seen.artifact is not None:
        labels = seen.artifact.labels
        if not labels or BACKGROUND.fullmatch(labels[0]):
            return None
        told = f"1001 outputs, and the first label is {labels[0]!r} instead of a background"
    else:
        names = names_in(seen.graph.metadata, 1001)
        if names and BACKGROUND.fullmatch(names[0]):
            return None
        told = "1001 outputs, which is ImageNet's 1000 classes behind a background"
    return Finding(
        problem="1001 labels",
        weight="note" if seen.artifact is None else "wrong",
        evidence=told,
        costs="with a list of 1000 names every answer is off by one",
        remedy='put "background" before the names, or drop the output: logits[:, 1:]',
    )


def labels_missing(seen: Seen) -> Finding | None:
    """Nothing says what the outputs mean."""
    if seen.artifact is None:
        if any(key.lower() in NAME_KEYS for key in seen.graph.metadata):
            return None
        return Finding(
            problem="labels missing",
            weight="note",
            evidence=f"the file names none of its {_outputs(seen) or 'unknown number of'} outputs, nor mean and std",
            costs="whoever runs it has to know both from elsewhere",
            remedy="ship labels and preprocessing with it: mobilenets import CHECKPOINT, mobilenets export BUNDLE",
        )
    unnamed = [label for label in seen.artifact.labels if PLACEHOLDER.fullmatch(label)]
    if len(unnamed) < len(seen.artifact.labels):
        return None
    return Finding(
        problem="labels missing",
        weight="note",
        evidence=f"all {len(unnamed)} labels are numbers, such as {unnamed[0]!r}",
        costs="answers say nothing to a person, and data cannot be matched by name",
        remedy="write the names into artifact.json, in the order of the outputs",
    )


def softmax_inside(seen: Seen) -> Finding | None:
    """The outputs are probabilities, not logits."""
    graph = seen.graph
    last = graph.maker(graph.source(graph.outputs[0].name))
    while last is not None and last.op in ("Reshape", "Squeeze", "Flatten"):
        last = graph.maker(graph.source(last.inputs[0]))
    if last is None or last.op not in ("Softmax", "LogSoftmax", "Sigmoid"):
        return None
    return Finding(
        problem="softmax inside",
        weight="note" if seen.artifact is None else "wrong",
        evidence=f"the last operator is {last.op} ({short(last.name)})",
        costs="a second softmax makes a thousand probabilities nearly equal; the order of classes stays",
        remedy="take the outputs as they are, without softmax"
        if seen.artifact is None
        else "an artifact answers logits: export it again",
        nodes=(last.name,),
    )


def padding_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Names of the convolutions that stride, by how they pad: "symmetric", "same", "either", "other".

    TensorFlow's SAME pads less before than after where both cannot be equal, torch k // 2 on each side. Where that is
    the same (an odd side, one pixel), the file does not tell.
    """
    found: dict[str, list[str]] = {}
    for node in graph.works("Conv"):
        if int(next(iter(node.attributes.get("strides", [1])))) > 1:
            found.setdefault(_padding(graph, node), []).append(node.name)
    return {kind: tuple(names) for kind, names in found.items()}


def _padding(graph: Graph, node: Node) -> str:
    kernel, stride = _kernel(graph, node), int(next(iter(node.attributes["strides"])))
    if kernel <= 1:
        return "either"
    auto = node.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    side = graph.side(node.inputs[0])
    before, after = _pads(node)
    maker = graph.maker(graph.source(node.inputs[0]))
    if maker is not None and maker.op == "Pad":
        side = graph.side(maker.inputs[0])
        outside = _outside(graph, maker)
        if outside is None:
            return "same"  # computed from the side when it runs, which only SAME needs
        before, after = before + outside[0], after + outside[1]
    if auto == "SAME_LOWER":
        return "other"
    if auto == "SAME_UPPER":
        if side is None:
            return "same"
        before, after = same_pads(side, reach=kernel, stride=stride)
    if before == after == kernel // 2:
        return (
            "either"
            if side is not None and same_pads(side, reach=kernel, stride=stride) == (before, after)
            else "symmetric"
        )
    if side is not None:
        return "same" if same_pads(side, reach=kernel, stride=stride) == (before, after) else "other"
    return "same" if before < after else "other"


def _kernel(graph: Graph, node: Node) -> int:
    rate = int(max(node.attributes.get("dilations", [1])))
    sides = node.attributes.get("kernel_shape")
    if sides is None:
        weight = graph.constants.get(graph.source(node.inputs[1]))
        sides = [1] if weight is None or weight.ndim != 4 else [weight.shape[1 if graph.pixels else 2]]
    return rate * (int(sides[0]) - 1) + 1


def _pads(node: Node) -> tuple[int, int]:
    pads = list(node.attributes.get("pads", [0, 0, 0, 0]))
    return int(pads[0]), int(pads[len(pads) // 2])


def _outside(graph: Graph, pad: Node) -> tuple[int, int] | None:
    """What a Pad puts above and below a map; None where that is computed."""
    given = pad.attributes.get("pads")
    if given is None:
        constant = graph.constants.get(graph.source(pad.inputs[1])) if len(pad.inputs) > 1 else None
        if constant is None:
            return None
        given = constant.reshape(-1).tolist()
    place = 1 if graph.pixels else 2
    return int(given[place]), int(given[len(given) // 2 + place])


def table_padding(seen: Seen) -> str | None:
    """What the table of an artifact says, where that is known."""
    if seen.artifact is None:
        return None
    try:
        spec = table_of(seen.artifact)
    except SpecError:  # it holds no table that can be: then nothing is known
        return None
    return None if spec is None else spec.padding


def padding_unlike_table(seen: Seen) -> Finding | None:
    """The convolutions pad in another way than the network's table says."""
    said, found = table_padding(seen), padding_of(seen.graph)
    if said is None:
        return None
    against = [name for kind, names in found.items() if kind not in (said, "either") for name in names]
    if not against:
        return None
    return Finding(
        problem="padding unlike its table",
        weight="wrong",
        evidence=f"the table of {seen.artifact.spec_name if seen.artifact else ''} pads {said!r}; {len(against)} "
        f"convolutions that stride pad otherwise, first {short(against[0])}",
        costs="every map is shifted by a pixel; accuracy drops by a few points and nothing fails",
        remedy=f"export it again from its bundle: {EXPORT}",
        nodes=tuple(against),
    )


def mixed_padding(seen: Seen) -> Finding | None:
    """Some convolutions pad as torch does and some as TensorFlow does."""
    found = padding_of(seen.graph)
    if not (found.get("symmetric") and found.get("same")) or table_padding(seen) is not None:
        return None
    fewer = min(("symmetric", "same"), key=lambda kind: len(found[kind]))
    return Finding(
        problem="mixed padding",
        weight="wrong",
        evidence=f"{len(found['symmetric'])} convolutions that stride pad evenly and {len(found['same'])} as "
        f"TensorFlow's SAME does; the odd ones begin with {short(found[fewer][0])}",
        costs="no library builds a network so: maps are shifted by a pixel where weights expect otherwise",
        remedy="build the network with one convention: timm's tf_ models for TensorFlow's weights",
        nodes=found[fewer],
    )
