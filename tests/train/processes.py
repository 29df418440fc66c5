"""Processes that find each other as those that torchrun starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def started(code: str | list[str], *, world: int, cwd: Path) -> list[str]:
    """Run code, or a module with arguments, in so many processes, and what each has printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *(["-c", code] if isinstance(code, str) else ["-m", *code])]
    processes = []
    for rank in range(world):
        place = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env = {**os.environ, **(place if world > 1 else {}), "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, text=True))
    told = [process.communicate(timeout=1200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * world
    return told
