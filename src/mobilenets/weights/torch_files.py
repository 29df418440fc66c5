"""State dicts from files: `.safetensors`, or what `torch.save` wrote, of which only the tensors are accepted.

A pickle can start programs when it is read, so files of `torch.save` go through torch's `weights_only` reader, which
knows tensors and plain containers and refuses the rest.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import FileFormatError, MissingExtraError, first_line
from ..files import read_json

__all__ = ["Checkpoint", "read_checkpoint"]

HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # as huggingface_hub keeps them; the safe one first
# What training scripts wrap a state dict in. Averaged weights come first: they are the ones that were measured, and
# timm's own loader prefers them, too.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net")
# What wrapping modules put before every name: (Distributed)DataParallel and averaging, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")
COUNTERS = ("num_batches_tracked", "n_averaged")  # how often a norm or an average was updated; not part of the answer


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by their library's names, and what lay beside them."""

    path: Path  # of the file, for messages
    tensors: Mapping[str, NDArray[np.float32]]
    config: Mapping[str, Any] | None = None  # config.json of a hub folder
    preprocessor: Mapping[str, Any] | None = None  # preprocessor_config.json, likewise
    architecture: str | None = None  # the model's name, where a training script wrote it beside the tensors
    told: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Tensors as float32, whatever precision they are kept in; without the counters of norms.

    Args:
        path: a file, or the folder of a hub snapshot: `model.safetensors` or `pytorch_model.bin`, `config.json`.

    Raises:
        FileFormatError: not such a file, damaged, holds more than tensors, or no tensors at all.
    """
    file = _weights_in(path) if path.is_dir() else path
    content = _read_safetensors(file) if _is_safetensors(file) else _read_torch(file)
    told: dict[str, Any] = {"format": "safetensors" if _is_safetensors(file) else "torch"}
    state, within = _unwrapped(content, file)
    if within:
        told["within"] = within
    beside = file.parent if file.name in HUB_WEIGHTS else None
    return Checkpoint(
        path=file,
        tensors=_arrays(state, file),
        config=_beside(beside, "config.json"),
        preprocessor=_beside(beside, "preprocessor_config.json"),
        architecture=_architecture(content),
        told=told,
    )


def _weights_in(folder: Path) -> Path:
    for name in HUB_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileFormatError(
        f"the folder {folder} holds no weights that are known",
        wanted=f"{' or '.join(HUB_WEIGHTS)}, with config.json",
        do="name the file itself, or download the whole repository into one folder",
    )


def _is_safetensors(file: Path) -> bool:
    return file.suffix.lower() == ".safetensors"


def _read_safetensors(file: Path) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # not the numpy reader: that one knows no bfloat16
    except ImportError as error:
        raise MissingExtraError("safetensors", extra="train") from error
    try:
        content: dict[str, Any] = load_file(str(file))
    except Exception as error:  # safetensors raises its own, unexported kinds
        raise _unreadable(file, error) from error
    return content


def _read_torch(file: Path) -> Any:
    if not file.is_file() or file.stat().st_size == 0:
        raise FileFormatError(
            f"{file} is empty" if file.is_file() else f"{file} is not a file",
            wanted="a state dict, as torch.save writes it",
            do="copy it again",
        )
    try:
        # timm's training script keeps its arguments beside the weights: a namespace of numbers and strings.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes surface as anything from EOFError to RuntimeError
        if refused := _refused(str(error)):
            raise FileFormatError(
                f"{file} holds more than tensors: {refused}, and to read that could run a program",
                wanted="a state dict: tensors by name, as torch.save(model.state_dict(), FILE) writes it",
                do="load it where it was made and whose author you trust, and save model.state_dict() alone",
            ) from error
        raise _unreadable(file, error) from error


def _refused(message: str) -> str | None:
    """What torch's reader would not unpickle, from its message; None when it failed for another reason."""
    if "TorchScript" in message:
        return "a TorchScript program"
    if found := re.search(r"(?:Unsupported global: GLOBAL|Unsupported class) ([\w.<>]+)", message):
        return f"a Python object ({found[1]})"
    if "Unsupported operand" in message or ("weights_only" in message and "nsupported" in message):
        return "a Python object"
    return None


def _unwrapped(content: Any, file: Path) -> tuple[Mapping[str, Any], str | None]:
    """The state dict inside what a training script saved, and the key it was under."""
    if not isinstance(content, Mapping):
        raise FileFormatError(
            f"{file} holds one {type(content).__name__}",
            wanted="a state dict: tensors by name",
            do="save model.state_dict()",
        )
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            return inner, key
    return content, None


def _arrays(state: Mapping[str, Any], file: Path) -> dict[str, NDArray[np.float32]]:
    tensors = {
        str(name): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and not str(name).endswith(COUNTERS)
    }
    if not tensors:
        found = ", ".join(sorted(str(key) for key in state)[:8]) or "nothing"
        raise FileFormatError(
            f"{file} holds no tensors, but: {found}",
            wanted="a state dict: tensors by name",
            do="save model.state_dict()",
        )
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
            raise FileFormatError(
                f"{name} in {file} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}",
                wanted="plain tensors of numbers",
                do="save the state dict of the float network, from the CPU",
            )
        arrays[name] = tensor.detach().to(torch.float32).contiguous().numpy()
    return arrays


def _architecture(content: Any) -> str | None:
    """timm's training script writes the model's name as `arch`, torchvision's within its arguments."""
    if not isinstance(content, Mapping):
        return None
    named = content.get("arch", getattr(content.get("args"), "model", None))
    return named if isinstance(named, str) else None


def _beside(folder: Path | None, name: str) -> Mapping[str, Any] | None:
    if folder is None or not (folder / name).is_file():
        return None
    content = read_json(folder / name, what=name)
    if not isinstance(content, dict):
        raise FileFormatError(f"{folder / name} holds no object", wanted="a JSON object", do="download it again")
    return content


def _unreadable(file: Path, error: Exception) -> FileFormatError:
    return FileFormatError(
        f"cannot read {file}: {first_line(error)}",
        wanted="a whole file, as safetensors or torch.save wrote it",
        do="copy or download it again",
    )
