"""Processors by what /proc/cpuinfo says of them."""

import pytest

from mobilenets.processor import bfloat16_is_fast, has_amx, has_bfloat16, has_vnni, processor_name

MILAN = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse4_2 avx avx2 fma\nbugs\t: none\n"
GENOA = MILAN.replace("avx2", "avx2 avx512f avx512_vnni avx512_bf16")
TILELESS = GENOA.replace("AMD EPYC", "Intel Xeon").replace("model\t\t", "vendor_id\t: GenuineIntel\nmodel\t\t")
RAPIDS = TILELESS.replace("avx512_bf16", "avx512_bf16 amx_bf16 amx_tile amx_int8")
ALDER = MILAN.replace("AMD EPYC", "Intel Core i7").replace("avx2", "avx2 avx_vnni")
BOARD = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "vnni", "bfloat16"),
    [
        (MILAN, "AMD EPYC, AVX2", False, False),
        (GENOA, "AMD EPYC, AVX-512 VNNI BF16", True, True),
        (TILELESS, "Intel Xeon, AVX-512 VNNI BF16", True, True),
        (RAPIDS, "Intel Xeon, AVX-512 VNNI BF16 AMX", True, True),
        (ALDER, "Intel Core i7, AVX2 VNNI", True, False),
        (BOARD, "Raspberry Pi 4 Model B Rev 1.4, NEON", False, False),
        (
            BOARD.replace("asimd", "asimd asimddp bf16"),
            "Raspberry Pi 4 Model B Rev 1.4, NEON dot products BF16",
            False,
            False,
        ),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_instructions(
    cpuinfo: str, name: str, vnni: bool, bfloat16: bool
) -> None:
    assert processor_name(cpuinfo) == name
    assert (has_vnni(cpuinfo), has_bfloat16(cpuinfo)) == (vnni, bfloat16)
    assert has_amx(cpuinfo) == (cpuinfo == RAPIDS)


@pytest.mark.parametrize(
    ("cpuinfo", "fast"), [(MILAN, False), (GENOA, True), (TILELESS, False), (RAPIDS, True), (BOARD, False)]
)
def test_an_intel_without_tiles_has_bfloat16_and_is_slow_at_it(cpuinfo: str, fast: bool) -> None:
    assert bfloat16_is_fast(cpuinfo) == fast


def test_where_nothing_is_told_the_name_is_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert processor_name("") == "arm"
    assert not has_vnni("")
