"""What int8 loses after training, and what training through its roundings brings back.

python benchmarks/qat_cifar10.py DATA BUNDLE... [--epochs E] [--lr R] [--teacher self|BUNDLE] [--images N] [--out DIR]

DATA has train/ and test/ with one folder of images per class (or is a data set's name); the BUNDLEs were trained on it.
For each, all of test/ is answered in float32, in int8 after training (with ranges by min-max, and as well as it goes,
as `mobilenets quantize` has it) and in int8 trained for it (`mobilenets quantize --qat E`). Agreement is the share of
images with float32's top-1: of the network as it was, and for the trained one also of its own weights, as the gate
asks; their accuracy in float32 says what the training was worth without int8. Files that the gate refuses are judged
all the same, and the row says what it says of them on the validation images. --images trains on so many of each class,
and validates on 200 others of each, where DATA is a folder. With --epochs 0 nothing is trained, and only int8 after
training is judged. With an --out that holds parts of the same run, these are not made again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rows import append
from runs import linked

from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import Dataset, open_dataset, prepared
from mobilenets.export.gate import GateImages, Limits, gates_of, reference_logits
from mobilenets.export.images import calibration_images, gate_images
from mobilenets.export.int8 import starting_ranges
from mobilenets.export.int8.aware import int8_aware
from mobilenets.export.quantize import Quantized, quantize
from mobilenets.metrics import top_k_accuracy, wilson_interval
from mobilenets.train import CrossEntropy, Distillation, distil, named_recipe, with_settings
from mobilenets.train.run import train_run

BATCH = 50
VALIDATION = 200  # of each class, with --images


def answers(made: Quantized, pixels: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(None, {"pixels": pixels[i : i + BATCH]})[0] for i in range(0, len(pixels), BATCH)]
    )


def percent(share: float) -> float:
    return round(100 * float(share), 2)


def judged(logits: np.ndarray, targets: np.ndarray) -> dict:
    top1 = top_k_accuracy(logits, targets, k=1)
    low, high = wilson_interval(round(top1 * len(targets)), len(targets))
    return {"top1": percent(top1), "top1_95": [percent(low), percent(high)]}


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return percent((one.argmax(axis=1) == other.argmax(axis=1)).mean())


def refused(exact: np.ndarray, answered: np.ndarray, images: GateImages) -> list[str]:
    """What the gate has against a file; without speed, which no training changes."""
    gates = gates_of(exact, answered, images, Limits.of("int8"))
    return [f"{gate.name} = {gate.value:.4g}" for gate in gates if not gate.passed]


def one(path: str, dataset: Dataset, given: argparse.Namespace, root: Path) -> dict:
    bundle = read_bundle(Path(path))
    out = root / Path(path).resolve().parent.name
    calibration = calibration_images(dataset, bundle.preprocess)
    test = prepared(dataset, "test", bundle.preprocess)
    gate = gate_images(prepared(dataset, "val", bundle.preprocess), on="val")
    exact = reference_logits(bundle, test.images)
    found = {
        "float32": judged(exact, test.targets),
        "int8_minmax": _side(bundle, quantize(bundle, calibration, calibration="minmax"), exact, test, gate),
        "int8_after_training": _side(bundle, quantize(bundle, calibration), exact, test, gate),
    }
    begun = time.monotonic()
    if given.epochs:
        better = trained_for_int8(bundle, calibration, dataset, given, out)
        made, own = quantize(better, calibration), reference_logits(better, test.images)
        found["trained_for_int8"] = _side(better, made, exact, test, gate) | {
            "agreement_with_own_float32": alike(answers(made, test.images), own),
            "own_float32": judged(own, test.targets),
        }
    seconds = time.monotonic() - begun
    for name, each in found.items():
        print(f"{name:>20}  top-1 {each['top1']:6.2f} %  agreement {each.get('agreement', 100.0):6.2f} %  ", end="")
        print("; ".join(each.get("refused", [])))
    return {
        "model": bundle.spec.name,
        "epochs": given.epochs,
        "lr": given.lr,
        "teacher": given.teacher and ("self" if given.teacher == "self" else Path(given.teacher).name),
        "images_per_class": given.images,  # null: all
        "seconds": round(seconds, 1),
        "n": len(test.targets),
        "test": found,
        "points_lost": {
            name: round(found["float32"]["top1"] - each["top1"], 2) for name, each in found.items() if name != "float32"
        },
    }


def trained_for_int8(
    bundle: Bundle, calibration: np.ndarray, dataset: Dataset, given: argparse.Namespace, out: Path
) -> Bundle:
    objective = CrossEntropy
    if given.teacher is not None:
        teacher = bundle if given.teacher == "self" else read_bundle(Path(given.teacher))
        objective = distil(teacher, Distillation())
    return train_run(
        bundle,
        dataset,
        with_settings(named_recipe("short"), {"epochs": given.epochs, "lr": given.lr, "precision": "fp32"}),
        out=out,
        objective=int8_aware(starting_ranges(bundle, calibration), objective),
        resume="if_there",
    ).best


def _side(bundle: Bundle, made: Quantized, exact: np.ndarray, test, gate: GateImages) -> dict:
    answered = answers(made, test.images)
    held = answers(made, gate.images)
    return {
        **judged(answered, test.targets),
        "agreement": alike(answered, exact),
        "refused": refused(reference_logits(bundle, gate.images), held, gate),
        "kept": made.kept.described(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--teacher")
    parser.add_argument("--images", type=int)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.out or Path(folder)
        data = given.data
        if given.images is not None:
            data = linked(Path(data), root / f"images-{given.images}", images=given.images, validation=VALIDATION)
        dataset = open_dataset(data)
        for path in given.bundles:
            append("qat_cifar10", one(path, dataset, given, root))


if __name__ == "__main__":
    main()
