"""What processor this is, and which instructions it knows that decide how fast, and how exact, a network is."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

__all__ = ["bfloat16_is_fast", "has_amx", "has_bfloat16", "has_vnni", "processor_name"]

_MODELS = ("model name", "Model", "Hardware")  # x86; Raspberry Pi; other ARM boards
_FLAGS = ("flags", "Features")  # x86; ARM
# The widest vectors, then what multiplies bytes or bfloat16.
_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"))
_MORE = (
    ({"avx512_vnni", "avx_vnni"}, "VNNI"),
    ({"asimddp"}, "dot products"),
    ({"avx512_bf16", "bf16"}, "BF16"),
    ({"amx_int8", "amx_bf16"}, "AMX"),
)


def processor_name(cpuinfo: str | None = None) -> str:
    """The model, and of its instructions those that matter here: "AMD EPYC, AVX-512 VNNI BF16", "AMD EPYC, AVX2".

    Machines that are rented out often tell the same model for processors of several generations.

    Args:
        cpuinfo: what /proc/cpuinfo says; None: here. Where there is no such file, the model is all that is told.
    """
    told = _told() if cpuinfo is None else cpuinfo
    model = _after(told, _MODELS) or platform.processor() or platform.machine()
    flags = _flags(told)
    words = [name for flag, name in _VECTORS if flag in flags][:1] + [name for any_, name in _MORE if any_ & flags]
    return f"{model}, {' '.join(words)}" if words else model


def has_vnni(cpuinfo: str | None = None) -> bool:
    """Whether an x86 processor adds four products of bytes in 32 bits; False where that cannot be seen."""
    return bool({"avx512_vnni", "avx_vnni"} & _flags(_told() if cpuinfo is None else cpuinfo))


def has_amx(cpuinfo: str | None = None) -> bool:
    """Whether an x86 processor multiplies tiles of bfloat16 at once; False where that cannot be seen."""
    return "amx_bf16" in _flags(_told() if cpuinfo is None else cpuinfo)


def has_bfloat16(cpuinfo: str | None = None) -> bool:
    """Whether an x86 processor multiplies bfloat16; False where that cannot be seen."""
    return bool({"avx512_bf16", "amx_bf16"} & _flags(_told() if cpuinfo is None else cpuinfo))


def bfloat16_is_fast(cpuinfo: str | None = None) -> bool:
    """Whether an x86 processor multiplies bfloat16 faster than float32; False where that cannot be seen.

    An Intel that has no AMX, or shows none to a virtual machine, was measured to take 1.7 times as long for a product
    (docs/log.md, "Bfloat16 on an Intel without AMX").
    """
    told = _told() if cpuinfo is None else cpuinfo
    return has_amx(told) or (has_bfloat16(told) and _after(told, ("vendor_id",)) != "GenuineIntel")


@cache
def _told() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _after(told: str, keys: tuple[str, ...]) -> str:
    """What stands behind the first of these keys that there is."""
    lines = [line.partition(":") for line in told.splitlines() if ":" in line]
    return next((value.strip() for key in keys for name, _, value in lines if name.strip() == key), "")


def _flags(told: str) -> set[str]:
    return set(_after(told, _FLAGS).split())
