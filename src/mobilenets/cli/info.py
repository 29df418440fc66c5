"""`mobilenets info`: what is this network, and what does it cost?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..arch import ArchSpec, Cost

__all__ = ["command"]


@click.command(name="info", short_help="Count a network: parameters, mult-adds, memory, layer by layer.")
@click.argument("target", metavar="MODEL")
@click.option("--classes", type=int, metavar="N", help="With another number of classes than the paper's 1000.")
@click.option("--per-layer", is_flag=True, help="Every layer with its input, output and cost.")
@click.option("--by-type", is_flag=True, help="Shares of the kinds of layers, as in the MobileNetV1 paper's Table 2.")
@click.option("--memory", "with_memory", is_flag=True, help="Memory at every resolution, as in V2's Table 3.")
@click.option("--spec", "as_spec", is_flag=True, help="The whole table as JSON: a file that MODEL may be, too.")
@click.option("--json", "as_json", is_flag=True, help="The same facts as one JSON object.")
def command(
    target: str,
    classes: int | None,
    per_layer: bool,
    by_type: bool,
    with_memory: bool,
    as_spec: bool,
    as_json: bool,
) -> None:
    """Count a network: parameters, mult-adds, memory, layer by layer. Needs no torch.

    MODEL is a name (see: mobilenets models), the JSON file of a table, or a folder: a bundle that `mobilenets train`
    wrote, or an artifact that `mobilenets export` wrote.

    \b
    Numbers of the papers:
        mobilenets info mobilenet_v2_1.4_224
        mobilenets info mobilenet_v1 --by-type
        mobilenets info mobilenet_v2 --memory

    \b
    A table of your own:
        mobilenets info mobilenet_v2 --spec > my.json
        mobilenets info my.json --per-layer

    \b
    What a trained model is, and what it was checked against:
        mobilenets info runs/train/mobilenet_v2-flowers/best
        mobilenets info rose/ --json | jq .gates
    """
    about = _about(target)
    spec = about.spec
    if classes is not None:
        from ..arch import with_classes
        from ..errors import UsageError

        if spec is None or about.facts:
            raise UsageError(
                f"--classes {classes} for a trained model", wanted="a name or a table", do="leave --classes away"
            )
        spec = with_classes(spec, classes)
    if spec is None and (per_layer or by_type or with_memory or as_spec):
        from ..errors import UsageError

        raise UsageError(
            f"{target} is an artifact that does not hold its table, which is not in the catalogue",
            wanted="its table, for --per-layer, --by-type, --memory and --spec",
            do="ask the same of the bundle it was exported from",
        )
    if as_spec and spec is not None:
        click.echo(json.dumps(spec.to_json(), indent=2))
        return
    content = _content(about, spec, per_layer=per_layer, by_type=by_type, with_memory=with_memory)
    if as_json:
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    for line in _lines(content):
        click.echo(line)


@dataclass(frozen=True)
class _About:
    """What a target is: its table, where that is known, and what goes beyond the table."""

    kind: str
    spec: ArchSpec | None
    facts: dict[str, Any] = field(default_factory=dict)


def _about(target: str) -> _About:
    from ..arch import find

    path = Path(target)
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or path.name in ("artifact.json", "bundle.json") or (path.is_file() and path.suffix != ".json"):
        if (folder / "bundle.json").is_file() and path.name != "artifact.json":
            return _about_bundle(folder)
        return _about_artifact(path)
    return _About(kind="table", spec=find(target))


def _about_bundle(folder: Path) -> _About:
    from ..bundle import read_bundle
    from ..records import to_json

    bundle = read_bundle(folder)
    return _About(
        kind="bundle",
        spec=bundle.spec,
        facts={
            "bundle_digest": bundle.digest,
            "task": bundle.task,
            "labels": list(bundle.labels),
            "preprocess": to_json(bundle.preprocess),
            "history": list(bundle.history),
        },
    )


def _about_artifact(path: Path) -> _About:
    from ..profiling import table_of
    from ..records import to_json
    from ..runtime.artifact import read_artifact

    artifact, _ = read_artifact(path)
    spec = table_of(artifact)
    recorded = {
        "name": artifact.spec_name,
        "parameters": artifact.parameters,
        "mult_adds": artifact.mult_adds,
        "size_mb": artifact.size_mb,
        "resolution": artifact.preprocess.resolution,
        "channels": artifact.preprocess.channels,
        "classes": len(artifact.labels),
        "digest": artifact.spec_digest,
        "bundle_digest": artifact.bundle_digest,
        "task": artifact.task,
        "file": artifact.file,
        "format": artifact.format,
        "precision": artifact.precision,
        "labels": list(artifact.labels),
        "preprocess": to_json(artifact.preprocess),
        "gates": [{**to_json(gate), "passed": gate.passed} for gate in artifact.gates],
        "versions": artifact.versions,
    }
    return _About(kind="artifact", spec=spec, facts=recorded)


def _content(
    about: _About, spec: ArchSpec | None, *, per_layer: bool, by_type: bool, with_memory: bool
) -> dict[str, Any]:
    """All that is told, in the order in which it is shown; `facts` of an artifact win over what its table counts."""
    content: dict[str, Any] = {"kind": about.kind}
    if spec is not None:
        from ..arch import cost

        counted = cost(spec)
        content |= {
            "name": spec.name,
            "paper": spec.paper,
            "parameters": counted.parameters,
            "norm_statistics": counted.norm_statistics,
            "mult_adds": counted.mult_adds,
            "size_mb": counted.size_mb,
            "peak_activation_mb": counted.peak_activation_mb,
            "resolution": spec.resolution,
            "channels": spec.channels,
            "classes": spec.head.classes,
            "rows": len(spec.rows),
            "digest": spec.digest,
        }
        if by_type:
            content["by_type"] = _by_type(counted)
        if with_memory:
            content["memory"] = _memory(spec)
        if per_layer:
            content["layers"] = list(_layers(spec, counted))
    return content | about.facts


def _by_type(counted: Cost) -> dict[str, dict[str, Any]]:
    return {
        kind: {
            "mult_adds": total.mult_adds,
            "parameters": total.parameters,
            "mult_adds_share": total.mult_adds / counted.mult_adds,
            "parameters_share": total.parameters / counted.parameters,
        }
        for kind, total in counted.by_type().items()
    }


def _memory(spec: ArchSpec) -> dict[str, Any]:
    from ..arch import memory

    needed = memory(spec)
    return {
        "bits": 16,
        "levels": [
            {
                "size": level.size,
                "channels": level.channels,
                "memory_kb": level.memory / 1e3,
                "streamed": level.streamed,
            }
            for level in needed.levels
        ],
        "widest_kb": needed.widest / 1e3,
        "peak_kb": needed.peak / 1e3,
        "peak_row": needed.peak_row if needed.peak_row < len(spec.rows) else None,  # None: the head
    }


def _layers(spec: ArchSpec, counted: Cost) -> Iterator[dict[str, Any]]:
    for entry in counted.layers:
        layer = entry.layer
        yield {
            "row": entry.row if entry.row < len(spec.rows) else None,  # None: the head
            "layer": layer.name,
            "type": layer.kind,
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "in_size": entry.in_size,
            "out_size": entry.out_size,
            "kernel": layer.kernel,
            "stride": layer.stride,
            "parameters": entry.parameters,
            "mult_adds": entry.mult_adds,
        }


def _lines(content: dict[str, Any]) -> Iterator[str]:
    yield f"{content['name']} ({content['kind']})"
    memory = content.get("peak_activation_mb")
    shown = {
        "paper": content.get("paper"),
        "input": f"{content['resolution']}x{content['resolution']}x{content['channels']}",
        "classes": f"{content['classes']:,}",
        "parameters": f"{content['parameters']:,}",
        "mult-adds": f"{content['mult_adds']:,}",
        "size": f"{content['size_mb']:.3f} MB" + ("" if content["kind"] == "artifact" else " as float32"),
        "peak activations": None if memory is None else f"{memory:.3f} MB as float32, one image",
        "digest": content["digest"],
        "file": content.get("file"),
        "precision": content.get("precision"),
        "labels": _shortened(content["labels"]) if "labels" in content else None,
        "preprocess": ", ".join(f"{k} {v}" for k, v in content.get("preprocess", {}).items()) or None,
    }
    for name, value in shown.items():
        if value is not None:
            yield f"  {name:<17} {value}"
    for step in content.get("history", ()):
        yield f"  history           {_step(step)}"
    for gate in content.get("gates", ()):
        sign = {"at_most": "<=", "at_least": ">="}[gate["passes"]]
        verdict = "passed" if gate["passed"] else "failed"
        yield (
            f"  gate              {gate['name']} {gate['value']:.4g} {sign} {gate['limit']:g}, {verdict}"
            f" ({gate['n']} {gate['on']})"
        )
    if "by_type" in content:
        yield from ("", "type          mult-adds   share  parameters   share")
        for kind, total in content["by_type"].items():
            yield (
                f"{kind:<10} {total['mult_adds']:>12,} {100 * total['mult_adds_share']:>5.2f} %"
                f" {total['parameters']:>11,} {100 * total['parameters_share']:>5.2f} %"
            )
    if "memory" in content:
        yield from _memory_lines(content["memory"])
    if "layers" in content:
        yield from ("", " row  layer       type        input          output         k  s  parameters    mult-adds")
        for layer in content["layers"]:
            row = "head" if layer["row"] is None else layer["row"]
            size, out = layer["in_size"], layer["out_size"]
            before, after = f"{size}x{size}x{layer['in_channels']}", f"{out}x{out}x{layer['out_channels']}"
            yield (
                f"{row:>4}  {layer['layer']:<10}  {layer['type']:<10}  {before:<13}  {after:<13}"
                f"  {layer['kernel']}  {layer['stride']} {layer['parameters']:>11,} {layer['mult_adds']:>12,}"
            )


def _memory_lines(needed: dict[str, Any]) -> Iterator[str]:
    yield from ("", "by the resolution of an operation's input: the wider of its input and output (V2 Table 3)")
    yield f"resolution  most channels  memory ({needed['bits']}-bit)"
    for level in needed["levels"]:
        size, memory = f"{level['size']}x{level['size']}", f"{level['memory_kb']:,.1f} Kb"
        if level["streamed"]:
            memory = "O(1), run in tiles"
        yield f"{size:<10}  {level['channels']:>13,}  {memory}"
    yield f"{'max':<10}  {'':>13}  {needed['widest_kb']:,.1f} Kb"
    row = "the head" if needed["peak_row"] is None else f"row {needed['peak_row']}"
    yield f"{'peak':<10}  {'':>13}  {needed['peak_kb']:,.1f} Kb: input and output of {row} together (V2 section 5)"


def _shortened(labels: list[str]) -> str:
    more = f" and {len(labels) - 12} more" if len(labels) > 12 else ""
    return ", ".join(labels[:12]) + more


def _step(step: dict[str, Any]) -> str:
    measured = step.get("measured") or {}
    words = [str(step.get("step", "?"))]
    if "eval_top1" in measured:
        words.append(f"validation top-1 {measured['eval_top1']:.2f} %")
    if "eval_map" in measured:
        words.append(f"validation mAP {measured['eval_map']:.2f} %")
    if "seconds" in measured:
        words.append(f"{measured['seconds']:.0f} s")
    if "device" in step:
        words.append(f"on {step['device']}")
    return ", ".join(words)
