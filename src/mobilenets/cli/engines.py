"""The option `--engine`, which several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["ENGINE_HELP", "engine_for"]

# Written out: `--help` imports no table.
ENGINE_HELP: Final = (
    "onnxruntime, openvino, litert, executorch or torch; auto: the fastest here, measured once."
    "  [default: the one for the format]"
)


def engine_for(path: Path, asked: str | None, *, threads: int | None) -> str | None:
    """The engine that an option means for an artifact; None: the one that suits its format.

    What `auto` finds is told on standard error.

    Raises:
        UnknownNameError: no such engine.
        MobileNetsError: `auto`, and as `bench.fastest_engine`.
    """
    from ..runtime import ENGINES

    if asked is None or asked in ENGINES:
        return asked
    if asked != "auto":
        from ..errors import UnknownNameError

        raise UnknownNameError("engine", asked, known=(*ENGINES, "auto"))
    from ..bench import fastest_engine
    from ..progress import say

    choice = fastest_engine(path, threads=threads)
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(choice.latency_ms.items(), key=lambda kv: kv[1]))
    left_out = "".join(f"; not {name}: {why}" for name, why in choice.refused.items())
    say(f"{path}: {choice.engine}" + (f" ({times})" if times else "") + left_out)
    return choice.engine
