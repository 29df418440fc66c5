"""The main job on CIFAR-10: 1.5 ms for one image with 2 threads, 25 minutes for everything.

python benchmarks/fit_cifar10.py CIFAR_FOLDER [OUT]

CIFAR_FOLDER has train/ and test/ with one folder of images per class. What was found is timed again in a new process.
With an OUT that holds a finished fit of the same command, only that is done.
"""

import sys

from rows import append
from runs import fitted, run

LATENCY_MS, THREADS, TIME = "1.5", "2", "25m"


def main() -> None:
    data, *more = sys.argv[1:]
    out = more[0] if more else "runs/fit/cifar10"
    report, _ = run("fit", data, "--latency-ms", LATENCY_MS, "--threads", THREADS, "--time", TIME, "-o", out)
    first = report["delivered"][0]
    bench, _ = run("bench", f"{out}/{first['path']}", "--threads", THREADS)
    again = {row["metric"]: row for row in bench["rows"] if row["metric"].startswith("latency_ms")}
    trained = [
        candidate for candidate in report["candidates"] if candidate["rounds"] or candidate["status"] == "chosen"
    ]
    append(
        "fit_cifar10",
        {
            "command": report["command"],
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
            **fitted(report),
            "rounds": {c["name"]: [r["top1"] for r in c["rounds"]] for c in trained},
            "bench_again": {name: {k: row[k] for k in ("value", "n", "spread")} for name, row in again.items()},
        },
    )


if __name__ == "__main__":
    main()
