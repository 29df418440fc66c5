"""A training run on disk: one safetensors file, replaced as a whole, from which the run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import FileFormatError, UsageError
from ..files import write_bytes
from .way import Way

__all__ = [
    "CHECKPOINT_NAME",
    "Progress",
    "Resume",
    "Row",
    "check_identity",
    "goes_on",
    "load_checkpoint",
    "read_progress",
    "row_of",
    "save_checkpoint",
]

Resume = Literal["never", "if_there", "must"]
CHECKPOINT_NAME = "checkpoint.safetensors"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `results.csv`; the first six columns are timm's."""

    epoch: float
    train_loss: float
    eval_loss: float
    eval_top1: float | None = None  # per cent; None, as other fields: of another task
    eval_top5: float | None = None
    lr: float
    step: int
    seconds: float  # since the start of training
    eval_balanced: float | None = 0.0  # per cent, mean of the classes' accuracies
    eval_calibration: float | None = 0.0  # expected calibration error, in [0, 1]
    eval_map: float | None = None  # per cent, mean over labels of average precision
    eval_f1: float | None = None  # per cent, mean over labels

    @property
    def goal_name(self) -> str:
        """What is to be maximised, as a person calls it."""
        return "top-1" if self.eval_map is None else "mAP"

    @property
    def goal(self) -> float:
        """What is to be maximised, in per cent: top-1 accuracy, or mean average precision."""
        found = self.eval_top1 if self.eval_map is None else self.eval_map
        assert found is not None  # every row has one of them
        return found


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands."""

    identity: dict[str, str]  # digests of what may not change when the run goes on, by what a person calls it
    step: int = 0
    epoch: int = 0
    batch: int = 0  # the next one in this epoch
    seconds: float = 0.0
    finished: bool = False
    best_top1: float = -1.0  # or another task's goal, in [0, 1]
    best_step: int = -1
    loss_sum: float = 0.0  # since the last row
    loss_count: int = 0
    lowered: float = 1.0  # factor on every rate since a divergence; 1: there was none
    lowered_at: int = -1  # the step from which on
    way: Way | None = None  # to compute, as it was found by trying; None: nothing was tried
    rows: tuple[Row, ...] = ()

    def describe(self, *, share: float, per_epoch: int) -> str:
        """One line for a person, with how much of the run is done, in [0, 1], and steps of an epoch."""
        text = f"{100 * share:3.0f} %  {self.seconds:5.0f} s  epoch {self.step / per_epoch:6.2f}"
        if self.loss_count:
            text += f"  loss {self.loss_sum / self.loss_count:.3f}"
        return text + (f"  {self.rows[-1].goal_name} {self.rows[-1].goal:.2f} %" if self.rows else "")


def row_of(progress: Progress, scores: Mapping[str, float], *, per_epoch: int, lr: float) -> Row:
    """What was measured where a run stands.

    Args:
        progress: where.
        scores: as the task's metrics give them, in [0, 1].
        per_epoch: steps of an epoch.
        lr: the learning rate.
    """

    def per_cent(name: str) -> float | None:
        return 100 * scores[name] if name in scores else None

    return Row(
        epoch=round(progress.step / per_epoch, 3),
        train_loss=progress.loss_sum / max(1, progress.loss_count),
        eval_loss=scores["loss"],
        eval_top1=per_cent("top1"),
        eval_top5=per_cent("top5"),
        lr=lr,
        step=progress.step,
        seconds=progress.seconds,
        eval_balanced=per_cent("balanced"),
        eval_calibration=scores.get("calibration_error"),
        eval_map=per_cent("map"),
        eval_f1=per_cent("f1"),
    )


def save_checkpoint(path: Path, progress: Progress, modules: dict[str, nn.Module], optimizer: Optimizer) -> None:
    """Write everything that the next step depends on.

    Raises:
        UsageError: the file cannot be written; an older checkpoint is intact.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
    tensors = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
    about = {"progress": json.dumps(msgspec.to_builtins(progress))}
    write_bytes(path, save(tensors, metadata=about))


def read_progress(path: Path) -> Progress:
    """Where the run of a checkpoint stands.

    Raises:
        FileFormatError: not a checkpoint.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            return msgspec.convert(json.loads(metadata["progress"]), Progress)
    except (OSError, KeyError, SafetensorError, json.JSONDecodeError, msgspec.ValidationError) as error:
        raise FileFormatError(
            f"cannot read {path}: {error}", wanted="a checkpoint of this version", do="remove it and train anew"
        ) from error


def goes_on(out: Path, resume: Resume) -> Progress | None:
    """Where the run in a folder stands, if it is to go on; None: it begins anew.

    Raises:
        UsageError: it must go on, and there is no checkpoint.
        FileFormatError: what is there is none.
    """
    path = out / CHECKPOINT_NAME
    if resume == "never" or (resume == "if_there" and not path.exists()):
        return None
    if not path.exists():
        raise UsageError(f"no checkpoint in {out}", wanted=CHECKPOINT_NAME, do="train without --resume")
    return read_progress(path)


def check_identity(path: Path, identity: dict[str, str]) -> None:
    """Whether a checkpoint is of the run that is to go on.

    Raises:
        UsageError: it is of another; says what differs.
        FileFormatError: not a checkpoint.
    """
    before = read_progress(path).identity
    if other := [what for what, digest in identity.items() if before.get(what) != digest]:
        raise UsageError(
            f"{path} is of another run: not the same as then: {', '.join(other)}",
            wanted="the same command and the same images as before",
            do="repeat that command, or train into another folder",
        )


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizer: Optimizer) -> Progress:
    """Put a checkpoint's tensors into `modules` and `optimizer`.

    Raises:
        FileFormatError: not a checkpoint, or one of another network.
    """
    progress = read_progress(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        for name, module in modules.items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FileFormatError(
            f"cannot use {path}: {error}", wanted="a checkpoint of this network", do="remove it and train anew"
        ) from error
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    own = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused optimizers walk through memory, so a momentum has to lie there as its parameter does.
                values[name] = torch.empty_like(parameter).copy_(value)
    return progress
