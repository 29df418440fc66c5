"""What our own layers are worth in a training step on a CPU: each left out in turn.

python benchmarks/train_step.py [MODEL ...] [--precision bf16|fp32] [--steps N] [--threads T] [--answers] [--side S]

One process; steps of 128 images (of 32 pixels) on one network, with all of our layers, and with one of them as PyTorch
has it: norm and activation (`nets/norm_act.py`; ours is for bfloat16), the backward pass of depthwise convolutions
(`nets/depthwise.py`), the weight gradient of full ones, the gates of squeeze-and-excite as matrix products (both
`nets/full.py`), the mean over a map (`nets/parts.py`).
"full_everywhere" is with our weight gradient for all full convolutions, on any processor and map, instead of where the
rule there says so. With --answers it is no step but the forward pass of validation, teachers and frozen rows, with
convolution, norm and activation in one and without (`nets/folded.py`). Steps take turns; processor time is compared,
which other work disturbs less than the clock.
"""

import argparse
import contextlib
import statistics
import time
from unittest import mock

import torch
from rows import NETWORKS, append

from mobilenets import nets
from mobilenets.arch import cost
from mobilenets.nets import depthwise, full, parts
from mobilenets.train.choose import spec_for
from mobilenets.train.machine import keep_freed_memory, lower_precision

BATCH = 128
WARM_UP = 2  # turns
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}

WITHOUT = {
    "all": contextlib.nullcontext(),
    "norm_act": mock.patch.object(parts, "norm_act", lambda inputs, norm, act: act(norm(inputs))),
    "depthwise": mock.patch.object(depthwise, "_has_fast_backward", return_value=False),
    "full": mock.patch.object(full, "_is_slow", return_value=False),
    "gates": mock.patch.object(full, "_is_product", return_value=False),
    "mean": mock.patch.object(parts.GlobalMean, "forward", torch.nn.AdaptiveAvgPool2d.forward),
    "full_everywhere": mock.patch.object(full, "_is_slow", return_value=True),
}
WITHOUT_IN_ANSWERS = {
    "all": contextlib.nullcontext(),
    "folded": mock.patch.object(parts, "folded", return_value=None),
}


def seconds_of(model: str, given: argparse.Namespace) -> tuple[dict[str, list[float]], dict]:
    spec = spec_for(model, native_side=given.side, classes=10)
    torch.manual_seed(0)
    network = nets.build(spec).to(memory_format=torch.channels_last).train(not given.answers)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    images = torch.randn(BATCH, 3, given.side, given.side).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (BATCH,))

    def forward() -> torch.Tensor:
        with lower_precision(PRECISIONS[given.precision], torch.device("cpu")):
            return network(images)

    def step() -> None:
        torch.nn.functional.cross_entropy(forward().float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    ways, once = (WITHOUT_IN_ANSWERS, torch.inference_mode()(forward)) if given.answers else (WITHOUT, step)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(WARM_UP + given.steps):
        for name, without in ways.items():
            with without:
                begun = time.process_time()
                once()
                if turn >= WARM_UP:
                    found[name].append(time.process_time() - begun)
    return found, {"model": spec.name, "mult_adds": cost(spec).mult_adds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answers", action="store_true", help="the forward pass of evaluation alone")
    parser.add_argument("--side", type=int, default=32, help="of the images, in pixels")
    given = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    for model in given.models or NETWORKS:
        found, about = seconds_of(model, given)
        middle = {name: statistics.median(values) for name, values in found.items()}
        append(
            "train_step",
            {
                **about,
                "what": "answers" if given.answers else "steps",
                "precision": given.precision,
                "batch": BATCH,
                "threads": given.threads,
                "steps": given.steps,
                "images_per_second": round(BATCH / middle["all"], 1),
                "lowest_highest": [round(BATCH / pick(found["all"]), 1) for pick in (max, min)],
                "times_faster_than_without": {
                    name: round(value / middle["all"], 3) for name, value in middle.items() if name != "all"
                },
            },
        )


if __name__ == "__main__":
    main()
