"""Several processes that train one network together, as `torchrun` starts them. One process alone is a team too.

Each process learns from its part of every batch; gradients are averaged before the step, so all hold the same weights.
Only norms see a part: each process normalises with the statistics of its own images, as usual (Goyal et al. 2017,
section 2.3), and running statistics are averaged before they are used or saved. So a part should be 32 images or more.

torch.distributed is used as it is. Accelerate would wrap the network for one forward and one backward pass a step, and
bring its own sharding; an objective may run slices of the network several times, and batches are shared out here by
their number, so that any count of processes sees what one would.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from ..progress import say

__all__ = ["ALONE", "Team", "join_team"]


@dataclass(frozen=True)
class Team:
    """This process among the others. Every method but `say` is called by all of them at the same place."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def say(self, message: str) -> None:
        """One line, once."""
        if self.leads:
            say(message)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; those that are None are so everywhere."""
        self._average([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, modules: Iterable[nn.Module]) -> None:
        """Replace running statistics, which every process has of its own images, by their means."""
        buffers = [b for module in modules for b in module.buffers() if b.is_floating_point()]
        with torch.no_grad():
            self._average(buffers)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of each of a vector's numbers; not a number where one of them is none."""
        values = values.clone()
        self._average([values])
        return values

    def spread(self, modules: Iterable[nn.Module]) -> None:
        """Give every process the first one's weights and statistics."""
        if self.world > 1:
            for module in modules:
                for tensor in module.state_dict().values():
                    sent = tensor.contiguous()
                    dist.broadcast(sent, src=0)
                    tensor.copy_(sent)

    def agree(self, seconds: float, *, stop: bool) -> tuple[float, bool]:
        """The first process's clock, and whether anybody wants to stop: clocks and Ctrl-C must not part the team."""
        if self.world == 1:
            return seconds, stop
        told = torch.tensor([seconds if self.leads else 0.0, float(stop)], dtype=torch.float64)
        dist.all_reduce(told)
        return float(told[0]), bool(told[1])

    def own_rows(self, count: int) -> NDArray[np.int64]:
        """Which of `count` rows this process works out."""
        return np.arange(self.rank, count, self.world)

    def gather_rows(self, own: NDArray[np.float32] | None, *, count: int, width: int) -> NDArray[np.float32]:
        """All rows (count, width) from those that each process has worked out; `own` is None where it has none."""
        if self.world == 1 and own is not None:
            return own
        whole = np.zeros((count, width), np.float32)
        if own is not None:
            whole[self.own_rows(count)] = own
        rows = torch.from_numpy(whole)
        dist.all_reduce(rows)  # the others' rows are zeros, so sums are exact
        return whole

    def share_text(self, text: str) -> str:
        """The first process's text."""
        if self.world == 1:
            return text
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        length = torch.tensor([len(content)])
        dist.broadcast(length, src=0)
        content = content if self.leads else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, src=0)
        return content.numpy().tobytes().decode()

    def share_texts(self, own: str) -> tuple[str, ...]:
        """The text of each process, in their order."""
        if self.world == 1:
            return (own,)
        content = torch.tensor(list(own.encode()), dtype=torch.uint8)
        lengths = torch.zeros(self.world, dtype=torch.int64)
        lengths[self.rank] = len(content)
        dist.all_reduce(lengths)
        whole = torch.zeros(self.world, int(lengths.max()), dtype=torch.uint8)
        whole[self.rank, : len(content)] = content
        dist.all_reduce(whole)  # the others' rows are zeros
        pairs = zip(whole, lengths.tolist(), strict=True)
        return tuple(row[:length].numpy().tobytes().decode() for row, length in pairs)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The first process does what is inside, then the others: what it has put into a cache they find there."""
        if self.world > 1 and not self.leads:
            dist.barrier()
        yield
        if self.world > 1 and self.leads:
            dist.barrier()

    def leave(self) -> None:
        """Part from the others, at the end."""
        if self.world > 1 and dist.is_initialized():
            dist.barrier()  # nobody's threads are torn down while another still talks to them
            _part()

    def _average(self, tensors: list[Tensor]) -> None:
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


ALONE = Team()


def join_team() -> Team:
    """The team that `torchrun` has started this process in; a team of one where it has not.

    Collectives on CPU tensors go by gloo, those on GPUs by NCCL. Each process of a machine with GPUs takes the one of
    its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        return Team()
    if not dist.is_initialized():
        with_gpus = torch.cuda.is_available()
        if with_gpus:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo")
        atexit.register(_part)
    return Team(rank=dist.get_rank(), world=dist.get_world_size())


def _part() -> None:
    """End the group and its threads while Python is whole, however the process ends: errors and Ctrl-C do not `leave`.

    A thread of gloo that lets go of its last tensor while Python shuts down asks for a lock that is gone, and the
    process aborts (PyTorch's issue 190489). Destroying the group waits for these threads. Nobody else is waited for:
    where one ends with an error, the others may never come.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
