"""What imported weights are worth: fine-tuning on 5,000 images of CIFAR-10 against the same recipe from scratch.

python benchmarks/fine_tune.py CHECKPOINT CIFAR_FOLDER [--epochs E] [--resolution R] [--lr LR] [--seeds N]

CHECKPOINT is anything that `mobilenets import` takes. CIFAR_FOLDER has train/ and test/ with one folder of images per
class; of train/, 500 images a class teach and 100 others choose the best weights; all of test/ judges. Both networks
have one table, one recipe, one seed and the same images in the same order.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rows import append

TRAIN, VAL = 500, 100  # images of each class


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "mobilenets", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def subset(source: Path, out: Path) -> None:
    """Links to some images of train/, drawn with a fixed seed, and to all of test/."""
    rng = np.random.default_rng(0)
    for folder in sorted(path for path in (source / "train").iterdir() if path.is_dir()):
        files = sorted(folder.iterdir())
        drawn = rng.permutation(len(files))
        for split, part in (("train", drawn[:TRAIN]), ("val", drawn[TRAIN : TRAIN + VAL])):
            to = out / split / folder.name
            to.mkdir(parents=True)
            for index in part.tolist():
                (to / files[index].name).symlink_to(files[index].resolve())
    (out / "test").symlink_to((source / "test").resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--epochs", default="8")
    parser.add_argument("--resolution", default="96")
    parser.add_argument("--lr", default="0.1")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    options = ["--epochs", given.epochs, "--resolution", given.resolution, "--lr", given.lr]
    measured: dict[str, list[float]] = {"fine-tuned": [], "from scratch": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subset(given.cifar, root / "cifar5k")
        run("import", given.checkpoint, "-o", f"{root}/bundle")
        (root / "table.json").write_text(run("info", f"{root}/bundle", "--spec"))
        for seed in range(given.seeds):
            for name, start in (("fine-tuned", "bundle"), ("from scratch", "table.json")):
                out = root / f"{name.replace(' ', '-')}-{seed}"
                run("train", f"{root}/{start}", f"{root}/cifar5k", *options, "--seed", str(seed), "-o", str(out))
                said = json.loads(run("val", f"{out}/best", f"{root}/cifar5k", "--split", "test", "--json"))
                measured[name].append(100 * said["top1"])
        about = json.loads(run("info", f"{root}/bundle", "--json"))
    append(
        "fine_tune",
        {
            "what": "top-1 on the 10,000 test images, per cent",
            "model": about["name"],
            "recipe": " ".join(options),
            "images": {"train": 10 * TRAIN, "val": 10 * VAL, "test": said["n"]},
            "seeds": given.seeds,
            "top1": measured,
            "median_gain": round(
                statistics.median(measured["fine-tuned"]) - statistics.median(measured["from scratch"]), 2
            ),
        },
    )


if __name__ == "__main__":
    main()
