"""A state dict of timm, torchvision or transformers in our terms: whose it is, which network, and its conventions.

Library and family are read from the names and shapes of the tensors. What they do not show (padding, epsilon, how
images are prepared) comes, in this order, from the caller, from the config beside the file, from the training script
that wrote it, from the digest of a published file; else it is assumed, and the history says what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..arch import ArchSpec, compose
from ..errors import FileFormatError, UnknownNameError, UsageError
from ..records import Preprocess
from . import timm, torchvision, transformers
from .imported import UNTRAINED_CLASSES, Imported, untrained_head
from .places import Candidate, convert_in, explain, misfits, same_table, slots
from .preparation import for_channels, from_timm, from_transformers
from .published import Library, Named, Published, by_digest, published, sha256_of, weights_of
from .timm_models import MODELS, REFUSED, timm_model
from .torch_files import Checkpoint, read_checkpoint

__all__ = ["read_torch"]

Tensors = Mapping[str, NDArray[np.float32]]
ALPHAS = (1.0, 0.25, 0.35, 0.5, 0.75, 1.25, 1.3, 1.4)  # of published checkpoints: they get the name of our catalogue
CLASSIFIER = "classifier."  # begins the names of the last layer in all three libraries
# timm's model_args that change the network, but not its tensors; the rest of what is known changes neither.
HARMLESS = frozenset({"num_classes", "in_chans", "drop_rate", "drop_path_rate", "bn_momentum"})


def read_torch(path: Path, *, known_as: Named | None = None) -> Imported:
    """Read a state dict, or the folder of a hub snapshot.

    Args:
        path: `.safetensors`, `.pth`, `.pt`, `.bin`, `.tar`, or a folder with `model.safetensors` and `config.json`.
        known_as: the model it is a state dict of, and perhaps the weights.

    Raises:
        FileFormatError: unreadable, not a MobileNet classifier that is known, or tensors that do not fit one.
        UsageError: `known_as` is of another library than the tensors, or no model that can be read.
    """
    checkpoint = read_checkpoint(path)
    library, tensors = _library(checkpoint)
    if known_as is not None and known_as.library != library:
        raise UsageError(
            f"{path} has the tensors' names of {library}, not of {known_as.library}",
            wanted=f"a model of {library}",
            do="correct the name it is read as, or leave that away",
        )
    if library == "timm":
        return _of_timm(checkpoint, tensors, known_as)
    if library == "torchvision":
        return _of_torchvision(checkpoint, tensors, known_as)
    return _of_transformers(checkpoint, tensors, known_as)


def _library(checkpoint: Checkpoint) -> tuple[Library, Tensors]:
    """Whose names the tensors have, and the tensors with the prefix that a model with a head would give them."""
    tensors = checkpoint.tensors
    if "conv_stem.weight" in tensors and any(name.startswith("blocks.0.0.") for name in tensors):
        return "timm", tensors
    if "features.0.0.weight" in tensors:
        return "torchvision", tensors
    for family, stem in zip(transformers.FAMILIES, ("conv_stem", "conv_stem.first_conv"), strict=True):
        if f"{family}.{stem}.convolution.weight" in tensors:
            return "transformers", tensors
        if f"{stem}.convolution.weight" in tensors:  # of the model without a head
            return "transformers", {f"{family}.{name}": tensor for name, tensor in tensors.items()}
    raise _unknown(checkpoint)


def _of_timm(checkpoint: Checkpoint, tensors: Tensors, known_as: Named | None) -> Imported:
    config = checkpoint.config or {}
    weights = _timm_weights(checkpoint, known_as)
    name = weights[0] if weights else None
    if name is not None and name not in MODELS:
        if name in REFUSED:
            raise FileFormatError(
                f"{checkpoint.path} is timm's {name}; {REFUSED[name]}",
                wanted="a network of the papers, whose answers can be kept",
                do="choose another model",
            )
        raise UnknownNameError("MobileNet of timm", name, known=MODELS)
    candidates = [timm.named_candidate(name, tensors)] if name else timm.shaped_candidates(tensors)
    chosen, found, told = _settled(candidates, checkpoint, tensors, named=name is not None)
    assumed = []
    if name is None:
        name = next((model for model in MODELS if same_table(timm_model(model).spec, chosen.spec)), None)
        assumed.append("padding and epsilon")
    like = timm_model(name).spec if name else timm_model("mobilenetv2_100").spec
    spec = msgspec.structs.replace(chosen.spec, padding=like.padding, norm=like.norm)
    spec = _with_arguments(spec, config.get("model_args") or {}, checkpoint)
    record = _published(name, weights[1] if weights else None)
    # Older repositories have its fields beside the architecture.
    if cfg := config.get("pretrained_cfg") or (config if "mean" in config else None):
        preprocess, record = from_timm(cfg, spec.resolution), None
        told |= {key: cfg[field] for key, field in (("weights", "tag"), ("licence", "license")) if cfg.get(field)}
    elif record is not None:
        preprocess = record.preprocess
        if weights is None or weights[1] is None:
            assumed.append(f"how images are prepared: as for {record.name}")
        else:
            told["weights"] = record.weights
        told["licence"] = record.licence
    else:
        preprocess = Preprocess(resolution=spec.resolution, crop_fraction=0.875, interpolation="bicubic")
        assumed.append("how images are prepared: ImageNet's mean and deviation, bicubic, crop 0.875")
    if assumed:
        told["assumed"] = f"{'; '.join(assumed)}; of {name or 'timm'}, which the tensors do not show"
    labels = _texts(config.get("label_names"), spec.head.classes)
    return _imported(
        chosen, spec, found, preprocess, labels=labels, library="timm", model=name, told={**checkpoint.told, **told}
    )


def _timm_weights(checkpoint: Checkpoint, known_as: Named | None) -> tuple[str, str | None] | None:
    """timm's name of the model and of its weights, from whoever knows them."""
    if known_as is not None:
        if known_as.model not in (*MODELS, *REFUSED):
            raise UnknownNameError("MobileNet of timm", known_as.model, known=MODELS)
        return known_as.model, known_as.weights
    named = (checkpoint.config or {}).get("architecture") or checkpoint.architecture
    if named is not None:
        model, _, weights = str(named).partition(".")
        return model, weights or None
    record = by_digest("timm", sha256_of(checkpoint.path))
    return None if record is None else (record.model, record.weights)


def _published(model: str | None, weights: str | None) -> Published | None:
    known = [one for one in weights_of("timm") if one.model == model]
    if weights is None:
        return next((one for one in known if one.default), None)
    return next((one for one in known if one.weights == weights), None) or published(
        Named(library="timm", model=model or "", weights=weights)
    )


def _with_arguments(spec: ArchSpec, given: Mapping[str, Any], checkpoint: Checkpoint) -> ArchSpec:
    """What `model_args` of timm's config.json change in a network without a trace in its tensors."""
    for argument, value in given.items():
        if argument == "bn_eps":
            spec = msgspec.structs.replace(spec, norm=msgspec.structs.replace(spec.norm, eps=float(value)))
        elif argument == "pad_type" and value in ("", "same"):
            spec = msgspec.structs.replace(spec, padding="same" if value == "same" else "symmetric")
        elif argument not in HARMLESS:
            raise FileFormatError(
                f"config.json of {checkpoint.path} has model_args {argument} = {value!r}",
                wanted="one of bn_eps, pad_type (same), " + ", ".join(sorted(HARMLESS)),
                do="take the argument away, if it changes no answer",
            )
    return spec


def _of_torchvision(checkpoint: Checkpoint, tensors: Tensors, known_as: Named | None) -> Imported:
    chosen, found, told = _settled(torchvision.shaped_candidates(tensors), checkpoint, tensors)
    if known_as is not None and known_as.model != chosen.family:
        raise UsageError(
            f"{checkpoint.path} is torchvision's {chosen.family}, not {known_as.model}",
            wanted=f"torchvision:{chosen.family}",
            do="correct the name it is read as, or leave that away",
        )
    record = published(known_as) if known_as is not None else by_digest("torchvision", sha256_of(checkpoint.path))
    if record is None:
        record = published(Named(library="torchvision", model=chosen.family))
        told["assumed"] = f"how images are prepared: as for {record.name}, which the tensors do not show"
    else:
        told["weights"] = record.weights
    return _imported(
        chosen,
        chosen.spec,
        found,
        record.preprocess,
        labels=None,
        library="torchvision",
        model=chosen.family,
        told={**checkpoint.told, **told},
    )


def _of_transformers(checkpoint: Checkpoint, tensors: Tensors, known_as: Named | None) -> Imported:
    chosen, found, told = _settled(transformers.shaped_candidates(tensors), checkpoint, tensors)
    spec, config = chosen.spec, checkpoint.config
    if config is not None:
        spec = transformers.configured(spec, config)
    else:
        if known_as is not None and (size := known_as.model.rpartition("_")[2]).isdigit():
            spec = msgspec.structs.replace(spec, resolution=int(size))
        told["assumed"] = (
            "SAME padding, epsilon 0.001, relu6, images in [-1, 1]: transformers' own, without config.json"
        )
    labels = None if config is None else transformers.labels_of(config, spec.head.classes)
    return _imported(
        chosen,
        spec,
        found,
        from_transformers(checkpoint.preprocessor, spec.resolution),
        labels=labels,
        library="transformers",
        model=None if known_as is None else known_as.model,
        told={**checkpoint.told, **told},
    )


def _settled(
    candidates: Iterable[Candidate], checkpoint: Checkpoint, tensors: Tensors, *, named: bool = False
) -> tuple[Candidate, Tensors, dict[str, Any]]:
    """The candidate that fits, its tensors by our names, and what there is to tell.

    A state dict without a classifier gets a fresh one, and the history says so. Where nobody `named` the network and
    most tensors fit none, it is no MobileNet.

    Raises:
        FileFormatError: none fits; explains the nearest, by the names of the file.
    """
    headless = not any(name.startswith(CLASSIFIER) for name in tensors)
    ranked = []
    for candidate in candidates:
        there = [place for place in candidate.places if not (headless and _absent(place.ours, place.theirs, tensors))]
        ranked.append((misfits(there, tensors), there, candidate))
    wrong, there, chosen = min(ranked, key=lambda one: len(one[0]))
    if not named and len(wrong) > len(slots(there)) // 2:
        raise _unknown(checkpoint, nearest=chosen.family)
    if wrong:
        raise explain(
            wrong,
            what=str(checkpoint.path),
            taken_for=chosen.spec.name,
            do="check that the file is whole, of this network, and with its classifier",
        )
    found: dict[str, NDArray[np.float32]] = convert_in(there, tensors)
    if not headless:
        return chosen, found, {}
    head = msgspec.structs.replace(chosen.spec.head, classes=UNTRAINED_CLASSES)
    chosen = Candidate(chosen.family, msgspec.structs.replace(chosen.spec, head=head), chosen.places)
    return chosen, {**untrained_head(chosen.spec), **found}, {"classifier": "none in the file"}


def _absent(ours: str, theirs: str, tensors: Tensors) -> bool:
    return ours.startswith("head.") and f"{theirs}.weight" not in tensors


def _imported(
    chosen: Candidate,
    spec: ArchSpec,
    tensors: Tensors,
    preprocess: Preprocess,
    *,
    labels: tuple[str, ...] | None,
    library: Library,
    model: str | None,
    told: Mapping[str, Any],
) -> Imported:
    spec = msgspec.structs.replace(spec, resolution=preprocess.resolution)
    if preprocess.channels != spec.channels:
        told = {**told, "channels": f"{spec.channels}; mean and deviation of the pixels are averages over the others'"}
    name = model if library == "timm" and model else f"{chosen.family}_of_{library}"
    for alpha in ALPHAS:
        known = compose(chosen.family, alpha=alpha, resolution=spec.resolution)
        if same_table(known, spec):
            name = known.name
            break
    return Imported(
        spec=msgspec.structs.replace(spec, name=name),
        tensors=tensors,
        preprocess=for_channels(preprocess, spec.channels),
        labels=labels,
        told={"library": library, **({"model": model} if model else {}), **told},
    )


def _texts(value: Any, count: int) -> tuple[str, ...] | None:
    if isinstance(value, list) and len(value) == count and all(isinstance(text, str) and text for text in value):
        return tuple(value)
    return None


def _unknown(checkpoint: Checkpoint, *, nearest: str | None = None) -> FileFormatError:
    names = list(checkpoint.tensors)
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    parts = [name for name in names if name.startswith(("backbone.", "segmentation_head.", "head.", "roi_heads."))]
    kind = " (a detector or a segmenter, by its names)" if parts else ""
    return FileFormatError(
        f"{checkpoint.path} is not a MobileNet classifier that is known{kind}; its tensors: {shown}",
        wanted="a state dict of timm (V1 to V4), torchvision (V2, V3) or transformers (V1, V2)"
        + (f"; the nearest is {nearest}" if nearest else ""),
        do="give a classifier's state dict with that library's names",
    )
