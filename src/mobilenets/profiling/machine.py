"""What the machine can do: matrix products through the engines, and copies of memory. Run in a process of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..errors import UsageError
from ..records import Precision
from ..runtime.engines.onnx_runtime import session_options
from ..runtime.engines.open_vino import cpu_options, import_openvino
from . import onnx_bytes
from .records import Bandwidth, Gemm

__all__ = ["EDGE", "WORKING_SETS", "bandwidths", "gemms", "operator_ms"]

EDGE: Final = 1024  # of the matrices: large enough that packing them does not count
CHAIN: Final = 32  # convolutions one after another
WIDTH: Final = 16  # their channels
MIB: Final = 1 << 20
WORKING_SETS: Final = tuple(k * MIB // 4 for k in (1, 4, 16, 64, 256, 1024))  # a first-level cache to plain memory
MEMORY_SHARE: Final = 4  # at most a quarter of the machine's memory is taken
COPIED_AT_ONCE: Final = 64 * MIB  # by each thread, however small the working set: threads start in microseconds
NUMBER: Final = 8  # bytes
STEP: Final = 8  # numbers in a cache line
LEAST_RUNS: Final = 3


def gemms(engine: str, *, threads: int, seconds: float, edge: int = EDGE) -> tuple[Gemm, ...]:
    """Square matrix products, in every precision that the engine has here.

    Args:
        engine: "onnxruntime" or "openvino".
        threads: of the engine.
        seconds: for each precision.
        edge: of the matrices.

    Raises:
        UsageError: another engine.
    """
    makers = {"onnxruntime": _onnxruntime_products, "openvino": _openvino_products}
    if engine not in makers:
        raise UsageError(f"matrix products by {engine}", wanted=" or ".join(makers), do="name one of these")
    found = []
    for precision, once in makers[engine](threads=threads, edge=edge).items():
        best, runs = _best_seconds(once, seconds=seconds)
        found.append(
            Gemm(engine=engine, precision=precision, mult_adds_per_second=edge**3 / best, edge=edge, runs=runs)
        )
    return tuple(found)


def operator_ms(engine: str, *, threads: int, seconds: float) -> float:
    """What an operator takes that has next to nothing to do: a 1x1 convolution of 16 channels on 4x4 pixels, one of 32.

    Raises:
        UsageError: another engine.
    """
    makers = {"onnxruntime": _onnxruntime_chain, "openvino": _openvino_chain}
    if engine not in makers:
        raise UsageError(f"operators of {engine}", wanted=" or ".join(makers), do="name one of these")
    best, _ = _best_seconds(makers[engine](threads=threads), seconds=seconds)
    return 1000 * best / CHAIN


def bandwidths(*, threads: int, seconds: float, working_sets: tuple[int, ...] = WORKING_SETS) -> tuple[Bandwidth, ...]:
    """Copies of memory, each thread its own part, by the bytes that source and target have together.

    Args:
        threads: that copy at the same time.
        seconds: for each working set.
        working_sets: bytes; those beyond a quarter of the machine's memory are left out.
    """
    found: list[Bandwidth] = []
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for size in working_sets:
            if size > _memory_bytes() / MEMORY_SHARE and found:
                break
            copies = [_Copy(size // (2 * threads)) for _ in range(threads)]
            best, runs = _best_seconds(lambda: list(pool.map(_Copy.run, copies)), seconds=seconds)  # noqa: B023
            moved = sum(2 * copy.copied for copy in copies)
            found.append(Bandwidth(working_set_bytes=size, bytes_per_second=moved / best, runs=runs))
    return tuple(found)


class _Copy:
    """Copies some bytes to others again and again, in one call that does not hold Python's lock.

    Each time a cache line further on: numpy's loops go along the smallest step first, so that with a step of nothing it
    would copy every number many times before the next.

    Args:
        size: bytes of the source and, once more, of the target.
    """

    def __init__(self, size: int) -> None:
        count = max(size // NUMBER * 2 // 3, 2 * STEP)
        times = max(1, min(COPIED_AT_ONCE // (NUMBER * count), count // (2 * STEP)))  # the steps are the last third
        whole = count + STEP * (times - 1)
        self._source, self._target = np.ones(whole), np.zeros(whole)
        shape, strides = (times, count), (NUMBER * STEP, NUMBER)
        self._from = as_strided(self._source, shape, strides)
        self._to = as_strided(self._target, shape, strides, writeable=True)
        self.copied = NUMBER * count * times

    def run(self) -> None:
        np.copyto(self._to, self._from)


def _best_seconds(once: Callable[[], Any], *, seconds: float) -> tuple[float, int]:
    """The shortest of several runs, for other work only ever makes a run longer; and how many there were."""
    once()
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < LEAST_RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best, runs


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):  # not on Windows
        return float("inf")


def _onnxruntime_products(*, threads: int, edge: int) -> dict[Precision, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((2, edge, edge)).astype(np.float32)
    bytes_ = rng.integers(0, 255, (edge, edge), dtype=np.uint8)
    weights = rng.integers(-127, 128, (edge, edge), dtype=np.int8)
    shape = (edge, edge)
    one = onnx_bytes.model(
        [onnx_bytes.node("MatMul", ("x", "w"), "y")],
        given=("x", "float32", shape),
        made=("y", "float32", shape),
        constants={"w": floats[1]},
    )
    other = onnx_bytes.model(
        [onnx_bytes.node("MatMulInteger", ("x", "w"), "y")],
        given=("x", "uint8", shape),
        made=("y", "int32", shape),
        constants={"w": weights},
    )
    return {
        "fp32": _session(one, floats[0], precision="fp32", threads=threads),
        "int8": _session(other, bytes_, precision="int8", threads=threads),
    }


def _onnxruntime_chain(*, threads: int) -> Callable[[], Any]:
    weight = np.eye(WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH, 1, 1)
    shape = (1, WIDTH, 4, 4)
    chain = onnx_bytes.model(
        [onnx_bytes.node("Conv", (f"x{k}", "w"), f"x{k + 1}") for k in range(CHAIN)],
        given=("x0", "float32", shape),
        made=(f"x{CHAIN}", "float32", shape),
        constants={"w": weight},
    )
    return _session(chain, np.ones(shape, np.float32), precision="fp32", threads=threads)


def _session(content: bytes, fed: Any, *, precision: Precision, threads: int) -> Callable[[], Any]:
    import onnxruntime as ort

    session = ort.InferenceSession(
        content, session_options(precision, threads=threads, content=None), providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: fed}
    return lambda: session.run(None, feed)


def _openvino_products(*, threads: int, edge: int) -> dict[Precision, Callable[[], Any]]:
    ov = import_openvino()
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    floats = rng.standard_normal((2, edge, edge)).astype(np.float32)

    def model(*, eight_bits: bool) -> Any:
        given = ops.parameter([edge, edge], np.float32, name="x")
        left, right = given, ops.constant(floats[1])
        if eight_bits:
            # As a quantised file says it: OpenVINO then multiplies bytes.
            left = ops.fake_quantize(left, *_floats(ops, 0, 4, 0, 4), levels=256)
            integers = rng.integers(-127, 128, (edge, edge)).astype(np.int8)
            right = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(np.float32(0.03)))
        return ov.Model([ops.matmul(left, right, False, False)], [given], "peak")

    core = ov.Core()
    kinds: dict[Precision, Any] = {"fp32": model(eight_bits=False), "int8": model(eight_bits=True)}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        kinds["bf16"] = model(eight_bits=False)
    return {
        precision: _request(core, made, floats[0], precision=precision, threads=threads)
        for precision, made in kinds.items()
    }


def _openvino_chain(*, threads: int) -> Callable[[], Any]:
    ov = import_openvino()
    from openvino import opset13 as ops

    weight = np.eye(WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH, 1, 1)
    shape = [1, WIDTH, 4, 4]
    value = given = ops.parameter(shape, np.float32, name="x")
    for _ in range(CHAIN):
        value = ops.convolution(value, ops.constant(weight), [1, 1], [0, 0], [0, 0], [1, 1])
    made = ov.Model([value], [given], "chain")
    return _request(ov.Core(), made, np.ones(shape, np.float32), precision="fp32", threads=threads)


def _request(core: Any, model: Any, fed: Any, *, precision: Precision, threads: int) -> Callable[[], Any]:
    request = core.compile_model(model, "CPU", cpu_options(precision, threads=threads)).create_infer_request()
    return lambda: request.infer({0: fed}, share_inputs=True, share_outputs=True)


def _floats(ops: Any, *values: float) -> list[Any]:
    return [ops.constant(np.float32(value)) for value in values]
