"""Steps on a GPU that is not there: torch's fake tensors know devices and shapes, and hold no numbers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.records import Preprocess
from mobilenets.train import CrossEntropy, Distillation, MakeObjective, Recipe, distil
from mobilenets.train.begin import begin
from mobilenets.train.elastic import elastic
from mobilenets.train.elastic_policy import ElasticPolicy
from mobilenets.train.learner import Learner
from mobilenets.train.loader import Batches
from mobilenets.train.team import ALONE

SIDE = 16
GPU = torch.device("cuda", 0)
PREPROCESS = Preprocess(resolution=SIDE)
LABELS = ("red", "green", "blue")
# What tells the host how many or how large, so that it has to wait.
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "bincount")


class Source:
    """Pictures of three classes, or with three labels."""

    def __init__(self, *, labels: bool) -> None:
        self.uniform = np.ascontiguousarray(patches(24, SIDE))
        classes = np.arange(24) % 3
        self.targets = np.eye(3, dtype=np.float32)[classes] if labels else classes

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


class Waits(TorchDispatchMode):
    """Notes every operation for which the host waits for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_to_copy" and isinstance(device := kwargs.get("device"), torch.device):
            self._look(args[0], args[0].device, device, waits=not kwargs.get("non_blocking"))
        elif name == "copy_":
            self._look(args[1], args[1].device, args[0].device, waits=len(args) < 3 or not args[2])
        elif name.rstrip("_") in ASKING and args[0].device.type == "cuda":
            self.found.append(f"{name} of {tuple(args[0].shape)}")
        if name.startswith("_fused_"):
            return None  # a step of torch's own optimizers, in place: fake tensors do not know it
        return func(*args, **kwargs)

    def _look(self, values: Tensor, source: torch.device, target: torch.device, *, waits: bool) -> None:
        waits = waits or target.type == "cpu" or not any(values is other for other in self.pinned)
        if source.type != target.type and waits:
            self.found.append(f"{tuple(values.shape)} from {source} to {target}")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """On a pretended GPU; there is no pass back, for torch's engine wants a real one."""
    seen = Waits()

    def pin(self: Tensor) -> Tensor:
        seen.pinned.append(self)
        return self

    def moved(self: nn.Module, device: torch.device | None = None, **_: Any) -> nn.Module:
        """As it would be there: torch cannot move a module to a device that is not there."""
        for module in self.modules() if device else ():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        is_weight = isinstance(tensor, nn.Parameter)
                        tensors[name] = nn.Parameter(made, tensor.requires_grad) if is_weight else made
        return self

    def copied(self: Tensor, memo: dict[int, Any]) -> Tensor:
        """Without torch's mode that a fake tensor holds on to: a copy of that makes Python crash."""
        made = torch.empty_like(self)
        memo[id(self)] = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "__deepcopy__", copied)
    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(nn.Module, "to_empty", moved)
    with FakeTensorMode(allow_non_fake_inputs=True), seen:
        yield seen


def steps(waits: Waits, monkeypatch: pytest.MonkeyPatch, objective: MakeObjective, **fields: Any) -> list[str]:
    """What two steps waited for, behind the first, which may prepare something."""
    labels = fields.pop("labels", False)
    recipe = Recipe(**{"epochs": 2.0, "batch_size": 8, "precision": "fp32", **fields})
    batches = Batches(Source(labels=labels), recipe, PREPROCESS)
    dtype = torch.float16 if recipe.precision == "fp16" else torch.float32
    spec = compose("mobilenet_v3_small", alpha=0.5, resolution=SIDE, stride="small", classes=3)
    task = "multilabel" if labels else "classify"
    network = begin(spec, batches, labels=LABELS, task=task, preprocess=PREPROCESS, seed=0, device=GPU)
    learner = Learner(
        network,
        batches,
        recipe,
        labels=LABELS,
        task=task,
        preprocess=PREPROCESS,
        dtype=dtype,
        objective=objective,
        team=ALONE,
    )
    learned = [parameter for group in learner.optimizer.param_groups for parameter in group["params"]]

    def backward(self: Tensor) -> None:
        assert self.device == GPU
        for parameter in learned:
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    drawn = next(iter(batches.epoch(0)))
    for step in range(0, 12, 4):  # averages follow in every fourth
        loss = learner.step(drawn, step=step, rate=0.1, done=0.2)
        assert loss.device == GPU
        if step == 0:
            waits.found.clear()
    return waits.found


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # so torch computes in float32 all the same
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rotate": 10.0, "zoom": 0.1, "cutout": 0.25, "erase": 0.5, "drop_path": 0.1, "dropout": 0.2},
        {"mixup": 0.2, "cutmix": 1.0, "class_weights": "inverse", "small_side": 0.75},
        {"mixup": 0.2, "labels": True, "class_weights": "inverse"},
        {"optimizer": "sgd", "freeze": "1", "layer_decay": 0.8},
        {"optimizer": "adamw"},
        {"precision": "fp16"},
        {"optimizer": "rmsprop", "ema_decay": 0.99},
    ],
    ids=lambda fields: " ".join(fields) or "short",
)
def test_a_step_does_not_wait_for_the_gpu(
    fields: dict[str, Any], waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps(waits, monkeypatch, CrossEntropy, **fields) == []


@pytest.mark.parametrize("fixed", [True, False], ids=["answers that are kept", "asked each time"])
def test_a_step_with_a_teacher_does_not_either(
    fixed: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    bundle = settled_bundle(compose("mobilenet_v2", alpha=0.35, resolution=SIDE, stride="small", classes=3))
    how = Distillation(embedding="cosine", features=() if fixed else (4,))
    objective = distil(replace(bundle, labels=("blue", "red", "green")), how)
    waits = request.getfixturevalue("waits")  # only from here on is there a GPU
    fields = {"mirror": False, "crop_padding": 0.0} if fixed else {}
    assert steps(waits, monkeypatch, objective, **fields) == []


def test_a_step_of_several_widths_does_not_either(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = ElasticPolicy(narrowest=0.25, widest=0.5, inner=(0.35,), alone=0.0, resolutions=(12, SIDE))
    assert steps(waits, monkeypatch, elastic(policy)) == []


def test_waits_are_noticed(waits: Waits) -> None:
    there = torch.empty(3, device=GPU)
    there + torch.tensor([1.0, 2.0, 3.0]).to(GPU)
    torch.tensor([1.0, 2.0, 3.0], device=GPU)
    torch.zeros(3).to(GPU, non_blocking=True)
    there.cpu()
    there.copy_(torch.zeros(3))
    torch.zeros(3).pin_memory().to(GPU, non_blocking=True)
    assert len(waits.found) == 5
