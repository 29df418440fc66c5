"""Verbs as processes, with what they cost; and data sets as folders of links. Shared by the long benchmarks."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from mobilenets.files import new_folder

__all__ = ["beside", "fitted", "judged", "linked", "run", "student_and_control", "student_arguments", "trained"]


def run(*words: str, environment: Mapping[str, str] | None = None) -> tuple[dict, float]:
    """What a verb prints with --json, and the processor seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "mobilenets", *words, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def trained(out: Path, *words: str) -> dict:
    """Train into `out`, unless it was done before: seconds of both kinds, and what the verb said.

    A run that was cut off goes on; what it took of the processor before is not known then, so that is None. One that
    other words began is no measurement of these: SystemExit says so.
    """
    told, asked = out / "benchmark.json", out.with_name(f"{out.name}.words.json")
    if asked.exists() and json.loads(asked.read_text()) != list(words):
        raise SystemExit(f"{out} was begun with {json.loads(asked.read_text())}, not {list(words)}; give another --out")
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(words))
    if not told.exists():
        begun = time.monotonic()
        resume = ["--resume"] if (out / "checkpoint.safetensors").exists() else []
        said, processor = run(*words, *resume, "-o", str(out))
        facts = {"seconds": said["rows"][-1]["seconds"], "processor_seconds": None if resume else round(processor, 1)}
        facts |= {"whole_seconds": time.monotonic() - begun, "model": said["model"], "grid": said.get("grid", [])}
        facts |= {"rows": said["rows"], "cut_off_before": bool(resume)}
        told.write_text(json.dumps(facts))
    return json.loads(told.read_text())


def student_arguments(doc: str | None, *, student: str, epochs: str, seeds: str) -> argparse.ArgumentParser:
    """What every benchmark of a teacher takes, with its defaults; for `student_and_control`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--student", default=student)
    parser.add_argument("--epochs", default=epochs)
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe, for all trainings")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    return parser


def student_and_control(given: argparse.Namespace, *lesson: str) -> Iterator[tuple[str, Path, dict]]:
    """Train a student with and without its teacher, seed by seed: "alone" or "taught", its folder, what `trained` told.

    Args:
        given: of `student_arguments`.
        lesson: more words of `train` for the one that is taught.
    """
    taught = ["--teacher", str(given.teacher.resolve()), *lesson]
    words = ["train", given.student, str(given.cifar.resolve()), "--epochs", given.epochs]
    words += [word for field in given.set for word in ("--set", field)]
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        for seed in given.seeds.split(","):
            for name, more in (("alone", []), ("taught", taught)):
                out = root / f"{name}-{seed}"
                yield name, out, trained(out, *words, "--seed", seed, *more)


def judged(bundle: Path, data: str) -> dict:
    """Top-1 in per cent on all of test/, with its interval."""
    said, _ = run("val", str(bundle), data, "--split", "test")
    return {"n": said["n"], "top1": 100 * said["top1"], "top1_95": [100 * said["top1_low"], 100 * said["top1_high"]]}


def fitted(report: dict) -> dict:
    """What a fit chose, and how good the file is that it recommends."""
    accuracy = report["delivered"][0]["accuracy"]
    return {
        "chosen": report["chosen"],
        "split": accuracy["split"],
        "n": accuracy["n"],
        "top1": accuracy["top1"],
        "top1_95": [accuracy["top1_low"], accuracy["top1_high"]],
        "took_seconds": round(report["took_seconds"]),
        "training_seconds": round(report["training_seconds"]),
    }


def beside(one: list[dict], other: list[dict], *, names: tuple[str, str]) -> dict:
    """Two sides that `judged` judged, seed by seed: runs, mean and spread of each, and by how much the one is ahead."""
    top1 = {name: [run["top1"] for run in runs] for name, runs in zip(names, (one, other), strict=True)}
    points = [a - b for a, b in zip(*top1.values(), strict=True)]
    return {
        "runs": dict(zip(names, (one, other), strict=True)),
        "mean": {name: round(statistics.mean(values), 2) for name, values in top1.items()},
        "spread": {name: round(statistics.stdev(values), 2) for name, values in top1.items() if len(values) > 1},
        "points": [round(each, 2) for each in points],
        "mean_points": round(statistics.mean(points), 2),
    }


def linked(source: Path, out: Path, *, images: int, validation: int = 0) -> Path:
    """A folder of links to some images of each class of train/, drawn with a fixed seed, and to all of test/.

    Args:
        source: has train/ and test/ with one folder of images per class.
        out: made, unless it is there.
        images: of each class to train on.
        validation: of each class for val/; 0: no val/.
    """
    if out.exists():
        return out
    rng = np.random.default_rng(0)
    with new_folder(out) as begun:
        for folder in sorted(path for path in (source / "train").iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            drawn = rng.permutation(len(files)).tolist()
            parts = {"train": drawn[:images], "val": drawn[images : images + validation]}
            for part, indices in parts.items():
                for index in indices:
                    to = begun / part / folder.name / files[index].name
                    to.parent.mkdir(parents=True, exist_ok=True)
                    to.symlink_to(files[index].resolve())
        (begun / "test").symlink_to((source / "test").resolve())
    return out
