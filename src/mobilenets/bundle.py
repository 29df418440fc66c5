"""`Bundle`: a trained network as data. A folder with `bundle.json` and `weights.safetensors`; no pickle, no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .arch.spec import ArchSpec
from .errors import FileFormatError, MissingExtraError, UsageError
from .files import digest_of, new_folder, read_json, write_json
from .records import Preprocess, Task, from_json, to_json

__all__ = ["Bundle", "Tensors", "is_bundle", "read_bundle"]

Tensors = Mapping[str, NDArray[np.float32]]
JSON_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
CLASSIFIER = "head.classifier."  # begins the names of the last layer's tensors
OWN = "own/"  # begins the names of `Bundle.own` in the file of weights: own/0.5/rows.0.conv.weight


@dataclass(frozen=True, eq=False)
class Bundle:
    """A network's table, tensors and everything needed to use it.

    `history` tells each step that made it, oldest first: {"step": "train", "digest": of the bundle before it or None,
    ...what the step was given and measured}.

    `own` is of elastic trainings: by width ("0.5"), what that width adds to the leading part of each trained tensor
    that it shares with the wider ones (`compress.slice`). Whatever trains or cuts tensors leaves it behind.

    Raises:
        UsageError: labels and classes, or the preprocessing's and the spec's channels, do not agree.
    """

    spec: ArchSpec
    task: Task
    labels: tuple[str, ...]
    preprocess: Preprocess
    tensors: Tensors
    history: tuple[dict[str, Any], ...] = ()
    own: Mapping[str, Tensors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.labels) != self.spec.head.classes:
            raise UsageError(
                f"{len(self.labels)} labels for a network of {self.spec.head.classes} classes",
                wanted="one label per class",
                do="give the labels in the order of the classes",
            )
        if self.preprocess.channels != self.spec.channels or self.preprocess.resolution != self.spec.resolution:
            raise UsageError(
                f"preprocessing gives {self.preprocess.channels} channels at {self.preprocess.resolution} pixels",
                wanted=f"{self.spec.channels} at {self.spec.resolution}, as the spec has",
                do="make both from the same spec",
            )

    @property
    def digest(self) -> str:
        """Names table, tensors, labels and preprocessing; not the history."""
        content, stored = hashlib.sha256(), self._stored()
        for name in sorted(stored):
            tensor = np.ascontiguousarray(stored[name])
            content.update(f"{name}{tensor.dtype}{tensor.shape}".encode())
            content.update(tensor.tobytes())
        about = [self.spec.to_json(), self.task, list(self.labels), to_json(self.preprocess)]
        return digest_of([content.hexdigest(), about])

    @property
    def untrained_classifier(self) -> bool:
        """Whether it was imported without a classifier, and not trained since."""
        return _last(self.history, "import", "classifier") is not None and not _trained_since_import(self.history)

    @property
    def folded_norms(self) -> bool:
        """Whether its norms were folded into the convolutions where it came from, and not trained since.

        Such norms say what to add and not what the activations are like: training settles them first.
        """
        return _last(self.history, "import", "norms") == "folded" and not _trained_since_import(self.history)

    def after(self, step: str, tensors: Tensors, **told: Any) -> Bundle:
        """The bundle that a step makes of this one, with the step written into its history."""
        entry = {"step": step, "digest": self.digest, **told}
        return replace(self, tensors=tensors, history=(*self.history, entry), own={})

    def carried_to(self, labels: tuple[str, ...], task: Task) -> Bundle:
        """What is of use for labels: all tensors, or all but the last layer's where labels or task are others."""
        if labels == self.labels and task == self.task:
            return self

        def kept(tensors: Tensors) -> Tensors:
            return {name: tensor for name, tensor in tensors.items() if not name.startswith(CLASSIFIER)}

        return replace(self, tensors=kept(self.tensors), own={width: kept(added) for width, added in self.own.items()})

    def _stored(self) -> dict[str, NDArray[np.float32]]:
        """All tensors under the names that they have in the file."""
        own = {f"{OWN}{width}/{name}": t for width, tensors in self.own.items() for name, t in tensors.items()}
        return {**self.tensors, **own}

    def write(self, folder: Path) -> None:
        """Write to `folder`, whole or not at all; an older bundle there is replaced.

        Raises:
            UsageError: the folder cannot be written.
        """
        safetensors = _safetensors()
        with new_folder(folder) as part:
            # On some platforms safetensors reads views wrongly, so every array is laid out in one piece. Python writes
            # the file, for a full disk is an OSError then, and not an error of safetensors' own.
            content = safetensors.save({k: np.ascontiguousarray(v) for k, v in self._stored().items()})
            (part / WEIGHTS_NAME).write_bytes(content)
            write_json(
                part / JSON_NAME,
                {
                    "spec": self.spec.to_json(),
                    "task": self.task,
                    "labels": list(self.labels),
                    "preprocess": to_json(self.preprocess),
                    "history": list(self.history),
                    "digest": self.digest,
                },
            )


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle's folder, or the `bundle.json` in it; looks at names only."""
    return path.name == JSON_NAME or (path / JSON_NAME).is_file()


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check it against its digest.

    Raises:
        FileFormatError: a file is missing, broken, or was changed.
    """
    folder = folder.parent if folder.name == JSON_NAME else folder
    content = read_json(folder / JSON_NAME, what="bundle")
    try:
        spec = ArchSpec.from_json(content["spec"])
        preprocess = from_json(content["preprocess"], Preprocess, what=f"{folder / JSON_NAME}: preprocess")
        labels, history, digest = tuple(content["labels"]), tuple(content["history"]), content["digest"]
        task = content.get("task", "classify")  # all that there was, before bundles said so
    except (KeyError, TypeError) as error:
        raise FileFormatError(
            f"{folder / JSON_NAME} has no usable {error}", wanted="a bundle", do="make the bundle again"
        ) from error
    if task not in get_args(Task):
        raise FileFormatError(
            f"{folder / JSON_NAME} is for the task {task!r}",
            wanted="one of " + ", ".join(get_args(Task)),
            do="use the version of mobilenets that made it, or a newer one",
        )
    safetensors = _safetensors()
    try:
        stored: dict[str, NDArray[np.float32]] = safetensors.load_file(str(folder / WEIGHTS_NAME))
    except Exception as error:  # safetensors raises its own, unexported kinds
        raise FileFormatError(
            f"cannot read {folder / WEIGHTS_NAME}: {error}", wanted="safetensors", do="make the bundle again"
        ) from error
    tensors: dict[str, NDArray[np.float32]] = {}
    own: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in stored.items():
        if name.startswith(OWN):
            _, width, inner = name.split("/", 2)
            own.setdefault(width, {})[inner] = tensor
        else:
            tensors[name] = tensor
    bundle = Bundle(
        spec=spec, task=task, labels=labels, preprocess=preprocess, tensors=tensors, history=history, own=own
    )
    if bundle.digest != digest:
        raise FileFormatError(
            f"{folder} does not match its digest {digest}",
            wanted="tensors and table as they were written together",
            do="copy the whole folder again, or make the bundle again",
        )
    return bundle


def _last(history: tuple[dict[str, Any], ...], step: str, key: str) -> Any:
    found = [entry.get(key) for entry in history if entry.get("step") == step]
    return found[-1] if found else None


def _trained_since_import(history: tuple[dict[str, Any], ...]) -> bool:
    steps = [entry.get("step") for entry in history]
    return "train" in steps[steps.index("import") :] if "import" in steps else True


def _safetensors() -> Any:
    try:
        from safetensors import numpy as safetensors
    except ImportError as error:
        raise MissingExtraError("safetensors", extra="train") from error
    return safetensors
