"""Pruned to half of the mult-adds and trained on: accuracy, and measured speed beside the network it came from.

python benchmarks/prune_cifar10.py DATA BUNDLE... [--mult-adds 0.5x] [--steps N] [--epochs E] [--control] [--out DIR]

DATA has train/ and test/ with one folder of images per class (or is a data set's name); the BUNDLEs were trained on it.
For each: all of test/ judges the network before and after, both are exported through the gate, and timed in turn in
one run, each in a process of its own. --control trains the whole network for as many epochs with the same recipe, so
that what the training alone is worth is not taken for the pruning's. Options beyond these go to `mobilenets prune`.
With an --out that holds parts of the same run, these are not made again.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import append

FINE_TUNE_LR = "0.1"  # as `mobilenets prune` has it, for the control


def run(*words: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "mobilenets", *words, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def judged(bundle: str, data: str) -> dict:
    said = run("val", bundle, data, "--split", "test")
    return {"n": said["n"], "top1": 100 * said["top1"], "top1_95": [100 * said["top1_low"], 100 * said["top1_high"]]}


def exported(bundle: str, data: str, out: Path) -> str:
    if not (out / "artifact.json").is_file():
        run("export", bundle, "--data", data, "-o", str(out))
    return str(out)


def pruned(bundle: str, data: str, out: Path, options: list[str]) -> dict:
    resume = ["--resume"] if (out / "prune.json").is_file() else []
    return run("prune", bundle, data, *options, *resume, "-o", str(out))


def control(bundle: str, data: str, out: Path, epochs: float) -> dict:
    resume = ["--resume"] if (out / "checkpoint.safetensors").is_file() else []
    run("train", bundle, data, "--epochs", f"{epochs:g}", "--lr", FINE_TUNE_LR, *resume, "-o", str(out))
    return judged(str(out / "best"), data)


def faster(small: str, whole: str, threads: int, seconds: float) -> dict:
    report = run("bench", small, whole, "--threads", str(threads), "--seconds", f"{seconds:g}")
    ratio = {row["metric"]: row["value"] for row in report["rows"] if row["metric"].startswith("latency_ratio")}
    latencies = [row for row in report["rows"] if row["metric"] == "latency_ms"]
    return {
        "times_faster": ratio["latency_ratio"],
        "times_faster_95": [ratio["latency_ratio_low"], ratio["latency_ratio_high"]],
        "latency_ms": {name: row["value"] for name, row in zip(("pruned", "whole"), latencies, strict=True)},
        "iqr_ms": {name: row["spread"] for name, row in zip(("pruned", "whole"), latencies, strict=True)},
        "runs": {name: row["n"] for name, row in zip(("pruned", "whole"), latencies, strict=True)},
        "engine": sorted(set(report["protocol"]["engines"].values())),
        "protocol": {key: value for key, value in report["protocol"].items() if not isinstance(value, dict)},
    }


def one(bundle: str, given: argparse.Namespace, options: list[str], root: Path) -> None:
    out = root / Path(bundle).resolve().parent.name
    told = pruned(bundle, given.data, out / "pruned", options)
    whole, small = judged(bundle, given.data), judged(told["best"], given.data)
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
            "speed": faster(*paths, given.threads, given.seconds),
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
