"""Two networks side by side, as the verbs `export` and `bench` have it. Shared by benchmarks of smaller networks."""

from pathlib import Path

from runs import run

__all__ = ["exported", "faster"]


def exported(bundle: str, data: str, out: Path) -> str:
    """The float32 artifact of a bundle, behind its gate, unless it is there."""
    if not (out / "artifact.json").is_file():
        run("export", bundle, "--data", data, "-o", str(out))
    return str(out)


def faster(small: str, whole: str, *, names: tuple[str, str], threads: int, seconds: float) -> dict:
    """How many times as fast one artifact is as another, timed in turn in one run, each in a process of its own."""
    report, _ = run("bench", small, whole, "--threads", str(threads), "--seconds", f"{seconds:g}")
    ratio = {row["metric"]: row["value"] for row in report["rows"] if row["metric"].startswith("latency_ratio")}
    latencies = [row for row in report["rows"] if row["metric"] == "latency_ms"]
    return {
        "times_faster": ratio["latency_ratio"],
        "times_faster_95": [ratio["latency_ratio_low"], ratio["latency_ratio_high"]],
        "latency_ms": {name: row["value"] for name, row in zip(names, latencies, strict=True)},
        "iqr_ms": {name: row["spread"] for name, row in zip(names, latencies, strict=True)},
        "runs": {name: row["n"] for name, row in zip(names, latencies, strict=True)},
        "engine": sorted(set(report["protocol"]["engines"].values())),
        "protocol": {key: value for key, value in report["protocol"].items() if not isinstance(value, dict)},
    }
