"""What a teacher is worth to a narrow student: V1 at 0.25 taught by V1 at 1.0, beside the same recipe without it.

python benchmarks/distil_cifar10.py CIFAR_FOLDER TEACHER_BUNDLE [--student M] [--epochs E] [--seeds 0,1,2] [--out DIR]
    [--temperature T] [--teacher-weight W] [--set FIELD=VALUE]

TEACHER_BUNDLE knows CIFAR-10 (`mobilenets train mobilenet_v1 CIFAR_FOLDER`). Student and control have one recipe, one
seed and as many epochs; all of test/ judges the weights at the end. With --out, what is there is not trained again.
"""

from rows import append
from runs import beside, judged, student_and_control, student_arguments


def main() -> None:
    parser = student_arguments(__doc__, student="mobilenet_v1_0.25", epochs="12", seeds="0,1,2")
    parser.add_argument("--temperature", default="4")
    parser.add_argument("--teacher-weight", default="0.9")
    given = parser.parse_args()
    data = str(given.cifar.resolve())
    lesson = ["--temperature", given.temperature, "--teacher-weight", given.teacher_weight]
    found: dict[str, list[dict]] = {"alone": [], "taught": []}
    for name, out, told in student_and_control(given, *lesson):
        found[name].append({**judged(out / "last", data), "seconds": round(told["seconds"], 1)})
    append(
        "distil_cifar10",
        {
            "student": told["model"],
            "epochs": float(given.epochs),
            "recipe_fields": given.set,
            "temperature": float(given.temperature),
            "teacher_weight": float(given.teacher_weight),
            "teacher": judged(given.teacher, data),
            **beside(found["taught"], found["alone"], names=("taught", "alone")),
        },
    )


if __name__ == "__main__":
    main()
