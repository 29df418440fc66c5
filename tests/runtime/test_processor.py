import pytest

from making import bundle_of, patches
from mobilenets.export.quantize import quantize
from mobilenets.runtime.engines import onnx_runtime as module
from mobilenets.runtime.engines.onnx_runtime import adds_in_16_bits, session_options, sums_fit


def test_int8_is_kept_from_overflowing_where_the_processor_has_no_vnni() -> None:
    assert adds_in_16_bits("x86_64", "flags : fpu sse4_2 avx2 fma\nbugs : none")
    assert adds_in_16_bits("AMD64", "")
    assert not adds_in_16_bits("x86_64", "flags : fpu avx2 avx512f avx512_vnni\n")
    assert not adds_in_16_bits("x86_64", "flags : fpu avx2 avx_vnni")
    assert not adds_in_16_bits("aarch64", "Features : fp asimd")


def test_only_files_that_do_not_say_that_their_sums_fit_are_opened_in_the_slow_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_processor", lambda: "flags : avx2")
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    content = quantize(bundle_of("mobilenet_v1"), patches(8, 32), calibration="minmax").model.SerializeToString()
    assert sums_fit(content)
    assert not sums_fit(content.replace(b"sums fit", b"sums fat"))
    key = "session.x64quantprecision"
    assert session_options("int8", threads=1, fitting=False).get_session_config_entry(key) == "1"
    for precision, fitting in (("int8", True), ("fp32", False)):
        with pytest.raises(RuntimeError, match=key):
            session_options(precision, threads=1, fitting=fitting).get_session_config_entry(key)
