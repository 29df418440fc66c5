"""What trained weights are worth to `fit`: the same few images, budget and time, with weights and without.

python benchmarks/fit_weights.py CIFAR_FOLDER FILE... [--images N] [--latency-ms MS] [--threads T] [--time T] ...

FILE... are what `fit --weights` takes: checkpoints of other libraries, bundles, or names. CIFAR_FOLDER has train/ and
test/ with one folder of images per class; N of each class teach, 60 others choose, all of test/ judges. Networks with
weights see these images enlarged, as they know photos; those without see them as they are, with fewer strides.
"""

import argparse
import tempfile
from pathlib import Path

from rows import append
from runs import fitted, linked, run

VALIDATION = 60  # images of each class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--latency-ms", default="5")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--time", default="6m")
    parser.add_argument("--out", type=Path, help="keep the fits here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.out or Path(folder)
        data = linked(given.cifar, root / f"cifar{given.images}", images=given.images, validation=VALIDATION)
        found = {}
        for name, weights in (("with", ",".join(given.weights)), ("without", "none")):
            words = ["--latency-ms", given.latency_ms, "--threads", given.threads, "--time", given.time]
            report, _ = run("fit", str(data), *words, "--weights", weights, "-o", str(root / name))
            found[name] = _told(report)
    append(
        "fit_weights",
        {
            "images_per_class": given.images,
            "weights": [Path(one).name for one in given.weights],
            "latency_ms": float(given.latency_ms),
            "threads": int(given.threads),
            "time": given.time,
            **found,
            "points": round(100 * (found["with"]["top1"] - found["without"]["top1"]), 2),
        },
    )


def _told(report: dict) -> dict:
    (chosen,) = [candidate for candidate in report["candidates"] if candidate["status"] == "chosen"]
    latency_ms = report["delivered"][0]["latency"]["median_ms"]
    return {**fitted(report), "latency_ms": latency_ms, "mult_adds": chosen["mult_adds"]}


if __name__ == "__main__":
    main()
