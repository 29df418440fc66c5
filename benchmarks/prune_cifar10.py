"""Pruned to half of the mult-adds and trained on: accuracy, and measured speed beside the network it came from.

python benchmarks/prune_cifar10.py DATA BUNDLE... [--mult-adds 0.5x] [--steps N] [--epochs E] [--control] [--out DIR]

DATA has train/ and test/ with one folder of images per class (or is a data set's name); the BUNDLEs were trained on it.
For each: all of test/ judges the network before and after, both are exported through the gate, and timed in turn in
one run, each in a process of its own. --control trains the whole network for as many epochs with the same recipe, so
that what the training alone is worth is not taken for the pruning's. Options beyond these go to `mobilenets prune`.
With an --out that holds parts of the same run, these are not made again.
"""

import argparse
import shlex
import tempfile
from pathlib import Path

from rows import append
from runs import judged, run, trained
from verbs import exported, faster

FINE_TUNE_LR = "0.1"  # as `mobilenets prune` has it, for the control


def pruned(bundle: str, data: str, out: Path, options: list[str]) -> dict:
    resume = ["--resume"] if (out / "prune.json").is_file() else []
    told, _ = run("prune", bundle, data, *options, *resume, "-o", str(out))
    return told


def control(bundle: str, data: str, out: Path, epochs: float) -> dict:
    trained(out, "train", bundle, data, "--epochs", f"{epochs:g}", "--lr", FINE_TUNE_LR)
    return judged(out / "best", data)


def one(bundle: str, given: argparse.Namespace, options: list[str], root: Path) -> None:
    out = root / Path(bundle).resolve().parent.name
    told = pruned(bundle, given.data, out / "pruned", options)
    whole, small = judged(Path(bundle), given.data), judged(Path(told["best"]), given.data)
    total = given.steps * given.epochs
    beside = control(bundle, given.data, out / "control", total) if given.control and total else None
    paths = [exported(b, given.data, out / name) for b, name in ((told["best"], "small"), (bundle, "whole"))]
    append(
        "prune_cifar10",
        {
            "command": shlex.join(["mobilenets", "prune", Path(bundle).name, Path(given.data).name, *options]),
            "model": told["model"],
            "parent": told["parent"],
            "before": told["before"],
            "after": told["after"],
            "share": {of: told["after"][of] / told["before"][of] for of in ("mult_adds", "parameters", "size_mb")},
            "validation_steps": told["steps"],
            "test": {"whole": whole, "pruned": small, "whole_trained_as_long": beside},
            "points_lost": round(whole["top1"] - small["top1"], 2),
            "speed": faster(*paths, names=("pruned", "whole"), threads=given.threads, seconds=given.seconds),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--mult-adds", default="0.5x")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--out", type=Path)
    given, more = parser.parse_known_args()
    options = ["--mult-adds", given.mult_adds, "--steps", str(given.steps)]
    options += ["--epochs", f"{given.epochs:g}"] if given.epochs else []
    with tempfile.TemporaryDirectory() as folder:
        for bundle in given.bundles:
            one(bundle, given, [*options, *more], given.out or Path(folder))


if __name__ == "__main__":
    main()
