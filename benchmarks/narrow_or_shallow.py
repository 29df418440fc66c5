"""Narrower or shallower at equal mult-adds: MobileNetV1's Table 5, repeated on CIFAR-10 with several seeds.

python benchmarks/narrow_or_shallow.py CIFAR_FOLDER [--epochs E] [--seeds 0,1,2] [--images N] [--out DIR] [--set F=V]

The paper (arXiv:1704.04861, section 4.2) compares V1 at 0.75 (325 M mult-adds, 68.4 % on ImageNet) with V1 without its
five repeated rows (307 M, 65.3 %). Here both learn CIFAR-10 at 32 pixels by one recipe, all of test/ judges the weights
at the end. Only the stem's stride is off, so that every row works on 2/7 of the paper's side and the mult-adds of both
stand to each other as there. With --out, what is there is not trained again.
"""

import argparse
import tempfile
from pathlib import Path

from rows import append
from runs import beside, judged, linked, trained

NETWORKS = {"narrow": "mobilenet_v1_0.75_32_s16", "shallow": "mobilenet_v1_shallow_1.0_32_s16"}
PUBLISHED = {"narrow": 68.4, "shallow": 65.3}  # ImageNet top-1, Table 5


def size(model: str) -> dict:
    from mobilenets.arch import cost
    from mobilenets.train.choose import spec_for

    spec = spec_for(model, native_side=32, classes=10)
    return {"model": spec.name, "mult_adds": cost(spec).mult_adds, "parameters": cost(spec).parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--epochs", default="10")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--images", type=int, help="of each class to train on; default: all")
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe, for all trainings")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = (given.out or Path(folder)).resolve()
        data = given.cifar.resolve()
        if given.images is not None:
            data = linked(data, root / f"cifar{given.images}", images=given.images)
        found: dict[str, list[dict]] = {name: [] for name in NETWORKS}
        for seed in given.seeds.split(","):
            for name, model in NETWORKS.items():
                out = root / f"{name}-{seed}"
                fields = [word for field in given.set for word in ("--set", field)]
                told = trained(out, "train", model, str(data), "--epochs", given.epochs, "--seed", seed, *fields)
                found[name].append({**judged(out / "last", str(data)), "seconds": round(told["seconds"], 1)})
    append(
        "narrow_or_shallow",
        {
            "epochs": float(given.epochs),
            "images_per_class": given.images,
            "recipe_fields": given.set,
            "networks": {name: size(model) for name, model in NETWORKS.items()},
            **beside(found["narrow"], found["shallow"], names=("narrow", "shallow")),
            "published_points": round(PUBLISHED["narrow"] - PUBLISHED["shallow"], 1),
        },
    )


if __name__ == "__main__":
    main()
