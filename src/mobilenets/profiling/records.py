"""What is measured of a network's parts, and of the machine."""

from __future__ import annotations

import msgspec

from ..errors import UsageError
from ..records import Precision

__all__ = ["Bandwidth", "Gemm", "OperatorTime", "Operators", "Part", "Peaks", "Profile"]


class OperatorTime(msgspec.Struct, frozen=True, kw_only=True):
    """One operator as an engine ran it, the mean over the runs of a profile."""

    name: str  # the engine's, which begins with the table's where it comes from there
    kind: str  # what it does, in the engine's words: "Conv", "ReorderInput"
    part: str  # "input", "rows.3", "head"; "" for what belongs to none
    ms: float
    moved_bytes: int  # activations that it reads and writes
    numbers: str = ""  # the type of what it reads, where the engine tells it: "float32", "uint8"
    fell_back: bool = False  # the engine's plain kernel, for it has no fast one


class Operators(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine tells of its operators, for one batch."""

    engine: str
    version: str
    threads: int
    latency_ms: float  # median, without the profiler
    profiled_ms: float  # mean of the runs that the operators' times are the means of
    runs: int
    operators: tuple[OperatorTime, ...]  # in the order in which they ran


class Gemm(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a large matrix product is: the best of several runs."""

    engine: str
    precision: Precision
    mult_adds_per_second: float
    edge: int  # of the square matrices
    runs: int


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """How fast memory is copied, read and written bytes together: the best of several runs."""

    working_set_bytes: int  # source and target of all threads
    bytes_per_second: float
    runs: int


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine can do with so many threads.

    Raises:
        UsageError: there is no matrix product or no copy among them.
    """

    threads: int
    gemm: tuple[Gemm, ...]
    bandwidth: tuple[Bandwidth, ...]  # the smallest working set first
    operator_ms: dict[str, float] = {}  # engine -> a convolution that has next to nothing to do

    def __post_init__(self) -> None:
        if not self.gemm or not self.bandwidth:
            raise UsageError(
                f"peaks of {len(self.gemm)} matrix products and {len(self.bandwidth)} copies",
                wanted="at least one of each",
                do="measure them with measure_peaks",
            )

    def rate(self, precision: Precision) -> Gemm:
        """The fastest matrix product in a precision; in float32 where none was measured in it.

        fp16 is storage here and is computed in float32.
        """
        same = [each for each in self.gemm if each.precision == precision]
        plain = [each for each in self.gemm if each.precision == "fp32"]
        return max(same or plain or self.gemm, key=lambda each: each.mult_adds_per_second)

    def memory(self, working_set_bytes: float) -> Bandwidth:
        """The fastest copy within at least so many bytes; beyond all, the largest.

        What holds more is no faster than what holds less, so a smaller working set that was slower was disturbed.
        """
        holding = [each for each in self.bandwidth if each.working_set_bytes >= working_set_bytes]
        return max(holding or self.bandwidth[-1:], key=lambda each: each.bytes_per_second)

    def gemm_ms(self, mult_adds: float, precision: Precision) -> float:
        """The least time for so many products."""
        return 1000 * mult_adds / self.rate(precision).mult_adds_per_second

    def memory_ms(self, moved_bytes: float, *, within: float) -> float:
        """The least time to read and write so many bytes that lie within so many."""
        return 1000 * moved_bytes / self.memory(within).bytes_per_second


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table as it ran; or the input, the head, or what lies outside the rows."""

    part: str  # "rows.3", "head", "input", "outside"
    what: str  # in words: "bottleneck 72 -> 24, 28x28"
    ms: float
    share: float  # of the profiled time, in [0, 1]
    operators: int
    mult_adds: int  # for the whole batch
    needed_bytes: int  # weights and activations that the layers of the table read and write
    moved_bytes: int  # weights of the table, and activations that the engine's operators read and wrote
    roofline_ms: float  # the least time: products at the peak or bytes at the memory's speed, layer by layer
    reason: str


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one network goes. The parts' times sum to `profiled_ms`."""

    name: str
    format: str
    precision: Precision
    batch_size: int
    engine: str
    version: str
    threads: int
    cpu: str
    runs: int
    latency_ms: float  # median, without the profiler
    profiled_ms: float
    roofline_ms: float  # of the rows and the head together; 0 without a table
    table: bool  # whether the artifact's table is known; without, parts are kinds of operators
    parts: tuple[Part, ...]  # worst first, what lies outside the rows last
    operators: tuple[OperatorTime, ...]
    peaks: Peaks
