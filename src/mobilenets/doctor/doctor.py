"""`doctor`: a model file -> what is wrong with it, slow in it, or easily used wrongly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..data import Dataset, SplitName
from ..errors import FileFormatError, UsageError
from ..records import Artifact, Environment, only_classifiers
from ..runtime import read_artifact
from ..runtime.artifact import ARTIFACT_FILE
from .compiled import DEFAULT_PROVIDER, compiled, usual_shape
from .facts import facts_of
from .feeders import feeder_for
from .feeding import Norm, Way, fed_in, feed, numbers_of, outputs_of, preprocess_for, said_by, sampled
from .front import Front, front_of
from .graph import Graph
from .read_onnx import graph_of_onnx, load_onnx
from .read_openvino import graph_of_openvino
from .read_tflite import graph_of_tflite
from .records import Checkup, Feeding, Order
from .rules import findings_of
from .running import runner_for
from .saturation import saturation
from .seen import Saturated, Seen

__all__ = ["doctor"]

SUFFIXES: Final = MappingProxyType({".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino"})
PACKAGES: Final = ("mobilenets", "numpy", "onnx", "onnxruntime", "pillow")


def doctor(
    path: Path,
    dataset: Dataset | None = None,
    *,
    split: SplitName | None = None,
    fed: Norm | None = None,
    order: Order = "RGB",
    provider: str = DEFAULT_PROVIDER,
) -> Checkup:
    """Look at a model file of a classifier. Needs no torch; for ONNX files the package onnx.

    Args:
        path: an artifact (its folder, its `artifact.json`, or the file beside that), or somebody else's `.onnx`,
            `.tflite` or `.xml`.
        dataset: labelled images: then the usual ways to feed the file are tried on up to 256 of them, and int8 ranges
            are held against them.
        split: of the data; None: its final one.
        fed: how somebody else's file is fed by those who use it; None: what its input speaks for, and where that
            takes any floats ImageNet's mean and std. An artifact says it itself.
        order: of the colours, likewise.
        provider: of ONNX Runtime, who is asked to compute.

    Raises:
        FileFormatError: there is no such file, or it cannot be read or run.
        UsageError: another format; the classes of the data cannot be matched to the outputs; `fed` for an artifact.
        UnknownNameError: this ONNX Runtime has no such provider.
        MissingExtraError: what reads or runs the format is not installed.
        DataError: no such split, or no images in it.
        CheckError: a file that takes bytes cannot be fed as it is said to be.
    """
    artifact, file = _opened(path)
    if dataset is not None:
        for task in (dataset.task, artifact.task if artifact is not None else dataset.task):
            only_classifiers(task, what="doctor with images")
    if artifact is not None and (fed is not None or order != "RGB"):
        raise UsageError(
            f"{path} is an artifact, which says itself how it is fed",
            wanted="no --fed and no --bgr",
            do="leave them away",
        )
    format = artifact.format if artifact is not None else SUFFIXES.get(file.suffix.lower())
    model, graph = _read(file, format)
    front = front_of(graph)
    left = compiled(file, provider=provider) if graph.format == "onnx" else None
    feeding: Feeding | None = None
    saturated: tuple[Saturated, ...] = ()
    if dataset is not None:
        feeding, saturated = _fed(file, graph, front, artifact, model, dataset, split, fed, order)
    seen = Seen(
        path=file,
        graph=graph,
        front=front,
        artifact=artifact,
        digests=_digests(file, artifact),
        compiled=left,
        feeding=feeding,
        saturated=saturated,
    )
    return Checkup(
        file=str(path),
        format=graph.format,
        facts=facts_of(seen),
        findings=findings_of(seen),
        feeding=feeding,
        environment=Environment.capture(packages=PACKAGES),
    )


def _opened(path: Path) -> tuple[Artifact | None, Path]:
    """The record, where the file has one, and the file."""
    beside = path.parent / ARTIFACT_FILE
    if path.is_file() and path.suffix.lower() in SUFFIXES and not beside.is_file():
        return None, path
    artifact, folder = read_artifact(path)
    return artifact, folder / artifact.file


def _read(file: Path, format: str | None) -> tuple[Any, Graph]:
    """The file's graph, and the `onnx.ModelProto` where it is one."""
    if format == "onnx":
        model = load_onnx(file)
        return model, graph_of_onnx(model)
    if format == "tflite":
        return None, graph_of_tflite(file)
    if format == "openvino":
        return None, graph_of_openvino(file)
    raise UsageError(
        f"{file} is {format or 'of a format that its name does not tell'}",
        wanted="onnx, tflite, or OpenVINO's xml",
        do="give the file it was made of, or the bundle's ONNX artifact: mobilenets export BUNDLE",
    )


def _digests(file: Path, artifact: Artifact | None) -> dict[str, str]:
    names = (file.name,) if artifact is None else (artifact.file, *artifact.companions)
    folder = file.parent if artifact is None else file.parents[len(Path(artifact.file).parts) - 1]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def _fed(
    file: Path,
    graph: Graph,
    front: Front | None,
    artifact: Artifact | None,
    model: Any,
    dataset: Dataset,
    split: SplitName | None,
    fed: Norm | None,
    order: Order,
) -> tuple[Feeding, tuple[Saturated, ...]]:
    """Answers to labelled images, fed in every usual way; and ranges held against the same images."""
    if front is None or not graph.outputs[0].shape or graph.outputs[0].shape[-1] is None:
        raise FileFormatError(
            f"{file} takes {graph.inputs[0].shape} and gives {graph.outputs[0].shape}",
            wanted="one image of 1 or 3 channels in, and a number for each class out",
            do="leave DATA away to see the other findings",
        )
    said = said_by(artifact.preprocess) if artifact else _said(graph, front, fed, order)
    preprocess = artifact.preprocess if artifact else preprocess_for(_side(graph, file), len(front.scale))
    outputs, labels = outputs_of(
        dataset.labels,
        outputs=graph.outputs[0].shape[-1],
        named=artifact.labels if artifact else (),
        metadata=graph.metadata,
    )
    pixels, targets = sampled(dataset, preprocess, split=split)
    runner = runner_for(file, graph)
    feeder = feeder_for(runner, graph, front, artifact=artifact, model=model)
    own = runner.run(pixels) if artifact else None  # to bytes as an artifact takes them
    feeding = feed(feeder, pixels, outputs[targets], said, own=own, data=dataset.name, labels=labels)
    has_ranges = model is not None and bool(graph.works("QuantizeLinear"))
    arrays = _arrays(graph, front, pixels, said, is_artifact=artifact is not None) if has_ranges else None
    return feeding, () if arrays is None else saturation(model, graph, arrays)


def _arrays(
    graph: Graph, front: Front, pixels: NDArray[np.uint8], said: Way, *, is_artifact: bool
) -> NDArray[Any] | None:
    """Images in the type and layout that the file takes, where that is clear."""
    if is_artifact:
        return pixels
    if not graph.inputs[0].type.startswith("float"):
        return None
    numbers = numbers_of(pixels, said)
    return np.ascontiguousarray(numbers.transpose(0, 3, 1, 2) if front.input_planes else numbers)


def _said(graph: Graph, front: Front, fed: Norm | None, order: Order) -> Way:
    """How somebody else's file is fed: as they say, or as its input speaks for."""
    channels = len(front.scale)
    if fed is not None:
        return fed_in(fed, order=order, channels=channels)
    if graph.inputs[0].type.startswith("float"):
        norm: Norm = "imagenet"
        if front.scales:
            norm = "0to255" if front.whole else "0to1"
        return fed_in(norm, order=order, channels=channels)
    if front.scales and (front.scale > 0).all():
        mean, std = front.normalisation()
        return Way("raw bytes", tuple(mean.tolist()), tuple(std.tolist()), order)
    return fed_in("0to255", order=order, channels=channels)


def _side(graph: Graph, file: Path) -> int:
    """The side of a square input, in pixels; 224 where it is free.

    Raises:
        UsageError: it is not square.
    """
    shape = usual_shape(graph.inputs[0])
    sides = shape[1:3] if graph.pixels or shape[3] in (1, 3) else shape[2:]
    if sides[0] != sides[1]:
        raise UsageError(
            f"{file} takes {sides[0]}x{sides[1]} pixels", wanted="a square image", do="leave DATA away to see the rest"
        )
    return sides[0]
