"""What a process that is timed does: open one model, and answer requests until standard input closes.

Requests and replies are JSON, one a line, on standard input and output:

    {"do": "open", "path": ..., and the rest of `OpenRequest`}  ->  {"engine": ..., "version": ..., ...}
    {"do": "time", "runs": k, "lead": j}  ->  {"latencies_ms": [k values], "joules": what they used, or null}
    {"do": "answer"}          ->  {"logits": the answers to a few pictures, the same for everyone}

A failure is answered by {"error": <its class>, "got": ..., "wanted": ..., "do": ...}. When standard input closes the
worker ends, so it cannot outlive its parent, however that died.

Without images, only the model's answer is timed, back to back, on random pixels that stay the same: a dense network
does the same work whatever it sees. With images it is all that lies between a file and its label.

Spinning. ONNX Runtime's idle threads spin, waiting for the next run, and would take the cores from whichever model is
measured next. Measured with ONNX Runtime 1.31 (2 threads on 2 virtual x86 cores, a MobileNetV1-like
network at 224, medians of 60 runs in one quiet pass; other load shifts them by more than they differ):

    setting                              one run, ms      processor time used after a run, ms
    default                              4.4              30
    session.force_spinning_stop = 1      4.7              0
    session.intra_op.allow_spinning = 0  5.2              0

Others report that the default spins for over a second on some processors. So the engine keeps its default, which is
how it is going to be deployed, and the worker does not answer before its own threads have come to rest. Two such
workers in turn, 15 runs a round, on a quiet machine (medians): without that wait the first three runs of a round took
9.0 ms and the last eight 4.5, the neighbour's spinning being in the way; with it, 4.9 and 4.4, and what is left of
the difference is why the first runs of a round are not counted.

What no protocol can cure: beside one other busy process the same network on those two cores took 16 ms with two
threads (4.4 when alone), which wait for each other, and about 8 with one, as without the neighbour. `--threads 1` is
the setting to compare models with on a shared machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import msgspec

from ..errors import MobileNetsError
from .energy import Meter, find_meter
from .replies import own_output, reply_of

__all__ = ["OpenRequest", "Subject", "serve"]

REST_SLICE_SECONDS = 0.01
REST_SHARE = 0.1  # at rest: less than a tenth of one core in use
REST_LIMIT_SECONDS = 2.0


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be opened, and how."""

    path: str  # of an artifact, or whatever else the worker knows by name
    threads: int | None  # None: the engine's default
    batch_size: int
    engine: str | None  # None: the one that suits the artifact
    images: tuple[str, ...]  # files; none: the answer alone is timed


@dataclass(frozen=True)
class Subject:
    """A model, ready to be timed."""

    engine: str
    version: str
    threads: int
    once: Callable[[], Any]  # one batch
    answer: Callable[[], list[list[float]]]  # logits for a few pictures
    facts: dict[str, float] = field(default_factory=dict)  # what the report says beside the latency


def serve(opener: Callable[[OpenRequest], Subject]) -> None:
    """Answer requests until standard input closes."""
    replies = own_output()
    try:
        _serve(sys.stdin, replies, opener)
    except BrokenPipeError:
        os._exit(0)  # the parent is gone; nothing is left to flush


def _serve(requests: TextIO, replies: TextIO, opener: Callable[[OpenRequest], Subject]) -> None:
    subject: Subject | None = None
    meter = find_meter()
    for line in requests:
        request = json.loads(line)
        what = request.pop("do")
        try:
            if what == "open":
                subject = opener(msgspec.convert(request, OpenRequest))
                subject.once()
                _rest()
                reply: dict[str, Any] = {
                    "engine": subject.engine,
                    "version": subject.version,
                    "threads": subject.threads,
                    "facts": subject.facts,
                    "no_energy": meter if isinstance(meter, str) else "",
                }
            elif what == "time" and subject is not None:
                latencies, joules = _time(subject.once, runs=request["runs"], lead=request["lead"], meter=meter)
                reply = {"latencies_ms": latencies, "joules": joules}
                _rest()
            elif what == "answer" and subject is not None:
                reply = {"logits": subject.answer()}
                _rest()
            else:
                raise ValueError(f"no such request at this point: {line!r}")
        except MobileNetsError as error:
            reply = reply_of(error)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _time(once: Callable[[], Any], *, runs: int, lead: int, meter: Meter | str) -> tuple[list[float], float | None]:
    """Latencies of `runs` runs, ms, after `lead` runs that wake the threads and refill the caches; and the joules that
    the machine used meanwhile, where it tells."""
    clock = time.perf_counter_ns
    for _ in range(lead):
        once()
    before = _reading(meter)
    latencies = []
    for _ in range(runs):
        start = clock()
        once()
        latencies.append((clock() - start) / 1e6)
    after = _reading(meter)
    if isinstance(meter, str) or before is None or after is None:
        return latencies, None
    return latencies, meter.joules(before, after)


def _reading(meter: Meter | str) -> tuple[int, ...] | None:
    """What the counters say; None where there are none, or no longer."""
    if isinstance(meter, str):
        return None
    try:
        return meter.read()
    except (OSError, ValueError):
        return None


def _rest() -> None:
    """Wait until this process's threads use no processor time, two seconds at most."""
    give_up = time.perf_counter() + REST_LIMIT_SECONDS
    while time.perf_counter() < give_up:
        used, started = time.process_time(), time.perf_counter()
        time.sleep(REST_SLICE_SECONDS)
        if time.process_time() - used < REST_SHARE * (time.perf_counter() - started):
            return
