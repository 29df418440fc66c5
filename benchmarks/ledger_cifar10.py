"""The ledger on trained networks: what each step brought, and start against end in accuracy, size and speed.

python benchmarks/ledger_cifar10.py CIFAR BUNDLE... [--epochs E[,E...]] [--threads N] [--seconds S] [--out DIR] ...

CIFAR has train/ and test/ with one folder of images per class (or is a data set's name); the BUNDLEs were trained on
it. --epochs is one number for all of them, or one for each. Options beyond these go to `mobilenets compress`; without a
bound among them it is half of the mult-adds. The artifacts at the start and at the end are then judged on all of test/
and timed in turn in one run, each in a process of its own. With an --out that holds parts of the same run, these are
not made again.
"""

import argparse
import json
import shlex
import subprocess
import tempfile
from pathlib import Path

from rows import append
from runs import judged, run
from verbs import faster

BOUNDS = ("--mult-adds", "--parameters", "--size-mb", "--latency-ms")


def compressed(bundle: str, data: str, out: Path, options: list[str]) -> dict:
    """The ledger; also where the bound is not kept, which is exit code 1 and a result like any other."""
    resume = ["--resume"] if (out / "ledger.json").is_file() else []
    try:
        told, _ = run("compress", bundle, data, *options, *resume, "-o", str(out))
    except subprocess.CalledProcessError as error:
        if error.returncode != 1 or not (told := json.loads(error.stdout)).get("finished"):
            raise
    return told


def step_of(line: dict) -> dict:
    """A line of the ledger with the numbers that a table wants."""
    now = line["measured"]
    told = {key: line[key] for key in ("step", "verdict", "why")}
    if now is None:
        return told
    times = {
        key: None if now[key] is None else now[key]["value"] for key in ("faster_than_before", "faster_than_start")
    }
    numbers = {key: now[key] for key in ("precision", "mult_adds", "parameters", "size_mb")}
    return {**told, **numbers, "val_top1": 100 * now["val"]["top1"], "val_images": now["val"]["n"], **times}


def one(bundle: str, given: argparse.Namespace, options: list[str], root: Path) -> None:
    out = root / Path(bundle).resolve().parent.name
    told = compressed(bundle, given.data, out, options)
    first, last = told["lines"][0]["measured"], told["lines"][told["standing"]]["measured"]
    paths = {"end": out / "artifact", "start": out / first["artifact"]}
    test = {name: judged(path, given.data) for name, path in paths.items()}
    append(
        "ledger_cifar10",
        {
            "command": shlex.join(["mobilenets", "compress", Path(bundle).name, Path(given.data).name, *options]),
            "model": told["plan"]["model"],
            "steps": [step_of(line) for line in told["lines"]],
            "precision": last["precision"],
            "size_mb": {"start": first["size_mb"], "end": last["size_mb"]},
            "times_smaller": first["size_mb"] / last["size_mb"],
            "mult_adds_share": last["mult_adds"] / first["mult_adds"],
            "bound_not_kept": told["over"],
            "test": test,
            "points_lost": round(test["start"]["top1"] - test["end"]["top1"], 2),
            "speed": faster(
                *map(str, paths.values()), names=("end", "start"), threads=given.threads, seconds=given.seconds
            ),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data")
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--epochs", help="of each training; compress's own default where it is not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path)
    given, more = parser.parse_known_args()
    bound = [] if any(word.partition("=")[0] in BOUNDS for word in more) else ["--mult-adds", "0.5x"]
    options = [*bound, *more, "--threads", str(given.threads)]
    epochs = given.epochs.split(",") if given.epochs else [None]
    if len(epochs) == 1:
        epochs *= len(given.bundles)
    if len(epochs) != len(given.bundles):
        parser.error(f"--epochs has {len(epochs)} numbers for {len(given.bundles)} bundles: give one, or one for each")
    with tempfile.TemporaryDirectory() as folder:
        for bundle, length in zip(given.bundles, epochs, strict=True):
            its = ["--epochs", length] if length else []
            one(bundle, given, [*its, *options], given.out or Path(folder))


if __name__ == "__main__":
    main()
