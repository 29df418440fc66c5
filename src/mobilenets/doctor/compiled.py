"""What ONNX Runtime makes of a file: the operators that are left when it has fused what it can, and their time."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from ..errors import FileFormatError, UnknownNameError, UsageError, first_line
from .graph import Graph, Node, Port
from .read_onnx import graph_of_onnx, load_onnx

__all__ = ["DEFAULT_PROVIDER", "Compiled", "Ran", "compiled", "usual_shape", "zeros_for"]

DEFAULT_PROVIDER: Final = "CPUExecutionProvider"
RUNS: Final = 6  # the median of so few is enough to tell shares
USUAL_SIDE: Final = 224  # of an input whose sides are free


@dataclass(frozen=True)
class Ran:
    """One operator as it ran."""

    op: str
    provider: str
    share: float  # of the time of all operators
    takes: tuple[str, ...]  # types of its inputs, numpy's names; "float" for float32 as ONNX Runtime writes it
    gives: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Compiled:
    """Everything that is left.

    Args:
        version: of ONNX Runtime.
        asked: the provider that was asked for.
        graph: after its optimisations.
        ran: by the operator's name; ONNX Runtime leaves some nameless, and those go by their kind together.
    """

    version: str
    asked: str
    graph: Graph
    ran: Mapping[str, Ran]

    def of(self, node: Node) -> Ran | None:
        """How a node of `graph` ran."""
        return self.ran.get(node.name) or self.ran.get(node.op)

    def share_of(self, nodes: Iterable[Node]) -> float:
        """The part of the time that these nodes of `graph` take; those without a name go by their kind together."""
        keys = {node.name if node.name in self.ran else node.op for node in nodes}
        return sum(self.ran[key].share for key in keys if key in self.ran)

    def share(self, *ops: str) -> float:
        """The part of the time that all operators of these kinds take."""
        return sum(each.share for each in self.ran.values() if each.op in ops)


def compiled(path: Path, *, provider: str = DEFAULT_PROVIDER) -> Compiled:
    """Open a file with ONNX Runtime, run it a few times on an image of zeros, and look at what ran.

    Args:
        path: an ONNX file; weights may lie beside it.
        provider: who is asked to compute; what it does not take falls to the processor.

    Raises:
        UnknownNameError: this ONNX Runtime has no such provider.
        FileFormatError: it does not open or run the file.
        MissingExtraError: the package onnx is not installed.
    """
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise UnknownNameError("provider", provider, known=ort.get_available_providers())
    with tempfile.TemporaryDirectory(prefix="mobilenets-doctor-") as name:
        folder = Path(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        try:
            session = ort.InferenceSession(
                str(path), options, providers=list(dict.fromkeys([provider, DEFAULT_PROVIDER]))
            )
            given = session.get_inputs()
            feeds = {each.name: zeros_for(each.shape, each.type) for each in given}
            for _ in range(RUNS):
                session.run(None, feeds)
            profile = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except UsageError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise FileFormatError(
                f"{path} does not run: {first_line(error)}",
                wanted=f"a model that ONNX Runtime {ort.__version__} runs",
                do="export it again; a newer ONNX Runtime may know its operators",
            ) from error
        graph = graph_of_onnx(load_onnx(folder / "optimised.onnx", weights=path.parent))
    return Compiled(version=str(ort.__version__), asked=provider, graph=graph, ran=_ran(profile))


def zeros_for(shape: list[int | str | None], kind: str) -> Any:
    """An input of one image for a session's input; free sides become the usual ones.

    Raises:
        UsageError: the input is no tensor of numbers.
    """
    types = {"float": np.float32, "float16": np.float16, "double": np.float64, "uint8": np.uint8, "int8": np.int8}
    name = kind.removeprefix("tensor(").removesuffix(")")
    if name not in types:
        raise UsageError(f"the file takes {kind}", wanted="an image: float or uint8", do="this is for classifiers only")
    port = Port("", name, tuple(side if isinstance(side, int) and side > 0 else None for side in shape))
    return np.zeros(usual_shape(port), types[name])


def usual_shape(port: Port) -> tuple[int, ...]:
    """The shape of one image: a free batch is 1, a free channel side 3, other free sides are 224."""
    if len(port.shape) != 4:
        return tuple(side or 1 for side in port.shape)
    by_pixels = port.shape[3] in (1, 3) and port.shape[1] not in (1, 3)
    channels = 3 if by_pixels else 1
    usual = tuple(1 if place == 0 else 3 if place == channels else USUAL_SIDE for place in range(4))
    return tuple(side or other for side, other in zip(port.shape, usual, strict=True))


def _ran(profile: list[dict[str, Any]]) -> dict[str, Ran]:
    times: dict[str, list[float]] = defaultdict(list)
    told: dict[str, dict[str, Any]] = {}
    for event in profile:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            told_of = event["args"]
            key = name.removesuffix("_kernel_time") or str(told_of["op_name"])
            times[key].append(float(event["dur"]))
            told.setdefault(key, told_of)
    # A nameless kind has several events a run.
    usual = {key: median(each) * max(1, round(len(each) / RUNS)) for key, each in times.items()}
    total = sum(usual.values()) or 1.0
    return {
        key: Ran(
            op=str(args["op_name"]),
            provider=str(args.get("provider", "")),
            share=usual[key] / total,
            takes=_types(args.get("input_type_shape", [])),
            gives=_types(args.get("output_type_shape", [])),
        )
        for key, args in told.items()
    }


def _types(shapes: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(next(iter(each)) for each in shapes if each)
