"""The main job from Python: the best network for your images within a budget, and then the file at work.

python examples/fit_in_python.py [DATA] [--latency-ms MS] [--minutes M] [--out FOLDER]

DATA is a folder with one folder of images per class, or `digits`, which are bundled. Interrupted, the same command goes
on; finished, it says the same again. What follows `fit` needs no torch: a board runs it from a copy of the artifact.
"""

import argparse
from pathlib import Path

from mobilenets.data import open_dataset, prepared
from mobilenets.fit import Budget, fit, summary_text
from mobilenets.runtime import evaluate, open_artifact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits")
    parser.add_argument("--latency-ms", type=float, default=0.5)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("runs/fit_in_python"))
    given = parser.parse_args()

    dataset = open_dataset(given.data)
    report = fit(dataset, Budget(latency_ms=given.latency_ms), out=given.out, seconds=60 * given.minutes)
    print(summary_text(report, folder=given.out))

    # Every network that was weighed is in the report, with the reason for what became of it.
    tried = [candidate for candidate in report.candidates if candidate.rounds]
    for candidate in sorted(tried, key=lambda candidate: -candidate.rounds[-1].top1):
        latency = "" if candidate.latency is None else f"{candidate.latency.median_ms:6.2f} ms  "
        print(f"{latency}{candidate.name}: {candidate.why}")

    model = open_artifact(given.out / report.delivered[0].path)
    images = prepared(dataset, dataset.final_split, model.preprocess)
    told = evaluate(model, images.images, images.targets)
    print("least often right:")
    worst = sorted(zip(told.per_class.tolist(), model.labels, strict=True))[:3]
    for share, label in worst:
        print(f"  {label}: {100 * share:.0f} %")


if __name__ == "__main__":
    main()
