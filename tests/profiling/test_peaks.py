"""Peaks are measured; here that they are what they are called, not how high."""

from __future__ import annotations

import typing

import msgspec
import numpy as np
import pytest

from mobilenets.errors import UsageError
from mobilenets.profiling import Bandwidth, Gemm, Peaks, measure_peaks, onnx_bytes, peaks_text
from mobilenets.profiling.machine import _Copy, bandwidths
from mobilenets.profiling.table import BYTES
from mobilenets.records import Precision
from mobilenets.runtime import is_installed


def test_every_engine_and_precision_that_is_here_is_measured() -> None:
    found = measure_peaks(threads=1, seconds=0.01, edge=32, working_sets=(1 << 14, 1 << 16))
    measured = {(each.engine, each.precision) for each in found.gemm}
    wanted = {(engine, each) for engine in ("onnxruntime", "openvino") for each in ("fp32", "int8")}
    assert measured - {("openvino", "bf16")} == {pair for pair in wanted if is_installed(pair[0])}
    assert all(each.mult_adds_per_second > 0 and each.edge == 32 and each.runs >= 3 for each in found.gemm)
    assert [each.working_set_bytes for each in found.bandwidth] == [1 << 14, 1 << 16]
    assert all(0 < ms < 100 for ms in found.operator_ms.values())
    first, second = peaks_text(found)
    assert "fp32" in first
    assert "within 0.015625 MiB" in second


def test_the_fastest_copy_that_holds_the_bytes_counts() -> None:
    gemm = Gemm(engine="x", precision="fp32", mult_adds_per_second=2e9, edge=8, runs=1)
    copies = tuple(Bandwidth(working_set_bytes=n, bytes_per_second=1e12 / n, runs=1) for n in (100, 1000))
    peaks = Peaks(threads=1, gemm=(gemm,), bandwidth=copies)
    assert [peaks.memory(n).working_set_bytes for n in (1, 100, 101, 5000)] == [100, 100, 1000, 1000]
    disturbed = Peaks(
        threads=1, gemm=(gemm,), bandwidth=(msgspec.structs.replace(copies[0], bytes_per_second=1), copies[1])
    )
    assert disturbed.memory(1) == copies[1]
    assert peaks.memory_ms(1e9, within=50) == pytest.approx(100)
    assert peaks.gemm_ms(2e9, "fp16") == pytest.approx(1000)
    assert peaks.rate("int8") == gemm
    with pytest.raises(UsageError, match="matrix products"):
        Peaks(threads=1, gemm=(), bandwidth=copies)


def test_a_copy_copies_everything_and_keeps_to_its_working_set() -> None:
    for size in (1 << 10, 1 << 15, 1 << 20):
        copy = _Copy(size)
        copy.run()
        assert (copy._target == copy._source).all()
        assert copy._source.nbytes <= size
        assert copy.copied >= copy._source.nbytes // 2
        assert copy._to.strides[0] > copy._to.strides[1] > 0  # numpy goes along the smallest step first


def test_two_threads_copy_as_much_each() -> None:
    (one,) = bandwidths(threads=2, seconds=0.01, working_sets=(1 << 16,))
    assert one.bytes_per_second > 1e7
    assert one.runs >= 3


def test_a_model_written_as_bytes_is_the_one_that_onnx_reads() -> None:
    onnx = pytest.importorskip("onnx")
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = onnx_bytes.model(
        [onnx_bytes.node("MatMul", ("x", "w"), "y")],
        given=("x", "float32", (300, 2)),
        made=("y", "float32", (300, 3)),
        constants={"w": weight},
    )
    read = onnx.load_from_string(content)
    onnx.checker.check_model(read, full_check=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(read.graph.initializer[0]), weight)
    assert read.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 300


def test_bytes_of_weights_and_activations_are_known_in_every_precision() -> None:
    assert set(BYTES) == set(typing.get_args(Precision))
    assert all(weight <= activation for weight, activation in BYTES.values())
