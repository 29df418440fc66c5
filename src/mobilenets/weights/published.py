"""Published weights by name: how their images are prepared, where they are, and the digest that proves a file.

timm's are in `preprocessing.json`, for timm is not needed to use them. torchvision's are asked of torchvision, which
the extra [train] brings.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..arch import ArchSpec, find
from ..errors import UnknownNameError, UsageError
from ..records import Preprocess
from .timm_models import MODELS, timm_model

__all__ = [
    "GOOGLE",
    "Library",
    "Named",
    "Published",
    "by_digest",
    "named",
    "published",
    "repository_of",
    "sha256_of",
    "table_of",
    "weights_of",
]

Library = Literal["timm", "torchvision", "transformers"]

# The checkpoints of TF-slim that transformers' authors converted (their model cards list no others).
GOOGLE = (
    "google/mobilenet_v1_0.75_192",
    "google/mobilenet_v1_1.0_224",
    "google/mobilenet_v2_0.35_96",
    "google/mobilenet_v2_0.75_160",
    "google/mobilenet_v2_1.0_224",
    "google/mobilenet_v2_1.4_224",
)
TORCHVISION = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")  # its float classifiers
_PREFIXES: dict[str, Library] = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a library, perhaps with the name of its weights: timm:mobilenetv3_large_100.ra_in1k."""

    library: Library
    model: str
    weights: str | None = None


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One set of published weights."""

    library: Library
    model: str
    weights: str
    default: bool
    preprocess: Preprocess
    classes: int
    licence: str | None = None
    sha256: str | None = None  # the first digits, as they stand in the file's name
    url: str | None = None
    repository: str | None = None  # on the Hugging Face hub

    @property
    def name(self) -> str:
        """As the library writes it."""
        return f"{self.model}.{self.weights}"


def named(text: str) -> Named | None:
    """A name with its library: `timm:NAME`, `timm:NAME.WEIGHTS`, `torchvision:NAME`, `hf:OWNER/NAME`; else None.

    A repository of timm's on the hub is a model of timm's.

    Raises:
        UsageError: a library that is known, and nothing behind it.
    """
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in _PREFIXES:
        return None
    library = _PREFIXES[prefix]
    if library == "transformers" and rest.startswith("timm/"):
        library, rest = "timm", rest.removeprefix("timm/")
    if not re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?", rest):
        raise UsageError(
            f"{text!r} names no model",
            wanted="timm:NAME, torchvision:NAME or hf:OWNER/NAME",
            do="write the name as that library does, such as timm:mobilenetv2_100.ra_in1k",
        )
    if library == "transformers":
        return Named(library=library, model=rest)
    model, _, weights = rest.partition(".")
    return Named(library=library, model=model, weights=weights or None)


def published(name: Named) -> Published:
    """The weights that a name stands for; without `weights`, those that the library takes by itself.

    Raises:
        UnknownNameError: the library publishes no such weights; says which names are near.
    """
    known = weights_of(name.library)
    for candidate in known:
        if candidate.model == name.model and (
            candidate.default if name.weights is None else candidate.weights == name.weights
        ):
            return candidate
    asked = name.model if name.weights is None else f"{name.model}.{name.weights}"
    raise UnknownNameError(f"{name.library} model with weights", asked, known=[one.name for one in known])


def table_of(name: Named) -> ArchSpec:
    """The table that weights are of, before they are fetched: timm's models, and Google's on the hub.

    Raises:
        UnknownNameError: of another library, or unknown there.
    """
    if name.library == "timm" and name.model in MODELS:
        return timm_model(name.model).spec
    if name.library == "transformers" and name.model in GOOGLE:
        return msgspec.structs.replace(find(name.model), padding="same")
    raise UnknownNameError("table of published weights", name.model, known=(*MODELS, *GOOGLE))


def repository_of(name: Named) -> str | None:
    """Where on the Hugging Face hub weights are; None: elsewhere.

    Raises:
        UnknownNameError: the library publishes no such weights.
    """
    return name.model if name.library == "transformers" else published(name).repository


def by_digest(library: Library, digest: str) -> Published | None:
    """The published weights whose file has this SHA-256, where their file names tell it."""
    return next((one for one in weights_of(library) if one.sha256 and digest.startswith(one.sha256)), None)


@functools.cache
def weights_of(library: Library) -> tuple[Published, ...]:
    """Every set of weights that is known of a library; of transformers none, for the hub itself describes them."""
    if library == "timm":
        return tuple(_timm())
    if library == "torchvision":
        return tuple(_torchvision())
    if library == "transformers":
        return ()
    raise UnknownNameError("library", library, known=get_args(Library))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _timm() -> Iterator[Published]:
    text = resources.files(__package__).joinpath("preprocessing.json").read_text(encoding="utf-8")
    for name, row in json.loads(text)["timm"].items():
        model, _, weights = name.partition(".")
        yield Published(
            library="timm",
            model=model,
            weights=weights,
            default=row.get("default", False),
            preprocess=Preprocess(
                resolution=row["input"],
                crop_fraction=row["crop"],
                interpolation=row["interpolation"],
                mean=tuple(row["mean"]),
                std=tuple(row["std"]),
            ),
            classes=row["classes"],
            licence=row["licence"],
            sha256=row.get("sha256"),
            repository=f"timm/{name}",
        )


def _torchvision() -> Iterator[Published]:
    from torchvision.models import get_model_weights

    for model in TORCHVISION:
        enum = get_model_weights(model)
        for member in enum:
            prepare: Any = member.transforms()
            (crop,), (resize,) = prepare.crop_size, prepare.resize_size
            digest = re.search(r"-([0-9a-f]{8,})\.pth$", member.url)
            yield Published(
                library="torchvision",
                model=model,
                weights=member.name,
                default=member is enum.DEFAULT,
                preprocess=Preprocess(
                    resolution=crop,
                    crop_fraction=crop / resize,
                    interpolation=prepare.interpolation.value,
                    mean=tuple(prepare.mean),
                    std=tuple(prepare.std),
                ),
                classes=len(member.meta["categories"]),
                sha256=digest[1] if digest else None,
                url=member.url,
            )
