"""What a teacher is worth to a narrow student: V1 at 0.25 taught by V1 at 1.0, beside the same recipe without it.

python benchmarks/distil_cifar10.py CIFAR_FOLDER TEACHER_BUNDLE [--student M] [--epochs E] [--seeds 0,1,2] [--out DIR]
    [--temperature T] [--teacher-weight W] [--set FIELD=VALUE]

TEACHER_BUNDLE knows CIFAR-10 (`mobilenets train mobilenet_v1 CIFAR_FOLDER`). Student and control have one recipe, one
seed and as many epochs; all of test/ judges the weights at the end. With --out, what is there is not trained again.
"""

import argparse
import tempfile
from pathlib import Path

from rows import append
from runs import beside, judged, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--student", default="mobilenet_v1_0.25")
    parser.add_argument("--epochs", default="12")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--temperature", default="4")
    parser.add_argument("--teacher-weight", default="0.9")
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe, for all trainings")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    taught = ["--teacher", str(given.teacher.resolve()), "--temperature", given.temperature]
    taught += ["--teacher-weight", given.teacher_weight]
    found: dict[str, list[dict]] = {"alone": [], "taught": []}
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        data = str(given.cifar.resolve())
        words = ["train", given.student, data, "--epochs", given.epochs]
        words += [word for field in given.set for word in ("--set", field)]
        for seed in given.seeds.split(","):
            for name, more in (("alone", []), ("taught", taught)):
                out = root / f"{name}-{seed}"
                told = trained(out, *words, "--seed", seed, *more)
                found[name].append({**judged(out / "last", data), "seconds": round(told["seconds"], 1)})
        teacher = judged(given.teacher, data)
    append(
        "distil_cifar10",
        {
            "student": told["model"],
            "epochs": float(given.epochs),
            "recipe_fields": given.set,
            "temperature": float(given.temperature),
            "teacher_weight": float(given.teacher_weight),
            "teacher": teacher,
            **beside(found["taught"], found["alone"], names=("taught", "alone")),
        },
    )


if __name__ == "__main__":
    main()
