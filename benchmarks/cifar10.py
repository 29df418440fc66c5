"""How accurate a MobileNet is on CIFAR-10 after some minutes of training on this machine, with several seeds.

python benchmarks/cifar10.py CIFAR_FOLDER [--minutes 20] [--alpha A] [--fine] [--seeds 0,1,2] [--threads T] ...

CIFAR_FOLDER has train/ and test/ with one folder of images per class; 100 images of each class of train/ are held back
for validation, for every image that is not learned from costs accuracy.
The network is `mobilenet_v4_fused`, nearly all of whose time goes into large matrix products. `mobilenets train` gets
its table as a file and the time as --time (validation included); all of test/ judges the weights at the end. What is in
--out is not trained again.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import msgspec
from rows import append
from runs import judged, linked, trained

from mobilenets.arch import ArchSpec, FusedRow, compose, cost

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--alpha", type=float, default=1.25)
    parser.add_argument("--fine", action="store_true", help="one more row, on maps of 32 pixels")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    spec = table(given.alpha, fine=given.fine)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        file = root / f"{spec.name}.json"
        file.write_bytes(msgspec.json.encode(spec))
        data = str(linked(given.cifar.resolve(), root / "data", images=IMAGES, validation=VALIDATION))
        # Whoever is first decodes the images for all; that is nobody's training.
        trained(root / "warm", "train", str(file), data, "--epochs", "0.01")
        fields = [word for field in (*RECIPE, *given.set) for word in ("--set", field)]
        for seed in given.seeds.split(","):
            out = root / f"{spec.name}-{given.minutes:g}m-{seed}"
            told = trained(out, "train", str(file), data, "--time", f"{given.minutes:g}m", "--seed", seed, *fields)
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
    top1 = [run["top1"] for run in found]
    append(
        "cifar10",
        {
            "model": spec.name,
            "mult_adds": cost(spec).mult_adds,
            "parameters": cost(spec).parameters,
            "minutes": given.minutes,
            "threads": given.threads,
            "recipe_fields": [*RECIPE, *given.set],
            "runs": found,
            "mean_top1": round(statistics.mean(top1), 2),
            "spread": round(statistics.stdev(top1), 2) if len(top1) > 1 else None,
        },
    )


if __name__ == "__main__":
    main()
