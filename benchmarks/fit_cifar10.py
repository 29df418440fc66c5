"""The main job on CIFAR-10: 1.5 ms for one image with 2 threads, 25 minutes for everything.

python benchmarks/fit_cifar10.py CIFAR_FOLDER [OUT]

CIFAR_FOLDER has train/ and test/ with one folder of images per class. What was found is timed again in a new process.
With an OUT that holds a finished fit of the same command, only that is done.
"""

import json
import subprocess
import sys

from rows import append

LATENCY_MS, THREADS, TIME = "1.5", "2", "25m"


def run(*words: str) -> dict:
    done = subprocess.run([sys.executable, "-m", "mobilenets", *words, "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main() -> None:
    data, *more = sys.argv[1:]
    out = more[0] if more else "runs/fit/cifar10"
    report = run("fit", data, "--latency-ms", LATENCY_MS, "--threads", THREADS, "--time", TIME, "-o", out)
    first = report["delivered"][0]
    bench = run("bench", f"{out}/{first['path']}", "--threads", THREADS)
    again = {row["metric"]: row for row in bench["rows"] if row["metric"].startswith("latency_ms")}
    accuracy = first["accuracy"]
    trained = [
        candidate for candidate in report["candidates"] if candidate["rounds"] or candidate["status"] == "chosen"
    ]
    append(
        "fit_cifar10",
        {
            "command": report["command"],
            "chosen": report["chosen"],
            "delivered": [
                {
                    "precision": d["precision"],
                    "size_mb": d["size_mb"],
                    "latency_ms": d["latency"]["median_ms"],
                    "latency_ms_high": d["latency"]["high_ms"],
                    "runs": d["latency"]["n"],
                    "top1": d["accuracy"]["top1"],
                }
                for d in report["delivered"]
            ],
            "split": accuracy["split"],
            "n": accuracy["n"],
            "top1": accuracy["top1"],
            "top1_95": [accuracy["top1_low"], accuracy["top1_high"]],
            "took_seconds": round(report["took_seconds"]),
            "training_seconds": round(report["training_seconds"]),
            "rounds": {c["name"]: [r["top1"] for r in c["rounds"]] for c in trained},
            "bench_again": {name: {k: row[k] for k in ("value", "n", "spread")} for name, row in again.items()},
        },
    )


if __name__ == "__main__":
    main()
