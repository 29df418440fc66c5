"""The records that cross a stage boundary: frozen, comparable, JSON both ways. No torch, no numpy.

A field's unit is in its name (`latency_ms`, `size_mb`); `mult_adds` counts conv and linear products as the papers do
(FLOPs are twice that).
"""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from .errors import FileFormatError, MobileNetsError, UsageError
from .files import digest_of, read_json
from .processor import processor_name

__all__ = [
    "LAST_DIGITS",
    "Artifact",
    "Environment",
    "Format",
    "Gate",
    "Interpolation",
    "Precision",
    "Prediction",
    "Preprocess",
    "Report",
    "ReportRow",
    "Resize",
    "Score",
    "Task",
    "from_json",
    "only_classifiers",
    "read_record",
    "to_json",
]

Task = Literal["classify", "multilabel"]  # one class per image; any number of labels per image
Format = Literal["onnx", "openvino", "tflite", "executorch", "coreml", "pt2"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights", "int8-dynamic"]
Resize = Literal["shorter_side", "stretch"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]

T = TypeVar("T")
LAST_DIGITS = 1e-9  # that subtraction leaves behind: nothing is beyond a limit by these alone


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From an image file to the pixels a network is fed, and from those to the numbers its first layer sees.

    The field half does the first part (decode, orient, resize, crop: `images.prepare`); artifacts hold the second
    (scale to [0, 1], subtract `mean`, divide by `std`) in their graph, so nobody downstream can get it wrong.
    """

    resolution: int  # height = width, pixels
    channels: int = 3  # 3 = RGB, 1 = grey
    resize: Resize = "shorter_side"
    crop_fraction: float = 1.0  # of the resized shorter side, timm's crop_pct
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet, RGB, of values in [0, 1]
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name, ok, wanted in (
            ("resolution", self.resolution >= 1, "at least 1 pixel"),
            ("channels", self.channels in (1, 3), "1 (grey) or 3 (RGB)"),
            ("crop_fraction", 0 < self.crop_fraction <= 1, "in (0, 1]"),
            ("mean", len(self.mean) == self.channels, "one value per channel"),
            ("std", len(self.std) == self.channels and min(self.std) > 0, "one positive value per channel"),
        ):
            if not ok:
                raise UsageError(
                    f"Preprocess.{name} is {getattr(self, name)!r}", wanted=wanted, do="correct that field"
                )


class Score(msgspec.Struct, frozen=True):
    """One label with its probability in [0, 1]; those of "multilabel" need not sum to 1."""

    label: str
    index: int
    probability: float


class Prediction(msgspec.Struct, frozen=True):
    """What a model says of one image, best first; or why it could not say anything.

    Of "multilabel" these are the labels that are there, perhaps none.
    """

    image: str
    top: tuple[Score, ...] = ()
    error: str | None = None


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One check that an artifact went through: a measured value against its limit."""

    name: str  # "logits_max_difference", "top1_agreement", "accuracy_drop", ...
    value: float
    limit: float
    passes: Literal["at_most", "at_least"]
    n: int  # images it was measured on
    on: str  # which images: "train", "val", "test"

    @property
    def passed(self) -> bool:
        """Whether the value keeps the limit, to the last digits of a difference; NaN never does."""
        # 0.75 - 0.74 is a little more than 0.01, and five images of five hundred are not.
        beyond = self.value - self.limit if self.passes == "at_most" else self.limit - self.value
        return beyond <= LAST_DIGITS


class Artifact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runnable model file, and all that is needed to run it right. `artifact.json` beside the file.

    The file takes raw pixels, uint8 RGB (or grey) of shape (N, resolution, resolution, channels), N free, and
    returns logits, float32 of shape (N, len(labels)).

    `precision` says what is done with the numbers. fp32: kept and computed with as float32. fp16: weights kept as
    float16, half the size, computed with as float32 (by Core ML as float16). bf16: computed with as bfloat16, by
    processors that have it; an engine that would quietly take float32 instead refuses. int8: kept and computed with as
    eight bits where the file says so.
    """

    file: str  # relative to artifact.json
    format: Format
    precision: Precision
    task: Task
    labels: tuple[str, ...]
    preprocess: Preprocess
    input_name: str
    output_name: str
    spec_name: str
    spec_digest: str
    bundle_digest: str
    parameters: int
    mult_adds: int
    size_mb: float  # of the model file and its companions, 10^6 bytes
    file_sha256: str
    companions: dict[str, str] = {}  # files that the model file needs beside it (OpenVINO's weights) -> their SHA-256
    gates: tuple[Gate, ...] = ()
    versions: dict[str, str] = {}  # packages that made the file
    table: dict[str, Any] = {}  # `ArchSpec.to_json()`; empty in artifacts of earlier versions


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Where numbers were measured."""

    cpu: str  # see `processor_name`
    cores: int
    memory_gb: float
    os: str
    python: str
    versions: dict[str, str]
    date: str  # ISO 8601, UTC

    @classmethod
    def capture(cls, *, packages: tuple[str, ...] = ("mobilenets", "numpy", "onnxruntime", "pillow")) -> Environment:
        """Read this machine. Packages that are not installed are left out."""
        versions = {}
        for name in packages:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return cls(
            cpu=processor_name(),
            cores=os.cpu_count() or 1,
            memory_gb=_memory_gb(),
            os=platform.platform(terse=True),
            python=platform.python_version(),
            versions=versions,
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    @property
    def machine_digest(self) -> str:
        """Names the machine as far as speed goes: processor, cores, operating system's kind."""
        return digest_of([self.cpu, self.cores, platform.machine(), platform.system()])


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """One number with its conditions. `spread` is the interquartile range unless `metric` says otherwise."""

    what: str
    metric: str
    value: float
    n: int
    spread: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers, where they were measured, and how (`protocol`: threads, device, engine, warm-up, repeats ...).

    Raises:
        UsageError: a row has no n, or the protocol is empty: a number carries its conditions.
    """

    title: str
    rows: tuple[ReportRow, ...]
    environment: Environment
    protocol: dict[str, Any]

    def __post_init__(self) -> None:
        for row in self.rows:
            if row.n < 1:
                raise UsageError(
                    f"row {row.what!r} / {row.metric!r} has n = {row.n}",
                    wanted="the number of measurements behind each value",
                    do="give n",
                )
        if not self.protocol:
            raise UsageError("the report has no protocol", wanted="how the numbers were measured", do="fill protocol")

    def value(self, what: str, metric: str) -> float:
        """The value of one row.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if row.what == what and row.metric == metric:
                return row.value
        raise KeyError((what, metric))


def only_classifiers(task: Task, *, what: str) -> None:
    """Refuse a task whose images do not have one class each.

    Args:
        task: of a model, or of a data set.
        what: is asked for, in words.

    Raises:
        UsageError: the task is another.
    """
    if task != "classify":
        raise UsageError(
            f"{what} for the task {task!r}",
            wanted="images of one class each, and a model that tells classes apart",
            do="train, val, predict and export know images with any number of labels; the rest does not",
        )


def to_json(record: Any) -> Any:
    """A record as dicts, lists, strings and numbers."""
    return msgspec.to_builtins(record, order="sorted" if isinstance(record, dict) else None)


def from_json(content: Any, kind: type[T], *, what: str) -> T:
    """The inverse of `to_json`, strict about types and names.

    Args:
        content: dicts, lists, strings, numbers.
        kind: the record's type.
        what: names the source for the error ("artifact.json").

    Raises:
        MobileNetsError: with the path of the field that does not fit.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, MobileNetsError):
            raise error.__cause__ from None
        raise FileFormatError(
            f"{what}: {error}", wanted=f"the fields of {getattr(kind, '__name__', kind)}", do="correct that field"
        ) from error


def read_record(path: Path, kind: type[T], *, what: str) -> T:
    """`from_json` of a file.

    Raises:
        FileFormatError: missing, not JSON, or not such a record.
    """
    return from_json(read_json(path, what=what), kind, what=str(path))


def _memory_gb() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0
