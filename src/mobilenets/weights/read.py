"""`import_weights`: find out what a source is, and hand it to the reader of its kind."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle, is_bundle, read_bundle
from ..errors import FileFormatError, UsageError
from .imported import Imported, to_bundle
from .published import named

__all__ = ["import_weights", "trained_weights"]

TORCH_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


def import_weights(
    source: str | Path,
    *,
    labels: tuple[str, ...] | None = None,
    keep_background: bool = False,
    known_as: str | None = None,
) -> Bundle:
    """A checkpoint of another library as a bundle: table, weights, labels and preprocessing.

    Args:
        source: a local file or folder: `.tflite`; `.safetensors`, `.pth`, `.bin` of timm, torchvision or Hugging Face
            transformers; `.weights.h5`, `.h5`, `.keras` of Keras; a TF-slim checkpoint (`model.ckpt`, its `.index`,
            folder or `.tgz`). Or a name, which is fetched: `timm:NAME`, `torchvision:NAME`, `hf:OWNER/NAME`.
        labels: class names in the order of the checkpoint's classes; None: its own, else ImageNet's where it has 1000
            or 1001 classes.
        keep_background: keep TensorFlow's class 0, which no image belongs to.
        known_as: the model that a state dict is of, with its library and perhaps its weights, for what the tensors do
            not show: `timm:tf_mobilenetv3_large_100` has SAME padding, `timm:mobilenetv1_100.ra4_e3600_r224_in1k` its
            own preprocessing.

    Raises:
        FileFormatError: not a checkpoint that is known, or one that does not fit a MobileNet; says which tensors.
        UsageError: a name that cannot be fetched.
        MissingExtraError: a package that reads this kind is not installed.
    """
    return to_bundle(_read(source, known_as), labels=labels, keep_background=keep_background)


def trained_weights(source: str | Path) -> Bundle:
    """A trained network to go on from or to learn from: a bundle's folder, or whatever `import_weights` takes.

    Raises:
        What `read_bundle` and `import_weights` raise.
    """
    path = Path(source)
    return read_bundle(path) if is_bundle(path) else import_weights(source)


def _read(source: str | Path, known_as: str | None) -> Imported:
    text = str(source)
    path = Path(source)
    if not path.exists() and not path.with_name(path.name + ".index").exists():
        from .hub import fetch

        if known_as is not None:
            raise UsageError(
                f"there is no file {text} to be read as {known_as}",
                wanted="a state dict on disk; a name says itself what it is",
                do="check the path, or leave known_as (--as) away",
            )
        return fetch(text)
    imported = _read_file(path, known_as)
    told = {"from": path.name, **({"sha256": _sha256(path)} if path.is_file() else {}), **imported.told}
    return replace(imported, told=told)


def _read_file(path: Path, known_as: str | None) -> Imported:
    suffix = path.suffix.lower()
    if known_as is not None and suffix not in TORCH_SUFFIXES and not path.is_dir():
        raise UsageError(
            f"{path} is to be read as {known_as}",
            wanted="that of a state dict: " + ", ".join(TORCH_SUFFIXES),
            do="leave known_as (--as) away: this kind of file says itself what it is",
        )
    if suffix == ".tflite":
        from .tflite import read_tflite

        return read_tflite(path)
    if suffix in KERAS_SUFFIXES:
        from .keras import read_keras

        return read_keras(path)
    if suffix in TORCH_SUFFIXES:
        return _read_state_dict(path, known_as)
    from .slim import is_slim, read_slim

    if is_slim(path):
        return read_slim(path)
    if path.is_dir():
        return _read_state_dict(path, known_as)
    raise FileFormatError(
        f"{path} is no checkpoint that is known by its name",
        wanted=f"one of .tflite, {', '.join((*TORCH_SUFFIXES, *KERAS_SUFFIXES))}, or a TF-slim checkpoint's .index",
        do="check the path, or rename the file to what it is",
    )


def _read_state_dict(path: Path, known_as: str | None) -> Imported:
    from .state_dicts import read_torch

    name = None if known_as is None else named(known_as)
    if known_as is not None and name is None:
        raise UsageError(
            f"a state dict is to be read as {known_as!r}",
            wanted="timm:NAME, torchvision:NAME or hf:OWNER/NAME",
            do="name the library, too",
        )
    return read_torch(path, known_as=name)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
