"""One elastic training against one training for each width: accuracy of each, and what they cost, on CIFAR-10.

python benchmarks/elastic_cifar10.py CIFAR_FOLDER [--epochs E] [--arch MODEL] [--widths W] [--images N] [--seed S] ...

CIFAR_FOLDER has train/ and test/ with one folder of images per class; with --images only so many of each class teach.
Every width of the list is trained alone, and all of them at once, with one recipe, one seed and as many epochs, one
process after the other on this machine; each trained network, and each slice, is judged on all of test/ by the weights
at the end of its schedule. Seconds are those of the training loop with its validations. Processor seconds are of the
whole process, for the elastic one with the grid it measures at the end, and say more where the machine is shared.
With --out, what is there already is not trained again, and what was cut off goes on, without processor seconds.
"""

import argparse
import tempfile
from pathlib import Path

from rows import append
from runs import judged, linked, run, trained

from mobilenets.arch import find, split_name
from mobilenets.arch.narrower import narrower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--epochs", default="20")
    parser.add_argument("--arch", default="mobilenet_v2")
    parser.add_argument("--widths", default="0.25,0.5,0.75,1.0", help="those that are trained alone")
    parser.add_argument("--range", help="of the elastic training; default: those widths only")
    parser.add_argument("--resolutions", help="of the elastic training; the widths alone are trained at 32")
    parser.add_argument("--images", type=int, help="of each class to train on; default: all")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe, for all trainings")
    parser.add_argument("--policy", action="append", default=[], help="one field of the elastic policy")
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.out or Path(folder)
        data = given.cifar.resolve()
        if given.images is not None:
            data = linked(given.cifar, root / f"cifar{given.images}", images=given.images)
        measure(given, root.resolve(), str(data))


def of_width(arch: str, alpha: float) -> list[str]:
    """How `train` is told which network: a full name, as mobilenet_v2_1.0_32_s16, says its width itself."""
    says = split_name(arch)
    full = says is not None and says.stride is not None
    return [narrower(find(arch), alpha).name] if full else [arch, "--alpha", f"{alpha:g}"]


def measure(given: argparse.Namespace, root: Path, data: str) -> None:
    alphas = sorted(float(word) for word in given.widths.split(","))
    recipe = ["--epochs", given.epochs, "--seed", given.seed, *(w for field in given.set for w in ("--set", field))]
    shares = [word for field in given.policy for word in ("--policy", field)]
    if given.resolutions:
        shares += ["--resolutions", given.resolutions]
    # Whoever is first decodes the images for all; that is nobody's training.
    trained(root / "warm", "train", *of_width(given.arch, alphas[0]), data, "--epochs", "0.01")
    words = ["elastic", data, "--arch", given.arch, "--widths", given.range or given.widths, *recipe, *shares]
    together = trained(root / "elastic", *words)
    alone = {}
    for alpha in alphas:
        out = root / f"alone-{alpha:g}"
        alone[alpha] = trained(out, "train", *of_width(given.arch, alpha), data, *recipe)
    widths = []
    for alpha in alphas:
        cut = root / f"slice-{alpha:g}"
        if not cut.exists():
            run("slice", str(root / "elastic" / "last"), "--alpha", f"{alpha:g}", "--data", data, "-o", str(cut))
        by_itself, sliced = judged(root / f"alone-{alpha:g}" / "last", data), judged(cut, data)
        widths.append(
            {
                "alpha": alpha,
                "alone": by_itself,
                "slice": sliced,
                "points": round(sliced["top1"] - by_itself["top1"], 2),
                "alone_seconds": round(alone[alpha]["seconds"], 1),
                "alone_processor_seconds": alone[alpha]["processor_seconds"],
            }
        )
    n = sliced["n"]
    seconds = sum(one["seconds"] for one in alone.values())
    processor = [one["processor_seconds"] for one in (together, *alone.values())]
    append(
        "elastic_cifar10",
        {
            "arch": given.arch,
            "epochs": float(given.epochs),
            "images_per_class": given.images,
            "seed": int(given.seed),
            "recipe_fields": given.set,
            "policy_fields": given.policy,
            "elastic_widths": given.range or given.widths,
            "elastic_resolutions": given.resolutions,
            "test_images": n,
            "widths": widths,
            "worst_points": min(width["points"] for width in widths),
            "elastic_seconds": round(together["seconds"], 1),
            "elastic_processor_seconds": processor[0],
            "ratio_seconds": round(together["seconds"] / seconds, 3),
            "ratio_processor_seconds": None if None in processor else round(processor[0] / sum(processor[1:]), 3),
            "grid": together["grid"],
        },
    )


if __name__ == "__main__":
    main()
