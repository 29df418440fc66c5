from mobilenets.runtime.engines.onnx_runtime import adds_in_16_bits


def test_int8_is_kept_from_overflowing_where_the_processor_has_no_vnni() -> None:
    assert adds_in_16_bits("x86_64", "flags : fpu sse4_2 avx2 fma\nbugs : none")
    assert adds_in_16_bits("AMD64", "")
    assert not adds_in_16_bits("x86_64", "flags : fpu avx2 avx512f avx512_vnni\n")
    assert not adds_in_16_bits("x86_64", "flags : fpu avx2 avx_vnni")
    assert not adds_in_16_bits("aarch64", "Features : fp asimd")
