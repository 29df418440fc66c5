"""Starting, asking and ending the processes that are timed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import msgspec

from ..errors import CheckError
from .replies import error_of

__all__ = ["Entry", "OpenedEngine", "Timed", "Worker"]

REPLY_SECONDS = 300.0  # the slowest thing a worker does is to open a large model on a small board


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be timed, in a process of its own."""

    path: str  # of an artifact; or a name that another worker knows
    engine: str | None = None  # a key of `runtime.ENGINES`; None: the one that suits the artifact
    worker: str = "mobilenets.bench.worker"  # the module that is run
    label: str = ""  # how reports call it, if not by path and engine

    @property
    def name(self) -> str:
        """How reports call it: `rose` or `rose@openvino`."""
        if self.label:
            return self.label
        return self.path if self.engine is None else f"{self.path}@{self.engine}"


class OpenedEngine(msgspec.Struct, frozen=True):
    """The engine that a worker opened, and what the worker tells of the model."""

    engine: str
    version: str
    threads: int
    facts: dict[str, float] = {}
    no_energy: str = ""  # why the machine tells no energy; "": it does


class Timed(msgspec.Struct, frozen=True):
    """Some runs, back to back."""

    latencies_ms: tuple[float, ...]
    joules: float | None = None  # of the whole machine while they lasted; None: it does not tell


@final
class Worker:
    """One artifact, opened in a process of its own and idle between requests. A context manager.

    The process is started here and opens the artifact meanwhile; `opened` waits for that. It is in a session of its
    own, so Ctrl-C on the terminal reaches the parent only, which then ends it; and it ends by itself when the parent
    dies.

    Args:
        what: the artifact, or an entry that says more.
        threads: of the engine; None for the engine's default.
        batch_size: images per run.
        images: files; then all that lies between them and their labels is timed.
        reply_seconds: a worker that is silent for longer is ended and counts as crashed.
    """

    def __init__(
        self,
        what: Path | Entry,
        *,
        threads: int | None = None,
        batch_size: int = 1,
        images: Sequence[Path] = (),
        reply_seconds: float = REPLY_SECONDS,
    ) -> None:
        self.entry = what if isinstance(what, Entry) else Entry(path=str(what))
        self._reply_seconds = reply_seconds
        self._opened: OpenedEngine | None = None
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process; `close` closes it)
        try:
            self._process = subprocess.Popen(
                # -P: a random.py or json.py in the current folder is not meant for the worker.
                [sys.executable, "-P", "-m", self.entry.worker],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                start_new_session=True,
            )
        except BaseException:
            self._noise.close()
            raise
        try:
            self._send(
                {
                    "do": "open",
                    "path": self.entry.path,
                    "threads": threads,
                    "batch_size": batch_size,
                    "engine": self.entry.engine,
                    "images": [str(image) for image in images],
                }
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def opened(self) -> OpenedEngine:
        """Wait until the artifact is open and has answered once.

        Raises:
            UsageError: as `runtime.open_artifact`, with the artifact's path in the message.
            CheckError: the worker crashed.
        """
        if self._opened is None:
            self._opened = msgspec.convert(self._receive(), OpenedEngine)
        return self._opened

    def time(self, *, runs: int, lead: int = 0) -> tuple[float, ...]:
        """The latencies of `timed`, ms."""
        return self.timed(runs=runs, lead=lead).latencies_ms

    def timed(self, *, runs: int, lead: int = 0) -> Timed:
        """Time `runs` runs, back to back, after `lead` runs that are not counted.

        Returns when the worker's threads are at rest again.

        Raises:
            MobileNetsError: as `opened`.
        """
        self.opened()
        self._send({"do": "time", "runs": runs, "lead": lead})
        return msgspec.convert(self._receive(), Timed)

    def answer(self) -> list[list[float]]:
        """Logits for a few pictures, which are the same for every engine of an artifact.

        Raises:
            MobileNetsError: as `opened`.
        """
        self.opened()
        self._send({"do": "answer"})
        logits: list[list[float]] = self._receive()["logits"]
        return logits

    def close(self) -> None:
        """End the process and wait for its end. May be called twice."""
        process = self._process
        try:
            process.kill()  # it holds nothing that would be lost
            process.wait()
        finally:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):  # a request that could no longer be sent
                        stream.close()
            self._noise.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._crashed() from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Ending the process ends the wait: its output closes, and readline returns.
        timer = threading.Timer(self._reply_seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise self._crashed()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise error_of(reply, name=self.entry.label or self.entry.path)
        return reply

    def _crashed(self) -> CheckError:
        self._process.kill()
        code = self._process.wait()
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").strip().splitlines()
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        return CheckError(
            f"{self.entry.name}: the process that measured it died ({why})" + (f": {lines[-1]}" if lines else ""),
            wanted="a model that runs",
            do="try `mobilenets predict` with it; signal 9 may mean that memory ran out or that it took too long",
        )
