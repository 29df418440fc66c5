"""What every engine checks: the pixels that come in, and the logits that go out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FileFormatError, UsageError
from ...records import Artifact

__all__ = ["cannot_open", "check_logits", "check_pixels", "check_tensors", "fails_on"]


def check_pixels(pixels: NDArray[Any], *, artifact: Artifact) -> None:
    """Refuse what the model was not made for.

    Raises:
        UsageError: not an array, not uint8, or not (N, R, R, C) with N >= 1.
    """
    side, channels = artifact.preprocess.resolution, artifact.preprocess.channels
    wanted = f"uint8 (N, {side}, {side}, {channels}) with N >= 1"
    if not isinstance(pixels, np.ndarray):
        raise UsageError(f"pixels is a {type(pixels).__name__}", wanted=f"an array {wanted}", do="use images.load")
    if pixels.dtype != np.uint8:
        raise UsageError(
            f"pixels are {pixels.dtype}",
            wanted=f"{wanted}: values 0 to 255, the model scales them itself",
            do="use images.load, and do not normalise",
        )
    if pixels.ndim != 4 or pixels.shape[1:] != (side, side, channels) or not len(pixels):
        do = "add the batch axis: pixels[None]" if pixels.shape == (side, side, channels) else "use images.load"
        raise UsageError(f"pixels have the shape {pixels.shape}", wanted=wanted, do=do)


def check_logits(logits: NDArray[Any], *, count: int, artifact: Artifact) -> NDArray[np.float32]:
    """The logits (count, classes), if that is what they are.

    Raises:
        FileFormatError: the model answers in another shape or type.
    """
    if logits.shape != (count, len(artifact.labels)) or logits.dtype != np.float32:
        raise FileFormatError(
            f"{artifact.file} answers {logits.dtype} {logits.shape} to a batch of {count}",
            wanted=f"logits float32 ({count}, {len(artifact.labels)})",
            do="export it again",
        )
    return logits


def check_tensors(
    *, artifact: Artifact, inputs: dict[str, str], outputs: dict[str, str], pixels: str, logits: str
) -> None:
    """The record and the file agree on names and types.

    Args:
        artifact: the record.
        inputs: of the file, name -> type as the engine writes it.
        outputs: likewise; more than the record's are allowed.
        pixels: how the engine writes uint8.
        logits: how it writes float32.

    Raises:
        FileFormatError: they do not.
    """
    for side, got, wanted in (
        ("inputs", inputs, {artifact.input_name: pixels}),
        ("outputs", outputs, {artifact.output_name: logits}),
    ):
        agrees = got == wanted if side == "inputs" else wanted.items() <= got.items()
        if not agrees:
            raise FileFormatError(
                f"{artifact.file} has the {side} {got}", wanted=f"{wanted} as artifact.json says", do="export it again"
            )


def cannot_open(artifact: Artifact, why: str, *, wanted: str, do: str = "export it again") -> FileFormatError:
    """The error to raise when the engine's library refuses a file: `why` is what it says, `wanted` what it runs."""
    return FileFormatError(f"{artifact.file} cannot be opened: {why}", wanted=wanted, do=do)


def fails_on(count: int, artifact: Artifact, why: str) -> FileFormatError:
    """The error to raise when a file that was opened fails on a batch of `count` images."""
    return FileFormatError(
        f"{artifact.file} fails on a batch of {count}: {why}",
        wanted="a model that answers batches of any size",
        do="export it again; if memory ran out, use a smaller batch",
    )
