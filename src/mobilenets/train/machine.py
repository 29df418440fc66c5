"""What the machine offers to training: device, number format, threads, allocator."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch

from ..errors import UsageError
from ..processor import bfloat16_is_fast, has_bfloat16
from .recipe import Precision

__all__ = [
    "DTYPES",
    "Exact",
    "compute_dtype",
    "computes_bfloat16",
    "exact_precision",
    "keep_freed_memory",
    "lower_precision",
    "memory_explained",
    "on_threads",
    "pick_device",
    "to_device",
    "wait_for",
]

Exact: TypeAlias = Literal["fp32", "bf16", "fp16"]
DTYPES: Mapping[Exact, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
# mallopt's parameters, from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def pick_device(name: str) -> torch.device:
    """ "auto": CUDA, else Apple's MPS, else the CPU; anything else as torch reads it.

    Raises:
        UsageError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name!r}: {str(error).splitlines()[0]}", wanted="auto, cpu, cuda, cuda:N or mps", do="use one"
        ) from error
    return device


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The number format of the forward and backward pass.

    Raises:
        UsageError: the precision is unknown.
    """
    return DTYPES[exact_precision(precision, device)]


def exact_precision(precision: Precision, device: torch.device) -> Exact:
    """A precision, with "auto" as what is fastest on the device.

    Raises:
        UsageError: the precision is unknown.
    """
    if precision == "auto":
        if computes_bfloat16(device) and (device.type != "cpu" or bfloat16_is_fast()):
            return "bf16"
        # GPUs before NVIDIA's Ampere multiply float16 several times as fast as float32.
        return "fp16" if device.type == "cuda" else "fp32"
    if precision not in DTYPES:
        raise UsageError(f"precision {precision!r}", wanted="auto, fp32, bf16 or fp16", do="use one")
    return precision


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, which need not be faster than those for float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and has_bfloat16()


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The values on a device, without waiting for what it has still to do.

    Of the copies to a GPU only those from pinned memory are so; before any other one the host waits for all steps that
    it has asked for, and the GPU then waits for the host.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked for: before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextlib.contextmanager
def lower_precision(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Autocast to `dtype`; nothing for float32."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        yield


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads of the CPU inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def memory_explained(batch_size: int) -> Iterator[None]:
    """Where memory runs out, say so.

    Raises:
        UsageError: there was not enough memory; names the batch size and what to do.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        told = str(error).splitlines()[0] if str(error) else "MemoryError"
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise UsageError(
            f"not enough memory for batches of {batch_size} images: {told}",
            wanted="a step that fits",
            do=f"take --batch-size {max(2, batch_size // 2)}, a lower resolution or a smaller network; what was saved "
            "before is intact",
        ) from error


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next tensor; returns whether it was asked.

    By default every tensor above 32 MB is mapped afresh and given back, so each operation pays page faults for its
    output: a ReLU on 256x64x32x32 floats takes several times as long. Other C libraries are left alone.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
