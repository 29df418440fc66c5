"""Whether a narrow student's embedding can stand for its teacher's in an index of images, on CIFAR-10.

python benchmarks/embedding_cifar10.py CIFAR_FOLDER TEACHER_BUNDLE [--student M] [--epochs E] [--seeds 0] [--out DIR]
    [--set FIELD=VALUE]

TEACHER_BUNDLE knows CIFAR-10, and its embedding is as wide as the student's (V3 and V4 have one width for many alphas).
Taught (`train --teacher T --teacher-weight 0 --match embedding`) and control have one recipe, one seed and as many
epochs. Then every image of test/ asks for the nearest training image, by angle: "own" with both embedded by the
network itself, "index" with the training images embedded by the teacher, as in an index that is already there. A
search is right where the two images are of one class. With --out, what is there is not trained again.
"""

import statistics

import numpy as np
import torch
import torch.nn.functional as F
from rows import append
from runs import judged, student_and_control, student_arguments

from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import Dataset, open_dataset, prepared
from mobilenets.data.summary import SplitName
from mobilenets.nets import build, load_tensors
from mobilenets.train import forward_all
from mobilenets.train.choose import spec_for
from mobilenets.train.distil import embedding_width

SIDE = 32
BLOCK = 1000  # queries at a time


def embedded(bundle: Bundle, dataset: Dataset, split: SplitName) -> tuple[torch.Tensor, np.ndarray]:
    """What the classifier reads of each image, at length 1 (N, D), and the images' classes (N,)."""
    network = build(bundle.spec)
    load_tensors(network, bundle.tensors)
    network.head.classifier = torch.nn.Identity()
    images = prepared(dataset, split, bundle.preprocess)
    on = torch.device("cpu")
    vectors = forward_all(network, images.images, bundle.preprocess, device=on, dtype=torch.float32)
    return F.normalize(torch.from_numpy(vectors), dim=1), images.targets


def nearest(queries: torch.Tensor, index: torch.Tensor) -> np.ndarray:
    """Of each query the nearest of the index."""
    return np.concatenate([(part @ index.T).argmax(dim=1).numpy() for part in queries.split(BLOCK)])


def main() -> None:
    parser = student_arguments(__doc__, student="mobilenet_v4_conv_small_0.5", epochs="4", seeds="0")
    given = parser.parse_args()
    data = str(given.cifar.resolve())
    teacher, dataset = read_bundle(given.teacher), open_dataset(given.cifar.resolve())
    spec = spec_for(given.student, native_side=SIDE, classes=len(dataset.labels))
    widths = embedding_width(spec), embedding_width(teacher.spec)
    if widths[0] != widths[1]:
        parser.error(
            f"{spec.name} embeds in {widths[0]} numbers, {teacher.spec.name} in {widths[1]}: wanted as many, so take "
            "a student of V3 or V4 and a teacher of the same kind"
        )
    (index, classes), (asked, truth) = (embedded(teacher, dataset, split) for split in ("train", "test"))

    def right(queries: torch.Tensor, images: torch.Tensor) -> float:
        return 100 * float((classes[nearest(queries, images)] == truth).mean())

    runs: dict[str, list[dict[str, float]]] = {"alone": [], "taught": []}
    for name, out, told in student_and_control(given, "--teacher-weight", "0", "--match", "embedding"):
        student = read_bundle(out / "last")
        own, queries = (embedded(student, dataset, split)[0] for split in ("train", "test"))
        runs[name].append(
            {
                "top1": judged(out / "last", data)["top1"],
                "own": right(queries, own),
                "index": right(queries, index),
                "cosine": float((queries * asked).sum(dim=1).mean()),
                "seconds": round(told["seconds"], 1),
            }
        )
    append(
        "embedding_cifar10",
        {
            "teacher": teacher.spec.name,
            "student": told["model"],
            "epochs": float(given.epochs),
            "recipe_fields": given.set,
            "width": index.shape[1],
            "index_images": len(index),
            "queries": len(asked),
            "teacher_top1": judged(given.teacher, data)["top1"],
            "teacher_own": right(asked, index),
            "runs": runs,
            "mean": {
                name: {key: round(statistics.mean(run[key] for run in each), 3) for key in each[0]}
                for name, each in runs.items()
            },
        },
    )


if __name__ == "__main__":
    main()
