import pytest

from making import bundle_of, patches
from mobilenets.export.quantize import quantize
from mobilenets.runtime.engines import onnx_runtime as module
from mobilenets.runtime.engines.onnx_runtime import adds_in_16_bits, session_options, sums_fit


@pytest.mark.parametrize(
    ("machine", "vnni", "overflows"),
    [("x86_64", False, True), ("AMD64", False, True), ("x86_64", True, False), ("aarch64", False, False)],
)
def test_sums_overflow_on_x86_without_vnni(
    machine: str, vnni: bool, overflows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: machine)
    monkeypatch.setattr(module, "has_vnni", lambda: vnni)
    assert adds_in_16_bits() == overflows


def test_only_files_that_do_not_say_that_their_sums_fit_are_opened_in_the_slow_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "adds_in_16_bits", lambda: True)
    content = quantize(bundle_of("mobilenet_v1"), patches(8, 32), calibration="minmax").model.SerializeToString()
    assert sums_fit(content)
    silent = content.replace(b"sums fit", b"sums fat")
    assert not sums_fit(silent)
    key = "session.x64quantprecision"
    assert session_options("int8", threads=1, content=silent).get_session_config_entry(key) == "1"
    for precision, given in (("int8", content), ("int8", None), ("fp32", silent)):
        with pytest.raises(RuntimeError, match=key):
            session_options(precision, threads=1, content=given).get_session_config_entry(key)
