"""How accurate a MobileNet is on CIFAR-10 after some minutes of training on this machine, with several seeds.

python benchmarks/cifar10.py CIFAR_FOLDER [--minutes 20] [--alpha A] [--fine] [--seeds 0,1,2] [--threads T] ...
python benchmarks/cifar10.py CIFAR_FOLDER --weights CHECKPOINT [--resolution R] ...

CIFAR_FOLDER has train/ and test/ with one folder of images per class; 100 images of each class of train/ are held back
for validation, for every image that is not learned from costs accuracy.
From nothing the network is `mobilenet_v4_fused`, nearly all of whose time goes into large matrix products, and
`mobilenets train` gets its table as a file. From weights that know photos (anything that `mobilenets import` takes) it
is theirs, with the default recipe, and images are enlarged. The time is --time (validation included); all of test/
judges the weights at the end. What is in --out is not trained again.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import msgspec
from rows import append
from runs import judged, linked, run, trained

from mobilenets.arch import ArchSpec, FusedRow, compose

RECIPE = (
    "optimizer=muon",
    "batch_size=256",
    "schedule=linear",
    "warmup=0.1",
    "ema=0.03",
    "label_smoothing=0.2",
    "crop_padding=0.0625",
    "dropout=0",
)
IMAGES, VALIDATION = 4900, 100  # of each class


def table(alpha: float, *, fine: bool) -> ArchSpec:
    """The network, for ten classes.

    Args:
        alpha: width multiplier.
        fine: 32 channels on maps of 32 pixels whatever the width, and another row for them.
    """
    spec = compose("mobilenet_v4_fused", alpha=alpha, classes=10)
    if not fine:
        return spec
    first = compose("mobilenet_v4_fused").rows[0]
    rows = (first, FusedRow(out=first.out, expanded=first.out), *spec.rows[1:])
    return msgspec.structs.replace(spec, name=f"{spec.name}_fine", rows=rows)


def begun(given: argparse.Namespace, root: Path) -> tuple[str, list[str], list[str]]:
    """A name for the runs, what `train` begins with, and the fields of the recipe."""
    if given.weights is not None:
        bundle = root / Path(given.weights).stem
        if not bundle.exists():
            run("import", given.weights, "-o", str(bundle))
        return f"{bundle.name}-{given.resolution}", [str(bundle), "--resolution", str(given.resolution)], given.set
    spec = table(given.alpha, fine=given.fine)
    file = root / f"{spec.name}.json"
    file.write_bytes(msgspec.json.encode(spec))
    return spec.name, [str(file)], [*RECIPE, *given.set]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--alpha", type=float, default=1.25, help="from nothing: the width")
    parser.add_argument("--fine", action="store_true", help="from nothing: one more row, on maps of 32 pixels")
    parser.add_argument("--weights", help="anything that `mobilenets import` takes")
    parser.add_argument("--resolution", type=int, default=128, help="from weights: pixels that images are enlarged to")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        name, start, recipe = begun(given, root)
        data = str(linked(given.cifar.resolve(), root / "data", images=IMAGES, validation=VALIDATION))
        # Whoever is first decodes the images for all; that is nobody's training.
        trained(root / "warm", "train", *start, data, "--epochs", "0.01")
        fields = [word for field in recipe for word in ("--set", field)]
        for seed in given.seeds.split(","):
            out = root / f"{name}-{given.minutes:g}m-{seed}"
            told = trained(out, "train", *start, data, "--time", f"{given.minutes:g}m", "--seed", seed, *fields)
            found.append(
                {
                    "seed": int(seed),
                    **judged(out / "last", data),
                    "seconds": round(told["seconds"], 1),
                    "epochs": told["rows"][-1]["epoch"],
                    "processor_seconds": told["processor_seconds"],
                    "cut_off_before": told["cut_off_before"],
                    "log": [[round(row["seconds"]), row["epoch"], round(row["eval_top1"], 2)] for row in told["rows"]],
                }
            )
        network, _ = run("info", str(out / "last"))
    top1 = [one["top1"] for one in found]
    append(
        "cifar10",
        {
            "model": network["name"],
            "weights": given.weights and Path(given.weights).name,
            "mult_adds": network["mult_adds"],
            "parameters": network["parameters"],
            "minutes": given.minutes,
            "threads": given.threads,
            "recipe_fields": recipe,
            "runs": found,
            "mean_top1": round(statistics.mean(top1), 2),
            "spread": round(statistics.stdev(top1), 2) if len(top1) > 1 else None,
        },
    )


if __name__ == "__main__":
    main()
