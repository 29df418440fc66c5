"""Do imported TensorFlow Lite files answer as LiteRT does? Our float network and our ONNX export against the file.

python benchmarks/imported_tflite.py DATA_ROOT [FILE.tflite ...]

DATA_ROOT has imagenet_sample.zip (images/, labels.csv: file, class_index 0..999) and official/*.tflite, which are taken
where no files are named. A file takes part if it has 1000 or 1001 classes. Both sides get the same prepared images.
"""

import csv
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from rows import append

from mobilenets import images
from mobilenets.bundle import Bundle
from mobilenets.export import write_ungated
from mobilenets.runtime import open_artifact, run_batches
from mobilenets.train.validate import bundle_logits
from mobilenets.weights import import_weights

BATCH = 25


def sample(archive: Path) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and their classes, 0..999."""
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        table = next(name for name in names if name.endswith("labels.csv"))
        rows = list(csv.DictReader(io.StringIO(content.read(table).decode("utf-8"))))
        where = {Path(name).name: name for name in names}
        encoded = [content.read(where[Path(row["file"]).name]) for row in rows]
    return encoded, np.array([int(row["class_index"]) for row in rows])


def litert_answers(file: Path, pixels: np.ndarray, bundle: Bundle) -> np.ndarray:
    """The classes that LiteRT prefers, in the bundle's numbering; -1 is the background."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    (given,), out = interpreter.get_input_details(), interpreter.get_output_details()[0]
    mean, std = (np.float32(values) for values in (bundle.preprocess.mean, bundle.preprocess.std))
    answers = []
    for image in pixels:
        if given["dtype"] == np.float32:
            fed = (image.astype(np.float32) / 255 - mean) / std
        else:
            fed = image if given["dtype"] == np.uint8 else (image.astype(np.int16) - 128).astype(np.int8)
        interpreter.set_tensor(given["index"], fed[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(out["index"]).reshape(-1))
    scores = np.stack(answers)
    return scores.argmax(axis=1) - (scores.shape[1] - bundle.spec.head.classes)


def main() -> None:
    root, *named = (Path(word) for word in sys.argv[1:])
    encoded, classes = sample(root / "imagenet_sample.zip")
    for file in named or sorted((root / "official").glob("*.tflite")):
        bundle = import_weights(file)
        if bundle.spec.head.classes != 1000:
            print(f"{file.name}: {bundle.history[0].get('classifier', bundle.spec.head.classes)}; passed over")
            continue
        pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded])
        theirs = litert_answers(file, pixels, bundle)
        logits = np.concatenate([bundle_logits(bundle, pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)])
        with tempfile.TemporaryDirectory() as folder:
            write_ungated(bundle, Path(folder) / "artifact")
            exported = run_batches(open_artifact(Path(folder) / "artifact").engine, pixels, batch_size=BATCH)
        ours, onnx = logits.argmax(axis=1), exported.argmax(axis=1)
        append(
            "imported_tflite",
            {
                "what": "an imported file, float, against LiteRT with the file itself; same images, percent",
                "file": file.name,
                "model": bundle.spec.name,
                "numbers": bundle.history[0]["numbers"],
                "padding": bundle.spec.padding,
                "n": len(pixels),
                "top1_litert": percent(theirs == classes),
                "top1_network": percent(ours == classes),
                "top1_onnx": percent(onnx == classes),
                "agreement_network": percent(ours == theirs),
                "agreement_onnx": percent(onnx == theirs),
                "logits_onnx_max_difference": float(np.abs(exported - logits).max()),
            },
        )


def percent(right: np.ndarray) -> float:
    return round(100 * float(right.mean()), 2)


if __name__ == "__main__":
    main()
