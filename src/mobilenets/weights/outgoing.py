"""A bundle's weights as a state dict of timm, torchvision or transformers, and the expression that builds it there."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..arch import ArchSpec, AttentionRow, compose
from ..bundle import Bundle
from ..errors import GateError, MissingExtraError, UsageError
from ..files import write_bytes
from ..nets import Network, load_tensors
from . import timm, torchvision, transformers
from .places import Place, convert_out, same_table
from .published import Library
from .timm_models import MODELS, timm_model

__all__ = ["Offer", "offer", "to_state_dict", "write_state_dict"]

LIMIT = 1e-4  # of logits, against their size: float32 of two libraries' kernels
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# Width multipliers, the usual ones first; two decimals are what people write.
ALPHAS = sorted((step / 100 for step in range(10, 201)), key=lambda alpha: (alpha != 1, alpha * 20 % 1 > 1e-9, alpha))


@dataclass(frozen=True)
class Offer:
    """What another library would build for a table: its model, and where the tensors go."""

    library: Library
    places: Sequence[Place]
    function: str  # "timm.create_model"
    positional: tuple[str, ...]
    arguments: Mapping[str, Any]

    @property
    def code(self) -> str:
        """The expression that builds the model there; `partial` is functools'."""
        shown = [repr(value) for value in self.positional]
        shown += [f"{name}={_shown(value)}" for name, value in self.arguments.items()]
        inside = ", ".join(shown)
        if self.library == "transformers":
            config = self.function.replace("ForImageClassification", "Config")
            return f"{self.function}({config}({inside}))"
        return f"{self.function}({inside})"

    def build(self) -> nn.Module:
        """The model, with fresh weights, as that library makes it.

        Raises:
            ImportError: the library is not installed.
        """
        module, _, name = self.function.rpartition(".")
        there = importlib.import_module(module)
        if self.library == "transformers":
            config = getattr(there, name.replace("ForImageClassification", "Config"))
            built: nn.Module = getattr(there, name)(config(**self.arguments))
        else:
            built = getattr(there, name)(*self.positional, **self.arguments)
        return built


def to_state_dict(bundle: Bundle, *, library: Library) -> dict[str, NDArray[Any]]:
    """The bundle's tensors by another library's names, for `load_state_dict(strict=True)`: float32, and the counters
    of norms, int64, as 0.

    Raises:
        UsageError: the library cannot build this network; says why.
    """
    return convert_out(offer(bundle.spec, library=library).places, bundle.tensors)


def write_state_dict(bundle: Bundle, path: Path, *, library: Library) -> tuple[Offer, float | None]:
    """Write the state dict, after the library itself has loaded it and answered like our network.

    Args:
        bundle: the weights.
        path: `.safetensors`, or `.pth`, `.pt`, `.bin` for what `torch.save` writes.
        library: whose names.

    Returns:
        What the library builds, and the largest difference of logits on random pixels, as a part of their size; None
        where the library is not installed, so that nothing was checked.

    Raises:
        UsageError: the library cannot build this network, or the file's name says no kind that is known.
        GateError: the library does not answer like our network; no file is written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"the file is to be called {path.name}", wanted=", ".join(SUFFIXES), do="name the kind")
    offered = offer(bundle.spec, library=library)
    state = convert_out(offered.places, bundle.tensors)
    content = _as_safetensors(state) if path.suffix.lower() == ".safetensors" else _as_torch(state)
    difference = None
    if installed(library):
        difference = _difference(bundle, offered, content, safe=path.suffix.lower() == ".safetensors")
        if not difference <= LIMIT:
            raise GateError(
                f"{library} answers differently by {difference:.2g} of the logits' size",
                wanted=f"at most {LIMIT:g}",
                do="please report it, with the bundle's bundle.json",
            )
    write_bytes(path, content)
    return offered, difference


def installed(library: Library) -> bool:
    """Whether the library is there to check with."""
    return importlib.util.find_spec(library) is not None


def offer(spec: ArchSpec, *, library: Library) -> Offer:
    """What a library builds for a table.

    Raises:
        UsageError: it has no such network; says why.
    """
    if library == "timm":
        return _timm(spec)
    if library == "torchvision":
        return _torchvision(spec)
    if library == "transformers":
        return _transformers(spec)
    assert_never(library)


def _timm(spec: ArchSpec) -> Offer:
    same = [model for name in MODELS if same_table((model := timm_model(name)).spec, spec)]
    if not same:
        raise _none("timm", spec, "no model there has these rows and widths", do="the others are: " + ", ".join(MODELS))
    # Of two names for one table, the one whose conventions are nearer.
    model = max(same, key=lambda one: (one.spec.padding == spec.padding, one.spec.norm.eps == spec.norm.eps))
    arguments: dict[str, Any] = {"num_classes": spec.head.classes}
    if spec.channels != 3:
        arguments["in_chans"] = spec.channels
    if spec.padding != model.spec.padding:
        arguments["pad_type"] = "same" if spec.padding == "same" else ""
    if spec.norm.eps != model.spec.norm.eps:
        arguments["bn_eps"] = spec.norm.eps
    if spec.norm.momentum != model.spec.norm.momentum:
        arguments["bn_momentum"] = spec.norm.momentum
    if spec.head.dropout:
        arguments["drop_rate"] = spec.head.dropout
    return Offer("timm", timm.places(spec, model.stages), "timm.create_model", (model.name,), arguments)


def _torchvision(spec: ArchSpec) -> Offer:
    if spec.padding != "symmetric":
        raise _none("torchvision", spec, "it pads symmetrically, and these weights want SAME padding")
    if spec.channels != 3:
        raise _none("torchvision", spec, f"its stems read 3 channels, this one {spec.channels}")
    for family, alpha, reduced in _torchvision_choices(spec):
        known = torchvision.torchvision_spec(family, alpha=alpha, reduced_tail=reduced)
        if not same_table(known, spec):
            continue
        arguments: dict[str, Any] = {"weights": None, "num_classes": spec.head.classes}
        if alpha != 1.0:
            arguments["width_mult"] = alpha
        if reduced:
            arguments["reduced_tail"] = True
        if spec.head.dropout != 0.2:
            arguments["dropout"] = spec.head.dropout
        if spec.norm != known.norm:
            arguments["norm_layer"] = functools.partial(nn.BatchNorm2d, eps=spec.norm.eps, momentum=spec.norm.momentum)
        places = torchvision.places(spec, family)
        return Offer("torchvision", places, f"torchvision.models.{family}", (), arguments)
    raise _none(
        "torchvision", spec, "it has V2, V3-Large and V3-Small at its own widths, with their own activations alone"
    )


def _torchvision_choices(spec: ArchSpec) -> Iterator[tuple[str, float, bool]]:
    for family in torchvision.FAMILIES:
        if len(torchvision.torchvision_spec(family).rows) == len(spec.rows):
            for reduced in (False, True) if family != "mobilenet_v2" else (False,):
                yield from ((family, alpha, reduced) for alpha in ALPHAS)


def _transformers(spec: ArchSpec) -> Offer:
    acts = {row.act for row in spec.rows if not isinstance(row, AttentionRow)}
    names = {ours: theirs for theirs, ours in transformers.ACTIVATIONS.items()}
    act = acts.pop() if len(acts) == 1 else None
    if act not in names:
        raise _none("transformers", spec, "it has V1 and V2 only, with one activation for all layers")
    for family in transformers.FAMILIES:
        for alpha in ALPHAS:
            known = compose(family, alpha=alpha)
            rows = tuple(msgspec.structs.replace(row, act=act) for row in known.rows)
            if not same_table(msgspec.structs.replace(known, rows=rows), spec):
                continue
            arguments = {
                "num_labels": spec.head.classes,
                "num_channels": spec.channels,
                "image_size": spec.resolution,
                "depth_multiplier": alpha,
                "hidden_act": names[act],
                "tf_padding": spec.padding == "same",
                "classifier_dropout_prob": spec.head.dropout,
                "layer_norm_eps": spec.norm.eps,
            }
            name = "MobileNetV1" if family == "mobilenet_v1" else "MobileNetV2"
            places = transformers.places(spec, family)
            return Offer("transformers", places, f"transformers.{name}ForImageClassification", (), arguments)
    raise _none("transformers", spec, "it has V1 and V2 only, in the widths of a width multiplier")


def _none(
    library: Library, spec: ArchSpec, why: str, *, do: str = "choose another library, or --format onnx"
) -> UsageError:
    return UsageError(f"{library} cannot hold {spec.name}: {why}", wanted="a network that exists there", do=do)


def _difference(bundle: Bundle, offered: Offer, content: bytes, *, safe: bool) -> float:
    """The largest difference of logits, as a part of their size, with the state dict read back from the bytes."""
    if safe:
        from safetensors.torch import load

        state = load(content)
    else:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    theirs = offered.build().eval()
    theirs.load_state_dict(state, strict=True)
    ours = Network(bundle.spec).eval()
    load_tensors(ours, bundle.tensors)
    side = bundle.spec.resolution
    pixels = torch.randn(2, bundle.spec.channels, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said, wanted = theirs(pixels), ours(pixels)
    logits = said.logits if offered.library == "transformers" else said
    return float((logits - wanted).abs().max() / max(1e-3, float(wanted.std())))


def _as_safetensors(state: Mapping[str, NDArray[Any]]) -> bytes:
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise MissingExtraError("safetensors", extra="train") from error
    content: bytes = save(dict(state), metadata={"format": "pt"})  # transformers refuses a file without it
    return content


def _as_torch(state: Mapping[str, NDArray[Any]]) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, file)
    return file.getvalue()


def _shown(value: Any) -> str:
    if isinstance(value, functools.partial):
        inside = ", ".join(f"{name}={each!r}" for name, each in value.keywords.items())
        return f"partial(torch.nn.{value.func.__name__}, {inside})"
    return repr(value)
