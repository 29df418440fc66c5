"""Which networks of other libraries are the same as an artifact's, and the ways of running them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

import msgspec

from ..arch import split_name
from ..bench import Entry
from ..errors import UsageError
from ..records import Artifact, Preprocess, from_json, to_json

__all__ = ["Library", "Peer", "Way", "create", "peers_of"]

Library = Literal["timm", "torchvision"]
# eager: as the library gives it; the next two: what their documentation recommends for speed on a CPU; compile:
# torch.compile on channels_last; onnxruntime: torch.onnx.export as it comes, and ONNX Runtime.
Way = Literal["eager", "channels_last", "bf16", "compile", "onnxruntime"]
WORKER: Final = "mobilenets.peers.worker"

# Our names -> timm's, whose number is 100 x alpha; a network that timm lacks is passed over.
_TIMM: Final[Mapping[str, str]] = MappingProxyType(
    {
        "mobilenet_v1": "mobilenetv1_{percent:03d}",
        "mobilenet_v2": "mobilenetv2_{percent:03d}",
        "mobilenet_v3_large": "mobilenetv3_large_{percent:03d}",
        "mobilenet_v3_small": "mobilenetv3_small_{percent:03d}",
        "mobilenet_v3_large_minimalistic": "tf_mobilenetv3_large_minimal_{percent:03d}",
        "mobilenet_v3_small_minimalistic": "tf_mobilenetv3_small_minimal_{percent:03d}",
        "mobilenet_v4_conv_small": "mobilenetv4_conv_small",
        "mobilenet_v4_conv_medium": "mobilenetv4_conv_medium",
        "mobilenet_v4_conv_large": "mobilenetv4_conv_large",
        "mobilenet_v4_hybrid_medium": "mobilenetv4_hybrid_medium",
        "mobilenet_v4_hybrid_large": "mobilenetv4_hybrid_large",
    }
)
_TORCHVISION: Final = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")  # any width, by an argument


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of another library, and how it is run. Its weights are fresh: how long it takes depends on none."""

    library: Library
    model: str
    width: float = 1.0  # of torchvision's; timm has it in the name
    way: Way
    classes: int
    preprocess: Preprocess

    @property
    def entry(self) -> Entry:
        """What `bench` times."""
        width = f" x{self.width:g}" if self.width != 1.0 else ""
        return Entry(
            path=json.dumps(to_json(self)), label=f"{self.library} {self.model}{width} {self.way}", worker=WORKER
        )

    @classmethod
    def of_entry(cls, path: str) -> Peer:
        """The inverse of `entry.path`.

        Raises:
            FileFormatError: it is none.
        """
        return from_json(json.loads(path), cls, what="peer")


def peers_of(artifact: Artifact) -> tuple[Entry, ...]:
    """The same architecture at the same resolution from every library that is installed and has it, run in every way.

    Args:
        artifact: whose network is to have peers.

    Returns:
        entries for `bench`; none for a network that no other library has (one that was pruned, say).
    """
    parts = split_name(artifact.spec_name)
    if parts is None or parts.stride is not None:  # for small images, other libraries have no such networks
        return ()
    found: list[tuple[Library, str, float]] = []
    if parts.base in _TIMM and find_spec("timm") is not None:
        name = _TIMM[parts.base].format(percent=round(100 * parts.alpha))
        if _timm_has(name) and ("{" in _TIMM[parts.base] or parts.alpha == 1.0):
            found.append(("timm", name, 1.0))
    if parts.base in _TORCHVISION and find_spec("torchvision") is not None:
        found.append(("torchvision", parts.base, parts.alpha))
    return tuple(
        Peer(
            library=library,
            model=model,
            width=width,
            way=way,
            classes=len(artifact.labels),
            preprocess=artifact.preprocess,
        ).entry
        for library, model, width in found
        for way in get_args(Way)
        if _can(way)
    )


def create(peer: Peer) -> Any:
    """The network (`nn.Module`, float32, evaluating).

    Raises:
        UsageError: no such library.
    """
    if peer.library == "timm":
        import timm

        return timm.create_model(peer.model, num_classes=peer.classes, in_chans=peer.preprocess.channels).eval()
    if peer.library == "torchvision":
        import torchvision

        make = getattr(torchvision.models, peer.model)
        return make(num_classes=peer.classes, width_mult=peer.width).eval()
    raise UsageError(f"library {peer.library!r}", wanted="timm or torchvision", do="use one of these")


def _timm_has(name: str) -> bool:
    import timm

    return bool(timm.is_model(name))


def _can(way: Way) -> bool:
    """Whether this machine has what a way needs."""
    if way == "compile":
        return any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++", "cl"))
    if way == "onnxruntime":
        return find_spec("onnx") is not None
    return True
