"""What torch can tell of a network: its rows on real images, its gradients, and where a step's time goes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..nets import Network
from ..nets.parts import ConvNormAct
from ..records import Preprocess
from ..tasks import TASKS, Targets
from ..train import Recipe, forward_all
from ..train.loader import Batches, Drawn, normalise
from ..train.loss_scale import backward, scale_for
from ..train.machine import compute_dtype, lower_precision, wait_for
from ..train.update import apply_recipe, make_optimizer
from .records import RowHealth, TimeSplit

__all__ = ["Gradients", "batch_norm_answers", "row_health", "steps"]

BATCH = 64
STILL = 1e-6  # of its size: what a channel may move and still count as dead


@dataclass(frozen=True)
class Gradients:
    """Norms by row, the head's last."""

    gradient: tuple[float, ...]
    weights: tuple[float, ...]


class _Channels:
    """Smallest and largest value of each channel of one layer."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        over = [0, *range(2, output.ndim)]
        low, high = output.amin(over), output.amax(over)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def count(self) -> tuple[int, int]:
        """All channels, and those that never move."""
        if self.low is None or self.high is None:
            return 0, 0
        still = self.high - self.low <= STILL * self.high.abs()
        return len(still), int(still.sum())


class _Moments:
    """Range and deviation of a row's output."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = output.cpu().double()  # MPS has no float64
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.n += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    @property
    def deviation(self) -> float:
        mean = self.total / self.n
        return float(max(0.0, self.squares / self.n - mean * mean) ** 0.5)


def row_health(
    network: Network, images: NDArray[np.uint8], preprocess: Preprocess, gradients: Gradients
) -> tuple[RowHealth, ...]:
    """Each row and the head, in evaluation mode on prepared images (N, R, R, C)."""
    device = next(network.parameters()).device
    parts = [*network.rows, network.head]
    outputs = [_Moments() for _ in parts]
    layers: list[list[_Channels]] = []
    hooks = []
    for part, moments in zip(parts, outputs, strict=True):
        inside = [(module, _Channels()) for module in part.modules() if isinstance(module, ConvNormAct)]
        layers.append([channels for _, channels in inside])
        hooks += [module.register_forward_hook(channels) for module, channels in inside]
        hooks.append(part.register_forward_hook(moments))
    try:
        for begin in range(0, len(images), BATCH):
            forward_all(network, images[begin : begin + BATCH], preprocess, device=device, dtype=torch.float32)
    finally:
        for hook in hooks:
            hook.remove()
    names = [
        (f"row {p.index}", type(p.row).__name__.removesuffix("Row").lower(), p.row.out) for p in network.spec.placed()
    ]
    names.append(("head", "classifier", network.spec.head.classes))
    made = []
    for place, (name, kind, out) in enumerate(names):
        counts = [channels.count() for channels in layers[place]]
        made.append(
            RowHealth(
                name=name,
                kind=kind,
                out=out,
                channels=sum(count for count, _ in counts),
                dead=sum(dead for _, dead in counts),
                low=outputs[place].low,
                high=outputs[place].high,
                deviation=outputs[place].deviation,
                gradient=gradients.gradient[place],
                weights=gradients.weights[place],
            )
        )
    return tuple(made)


def batch_norm_answers(
    network: Network, images: NDArray[np.uint8], preprocess: Preprocess, *, batch: int = 256
) -> NDArray[np.float32]:
    """Logits (N, K) with norms that use the statistics of these images, `batch` at a time, instead of running ones."""
    copied = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.train()
    parts = []
    with torch.no_grad():
        for begin in range(0, len(images), batch):
            pixels = torch.from_numpy(np.array(images[begin : begin + batch])).to(device)
            parts.append(copied(normalise(pixels, preprocess)).float().cpu().numpy())
    return np.concatenate(parts)


def steps(
    network: Network, batches: Batches, recipe: Recipe, preprocess: Preprocess, *, count: int
) -> tuple[TimeSplit, Gradients]:
    """Make some training steps with a copy of the network; the first one is not timed, and gives the gradients."""
    device = next(network.parameters()).device
    dtype = compute_dtype(recipe.precision, device)
    copied = copy.deepcopy(network).train()
    apply_recipe(copied, recipe, per_epoch=batches.per_epoch)
    optimizer = make_optimizer(copied, recipe, dtype=dtype)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6  # the work of a step, without leaving the place that is looked at
    scale = scale_for(dtype, device)
    loss_of = TASKS["classify"].loss
    drawn = _endless(batches)
    times: list[tuple[float, float, float, float]] = []
    gradients: Gradients | None = None
    torch.manual_seed(0)
    wait = _waiting(device)
    for step in range(1 + count):
        began = wait()
        batch = next(drawn)
        ready = wait()
        images = batches.distort(normalise(batch.pixels.to(device), preprocess), step=step)
        with lower_precision(dtype, device):
            logits = copied(images)
        loss = loss_of(logits, Targets(batch.targets.to(device)), recipe.label_smoothing)
        forward = wait()
        backward(loss, scale)
        if scale is not None:
            scale.down(copied.parameters())
        back = wait()
        gradients = gradients or _norms(copied)
        stepping = wait()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append((ready - began, forward - ready, back - forward, wait() - stepping))
    data, forward_s, backward_s, optimizer_s = np.median(np.array(times[1:]), axis=0).tolist()
    split = TimeSplit(
        steps=count,
        batch_size=batches.size,
        data_ms=1000 * data,
        forward_ms=1000 * forward_s,
        backward_ms=1000 * backward_s,
        optimizer_ms=1000 * optimizer_s,
    )
    assert gradients is not None  # there was a first step
    return split, gradients


def _norms(network: Network) -> Gradients:
    def norm(tensors: list[Tensor]) -> float:
        return float(torch.stack([t.detach().float().norm() for t in tensors]).norm()) if tensors else 0.0

    parts = [list(part.parameters()) for part in (*network.rows, network.head)]
    return Gradients(
        gradient=tuple(norm([p.grad for p in part if p.grad is not None]) for part in parts),
        weights=tuple(norm(list(part)) for part in parts),
    )


def _endless(batches: Batches) -> Iterator[Drawn]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1


def _waiting(device: torch.device) -> Callable[[], float]:
    """A clock that first waits for the device."""

    def wait() -> float:
        wait_for(device)
        return time.perf_counter()

    return wait
