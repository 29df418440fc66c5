"""Any number of labels on real data: which things CamVid's driving scenes show, from imported weights and from none.

python benchmarks/multilabel_camvid.py DATA_ROOT [--epochs E] [--resolution R] [--lr LR] [--seed N] [--out DIR]

DATA_ROOT has camvid.zip (images, masks, classes.txt; train, val and test) and official/ with Google's V2 as a file of
TensorFlow Lite. A scene has a label where that class covers at least a hundredth of its mask; labels that nearly all
scenes have, or nearly none, say little and are left out. Both networks are V2 with one recipe and one seed. All of
test/ judges the weights at the end; val/ is a single drive, in which some labels do not vary. A network that ranks
scenes by chance would get the mean share of scenes that have a label.
"""

import argparse
import csv
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from rows import append
from runs import run, trained

SHARE = 0.01  # of the mask's pixels
USUAL = (0.05, 0.8)  # shares of training scenes between which a label is worth asking for


def table(camvid: Path) -> dict[str, float]:
    """Writes labels.csv; by label, the share of test scenes that have it."""
    names = [name for name in (camvid / "classes.txt").read_text().split() if name != "unlabelled"]
    rows, there = [], {}
    for split in ("train", "val", "test"):
        masks = sorted((camvid / "masks" / split).glob("*.png"))
        counts = np.stack([np.bincount(np.asarray(Image.open(m)).ravel(), minlength=256) for m in masks])
        there[split] = counts[:, : len(names)] >= SHARE * counts.sum(axis=1, keepdims=True)
        files = [next((camvid / "images" / split).glob(f"{mask.stem}.*")).relative_to(camvid) for mask in masks]
        rows += [[file, split, *cells.astype(int)] for file, cells in zip(files, there[split], strict=True)]
    share = there["train"].mean(axis=0)
    kept = [i for i in range(len(names)) if USUAL[0] <= share[i] <= USUAL[1]]
    with (camvid / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", *(names[i] for i in kept)])
        writer.writerows([[*row[:2], *(row[2 + i] for i in kept)] for row in rows])
    return {names[i]: round(float(there["test"][:, i].mean()), 3) for i in kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--epochs", default="12")
    parser.add_argument("--resolution", default="160")
    parser.add_argument("--lr", default="0.1")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    options = ["--epochs", given.epochs, "--resolution", given.resolution, "--lr", given.lr, "--seed", given.seed]
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        with zipfile.ZipFile(given.root / "camvid.zip") as packed:
            packed.extractall(root)
        shares, data = table(root / "camvid"), str(root / "camvid" / "labels.csv")
        run("import", str(given.root / "official" / "mobilenet_v2_1.0_224_quant.tflite"), "-o", str(root / "imported"))
        found = {}
        for name, start in (("from imported weights", root / "imported"), ("from scratch", "mobilenet_v2")):
            out = root / name.replace(" ", "-")
            told = trained(out, "train", str(start), data, *options)
            said, _ = run("val", str(out / "last"), data, "--split", "test")
            found[name] = {
                "map": round(100 * said["map"], 2),
                "n": said["n"],
                "seconds": round(told["seconds"], 1),
            }
    append(
        "multilabel_camvid",
        {
            "what": "mean average precision on CamVid's test scenes, percent",
            "model": "mobilenet_v2",
            "epochs": float(given.epochs),
            "resolution": int(given.resolution),
            "lr": float(given.lr),
            "seed": int(given.seed),
            "labels": shares,
            "map_by_chance": round(100 * float(np.mean(list(shares.values()))), 2),
            "test": found,
        },
    )


if __name__ == "__main__":
    main()
