"""How fast candidates train here: a few steps of one network per family, the others by their activations."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ..nets import build
from ..train import Recipe
from ..train.machine import compute_dtype, keep_freed_memory, lower_precision, pick_device, wait_for
from ..train.update import make_optimizer
from .candidates import Option

__all__ = ["training_speeds"]

STEPS = 3  # timed, after one that is not


def training_speeds(options: Sequence[Option], recipe: Recipe, *, device: str) -> dict[Option, float]:
    """Training images per second of each option.

    One network of middling cost per family is timed on random images. A step of a small network is bound by memory,
    so within a family its time goes with the activations read and written, not with the mult-adds.

    Args:
        options: the candidates.
        recipe: gives batch size, optimizer and precision.
        device: to train on.
    """
    place = pick_device(device)
    keep_freed_memory()
    speeds: dict[Option, float] = {}
    for family in dict.fromkeys(option.family for option in options):
        members = sorted((o for o in options if o.family == family), key=lambda o: o.cost.activations)
        probe = members[len(members) // 2]
        per_element = _step_seconds(probe, recipe, place) / recipe.batch_size / probe.cost.activations
        speeds |= {option: 1 / (per_element * option.cost.activations) for option in members}
    return speeds


def _step_seconds(option: Option, recipe: Recipe, device: torch.device) -> float:
    """The fastest of a few steps: whatever else runs here only ever makes one slower."""
    spec = option.spec
    network = build(spec).to(device).to(memory_format=torch.channels_last).train()
    dtype = compute_dtype(recipe.precision, device)
    optimizer = make_optimizer(network, recipe, dtype=dtype)
    shape = (recipe.batch_size, spec.channels, spec.resolution, spec.resolution)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    targets = torch.zeros(recipe.batch_size, dtype=torch.long, device=device)
    times = []
    for _ in range(1 + STEPS):
        begin = time.perf_counter()
        with lower_precision(dtype, device):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait_for(device)
        times.append(time.perf_counter() - begin)
    return min(times[1:])
