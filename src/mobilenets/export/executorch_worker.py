"""`torch.export` program -> ExecuTorch, in a process of its own: torch, torchao and executorch are all it imports.

    python executorch_worker.py lower    PROGRAM.pt2 FACTS.json MODEL.pte
    python executorch_worker.py quantize PROGRAM.pt2 FACTS.json MODEL.pte SEEN.npy HELD.npy TRIALS.json AGREEMENT SHARE
    python executorch_worker.py answer   MODEL.pte PIXELS.npy LOGITS.npy

It may be run by the Python of another environment, where this package is not installed: it imports nothing of it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["FACTS_METHOD", "answer", "lower", "main", "quantize"]

FACTS_METHOD = "mobilenets"  # a method of the file that returns its facts: a JSON object as bytes
NETWORK = "network"  # what the program calls the network; what lies outside it prepares the pixels
BATCH = 16
LEAST_STEP = 2**-12  # between two bytes, as XNNPACK's own configuration has it
# The least and the greatest value; and torchao's search for what to cut off so that the squared error is least.
RANGES = ("minmax", "histogram")
ANNOTATION = "quantization_annotation"  # where torchao keeps what its quantisers say of a node


def main() -> None:
    """Do what the arguments say."""
    paths = [Path(argument) for argument in sys.argv[2:]]
    if sys.argv[1] == "lower":
        lower(*paths)
    elif sys.argv[1] == "quantize":
        quantize(*paths[:6], agreement=float(sys.argv[8]), most_float=float(sys.argv[9]))
    elif sys.argv[1] == "answer":
        answer(*paths)
    else:
        raise SystemExit(f"there is no command {sys.argv[1]}")


def lower(program: Path, facts: Path, model: Path) -> None:
    """Write the `.pte` file of a program; what XNNPACK does goes to XNNPACK."""
    import torch

    model.write_bytes(_lowered(torch.export.load(program), facts))


def quantize(
    program: Path,
    facts: Path,
    model: Path,
    seen: Path,
    held: Path,
    trials: Path,
    *,
    agreement: float,
    most_float: float,
) -> None:
    """Write the int8 `.pte` file of a program whose batch is free, and in words what was tried.

    Args:
        program: uint8 (N, R, R, C) to logits, of a network whose rows are its submodules "rows.0", "rows.1", ….
        facts: texts by name, JSON.
        model: to write.
        seen: images that calibrate, uint8 (N, R, R, C), N >= 1, numpy's file.
        held: images that judge, as many as there are; with none, nothing is judged.
        trials: to write, a JSON list of texts.
        agreement: share of the judging images that int8 must answer like float32, else rows stay float32.
        most_float: how large a share of the rows may.
    """
    import numpy as np
    import torch

    with torch.no_grad():
        network = _Network(torch.export.load(program), torch.from_numpy(np.load(seen)), torch.from_numpy(np.load(held)))
        kept = network.best()
        if kept.agreement < agreement:
            kept = network.mixed(kept, agreement=agreement, most_float=most_float)
        one = torch.zeros_like(network.seen[:1])  # the file's memory plan is for one image
        single = torch.export.export(kept.module, (one,))
        model.write_bytes(_lowered(single, facts))
    trials.write_text(json.dumps(network.words, ensure_ascii=False), encoding="utf-8")


def answer(model: Path, pixels: Path, logits: Path) -> None:
    """Write the logits float32 (N, classes) for pixels uint8 (N, R, R, C), both as numpy's files."""
    import numpy as np
    import torch
    from executorch.runtime import Runtime

    forward = Runtime.get().load_program(model).load_method("forward")
    images = np.load(pixels)
    answers = [forward.execute([torch.from_numpy(image[None].copy())])[0].numpy().copy() for image in images]
    np.save(logits, np.concatenate(answers))


def _lowered(program: Any, facts: Path) -> bytes:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    told = torch.frombuffer(bytearray(facts.read_bytes()), dtype=torch.uint8)
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={FACTS_METHOD: told}
    )
    return bytes(lowered.to_executorch().buffer)


class _Tried(NamedTuple):
    """A network in int8, and how it answers the images that judge. Without any, noise is 0 and agreement 1."""

    module: Any
    ranges: str  # how they were found, one of RANGES
    floats: tuple[str, ...]  # rows that stayed float32: "rows.3", "head"
    agreement: float  # share of images with float32's top-1
    noise: float  # variance of what was added to the logits, in variances of the logits


class _Network:
    """What is known of one program while its rows are put into int8."""

    def __init__(self, program: Any, seen: Any, held: Any) -> None:
        self._program = program
        self.seen = seen
        self._held = held
        self.judges = len(held) > 0
        self._reference = self._answers(program.module())
        self._found: dict[str, dict[str, Any]] = {}  # observers by the value they saw, by the kind of range
        self.words: list[str] = []

    def best(self) -> _Tried:
        """All rows in int8, with the ranges that add least noise; least and greatest where nothing judges."""
        ways = RANGES if self.judges else RANGES[:1]
        return min((self.tried(ranges) for ranges in ways), key=lambda made: made.noise)

    def tried(self, ranges: str, floats: tuple[str, ...] = (), *, quiet: bool = False) -> _Tried:
        """With these rows in float32. Ranges are found once: observers round nothing, so no row moves another's."""
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        module = prepare_pt2e(self._program.module(), _Annotator(ranges, floats))
        if ranges in self._found:
            for place, target in _observers(module).items():
                setattr(module, target, self._found[ranges][place])
        else:
            for start in range(0, len(self.seen), BATCH):
                module(self.seen[start : start + BATCH])
            self._found[ranges] = {place: getattr(module, target) for place, target in _observers(module).items()}
        made = self._judged(convert_pt2e(module), ranges, floats)
        if not quiet:
            self.words.append(self._described(made))
        return made

    def mixed(self, whole: _Tried, *, agreement: float, most_float: float) -> _Tried:
        """The fewest float32 rows that bring the agreement about, or what was given where the most do not."""
        rows = _rows(self._program.module())
        alone = {row: self.tried(whole.ranges, (row,), quiet=True).noise for row in rows}
        order = sorted(rows, key=lambda row: alone[row])
        for count in range(1, int(most_float * len(rows)) + 1):
            better = self.tried(whole.ranges, tuple(order[:count]))
            if better.agreement >= agreement:
                return better
        return whole

    def _judged(self, module: Any, ranges: str, floats: tuple[str, ...]) -> _Tried:
        if not self.judges:
            return _Tried(module, ranges, floats, agreement=1.0, noise=0.0)
        answered, reference = self._answers(module), self._reference
        alike = float((answered.argmax(1) == reference.argmax(1)).float().mean())
        varies = float((reference - reference.mean(0)).square().sum())
        added = float((answered - reference).square().sum())
        noise = added / varies if varies > 0 else math.inf
        return _Tried(module, ranges, floats, agreement=alike, noise=math.inf if math.isnan(noise) else noise)

    def _answers(self, module: Any) -> Any:
        import torch

        parts = [module(self._held[start : start + BATCH]) for start in range(0, len(self._held), BATCH)]
        return torch.cat(parts) if parts else None

    def _described(self, made: _Tried) -> str:
        words = made.ranges + (f", {', '.join(made.floats)} in float32" if made.floats else "")
        if not self.judges:
            return words
        return (
            f"{words}: noise {100 * made.noise:.2f} % of the logits' variance,"
            f" {100 * made.agreement:.1f} % of {len(self._held)} images answered alike"
        )


class _Annotator:
    """What `prepare_pt2e` asks: XNNPACK's quantiser, with weights per channel, for all rows but some.

    It differs in four things from what XNNPACK's says. Pixels are moved to the mean in float32, so that a byte of the
    image is a byte of the first convolution. What a clamp cuts off is not part of the range before it: XNNPACK does the
    clamp within the convolution, and with ReLU6 the range would else be that of the sums, several times wider. And an
    average over the picture has a range of its own: it is far from the greatest value that went into it, and in steps
    made for that one, most averages would be nothing. The logits' range leaves nothing out: the greatest is the answer.
    """

    def __init__(self, ranges: str, floats: Collection[str]) -> None:
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer

        self._own = XNNPACKQuantizer()
        configuration = _configuration(ranges)
        self._values = configuration.output_activation
        self._logits = _configuration("minmax").output_activation
        self._own.set_global(configuration)
        self._own.set_filter_function(lambda node: node.op != "call_function" or _row_of(node) not in (None, *floats))

    def transform_for_annotation(self, model: Any) -> Any:
        """As XNNPACK's quantiser does."""
        return self._own.transform_for_annotation(model)

    def annotate(self, model: Any) -> Any:
        """Say of each node what is rounded before and after it."""
        import torch
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

        aten = torch.ops.aten
        self._own.annotate(model)
        for node in model.graph.nodes:
            if node.target in (aten.hardtanh.default, aten.relu.default):
                before = node.args[0]
                alone = before.target in (aten.conv2d.default, aten.linear.default) and len(before.users) == 1
                if alone and _is_rounded(before):
                    node.meta[ANNOTATION] = QuantizationAnnotation(output_qspec=self._values, _annotated=True)
                    before.meta[ANNOTATION].output_qspec = None
            elif node.target == aten.mean.dim and _is_rounded(node):
                node.meta[ANNOTATION] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: self._values}, output_qspec=self._values, _annotated=True
                )
        for node in [each for each in model.graph.nodes if each.target == aten.linear.default][-1:]:
            if _is_rounded(node):
                node.meta[ANNOTATION].output_qspec = self._logits
        return model

    def validate(self, model: Any) -> None:
        """As XNNPACK's quantiser does."""
        self._own.validate(model)

    def prepare_obs_or_fq_callback(self, model: Any, edge_or_node_to_obs_or_fq: dict[Any, Any]) -> None:
        """Leave the observers as they are."""
        self._own.prepare_obs_or_fq_callback(model, edge_or_node_to_obs_or_fq)


def _is_rounded(node: Any) -> bool:
    return ANNOTATION in node.meta and node.meta[ANNOTATION].output_qspec is not None


def _configuration(ranges: str) -> Any:
    """What XNNPACK's quantiser is told: weights per channel, and values with ranges of that kind."""
    from dataclasses import replace

    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config
    from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

    observer = {"minmax": MinMaxObserver, "histogram": HistogramObserver}[ranges]
    usual = get_symmetric_quantization_config(is_per_channel=True)
    made = observer.with_args(eps=LEAST_STEP)
    values = replace(usual.input_activation, observer_or_fake_quant_ctr=made)
    return replace(usual, input_activation=values, output_activation=values)


def _row_of(node: Any) -> str | None:
    """The row that a node belongs to: "rows.3", "head"; None for what prepares the pixels."""
    inside = [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name.startswith(f"{NETWORK}.")]
    if not inside:
        return None
    _, first, *rest = inside[-1].split(".")
    return f"{first}.{rest[0]}" if first == "rows" and rest else str(first)


def _rows(module: Any) -> list[str]:
    found = [_row_of(node) for node in module.graph.nodes if node.op == "call_function"]
    return list(dict.fromkeys(row for row in found if row is not None))


def _observers(module: Any) -> Mapping[str, str]:
    """Where a prepared module observes, by the name of the value that is observed."""
    from torchao.quantization.pt2e import ObserverBase

    return {
        node.args[0].name: node.target
        for node in module.graph.nodes
        if node.op == "call_module" and isinstance(module.get_submodule(node.target), ObserverBase)
    }


if __name__ == "__main__":
    main()
