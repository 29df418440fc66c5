from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import ModuleType

import pytest

from mobilenets.bench import Worker, bench, measure, measure_all
from mobilenets.errors import CheckError, FileFormatError, UnknownNameError, UsageError

PATIENCE_SECONDS = 120.0


def gone(pid: int) -> bool:
    """Whether a process ended; its entry may wait for whoever inherits it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until_gone(pid: int) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if gone(pid):
            return True
        time.sleep(0.02)
    return False


def test_a_worker_answers_with_one_latency_per_run(tiny_artifact: Path) -> None:
    with Worker(tiny_artifact, threads=1) as worker:
        assert worker.opened().threads == 1
        latencies = worker.time(runs=5, lead=2)
        assert len(latencies) == 5
        assert min(latencies) > 0
        pid = worker.pid
    with pytest.raises(ProcessLookupError):  # ended and waited for: not even a zombie
        os.kill(pid, 0)


def test_closing_twice_is_allowed(tiny_artifact: Path) -> None:
    worker = Worker(tiny_artifact)
    worker.close()
    worker.close()


def test_an_artifact_that_cannot_be_opened_is_named_by_the_same_error(tiny: ModuleType, tmp_path: Path) -> None:
    good = tiny.make_artifact(tmp_path / "good")
    bad = tiny.write_artifact(tmp_path / "bad", b"not a model", labels=("a",))
    with pytest.raises(FileFormatError, match=r"bad.*model\.onnx cannot be opened"):
        measure_all([good, bad], seconds=0.1)
    with pytest.raises(FileFormatError, match="nothing at"):
        bench([good, tmp_path / "absent"], seconds=0.1)
    with pytest.raises(UsageError, match=r"good.*'onnx' is not known") as caught:
        measure(good, engine="onnx")
    assert not isinstance(caught.value, UnknownNameError)


def test_a_worker_that_dies_is_reported_with_its_artifact(tiny_artifact: Path) -> None:
    with Worker(tiny_artifact) as worker:
        worker.opened()
        os.kill(worker.pid, signal.SIGSEGV)
        with pytest.raises(CheckError, match=r"tiny: the process that measured it died \(signal 11\)"):
            worker.time(runs=1)


def test_a_worker_that_is_silent_for_too_long_is_ended(tiny_artifact: Path) -> None:
    with Worker(tiny_artifact, reply_seconds=0.01) as worker:
        with pytest.raises(CheckError, match="signal 9"):
            worker.opened()
        assert gone(worker.pid)


def test_a_worker_ends_by_itself_when_its_parent_is_killed(tiny_artifact: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from mobilenets.bench import Worker

        worker = Worker(Path(sys.argv[1]))
        worker.opened()
        print(worker.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny_artifact)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    assert wait_until_gone(pid)


def test_ctrl_c_ends_the_workers(tiny_artifact: Path) -> None:
    code = """
        import signal, sys
        from pathlib import Path
        from mobilenets.bench import measure_all, pool

        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run behind a shell's &
        start = pool.Worker.opened
        def opened(self):
            print(self.pid, flush=True)
            return start(self)
        pool.Worker.opened = opened

        try:
            measure_all([Path(sys.argv[1])] * 2, threads=1, seconds=60)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny_artifact)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = set()
        while len(pids) < 2:
            pids.add(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGINT)
        assert parent.stdout.read().endswith("interrupted\n")
    assert all(gone(pid) for pid in pids)
