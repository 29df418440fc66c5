"""`torch.export` program -> ExecuTorch, in a process of its own: torch and executorch are all it imports.

    python executorch_worker.py lower  PROGRAM.pt2 FACTS.json MODEL.pte
    python executorch_worker.py answer MODEL.pte PIXELS.npy LOGITS.npy

It may be run by the Python of another environment, where this package is not installed: it imports nothing of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["FACTS_METHOD", "answer", "lower", "main"]

FACTS_METHOD = "mobilenets"  # a method of the file that returns its facts: a JSON object as bytes


def main() -> None:
    """Do what the arguments say."""
    commands = {"lower": lower, "answer": answer}
    commands[sys.argv[1]](*(Path(argument) for argument in sys.argv[2:]))


def lower(program: Path, facts: Path, model: Path) -> None:
    """Write the `.pte` file of a program; what XNNPACK does goes to XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    told = torch.frombuffer(bytearray(facts.read_bytes()), dtype=torch.uint8)
    lowered = to_edge_transform_and_lower(
        torch.export.load(program), partitioner=[XnnpackPartitioner()], constant_methods={FACTS_METHOD: told}
    )
    model.write_bytes(lowered.to_executorch().buffer)


def answer(model: Path, pixels: Path, logits: Path) -> None:
    """Write the logits float32 (N, classes) for pixels uint8 (N, R, R, C), both as numpy's files."""
    import numpy as np
    import torch
    from executorch.runtime import Runtime

    forward = Runtime.get().load_program(model).load_method("forward")
    images = np.load(pixels)
    answers = [forward.execute([torch.from_numpy(image[None].copy())])[0].numpy().copy() for image in images]
    np.save(logits, np.concatenate(answers))


if __name__ == "__main__":
    main()
