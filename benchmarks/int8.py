"""What int8 costs in accuracy and gains in time.

python benchmarks/int8.py accuracy DATA_ROOT [FILE.tflite ...]
python benchmarks/int8.py bound DATA_ROOT [FILE.tflite ...]
python benchmarks/int8.py speed [int8|int8-dynamic] [MODEL ...]

accuracy: networks imported from TensorFlow Lite files (DATA_ROOT/official/*.tflite with 1000 classes, where none are
named), quantised by us, on DATA_ROOT/imagenet_sample.zip. In two folds: each half of the images is answered by the file
that was calibrated on the other half, trials included, so that no image judges what it calibrated.

bound: for the same networks, ranges by min-max of 128 images, 128 others to judge: what int8 adds to the logits where
weights keep within 16 bits two by two, as ours do, and where they do not; both by ONNX Runtime without any
optimisation, where nothing is cut off, and with the kernels that it has for this processor.

speed: untrained networks at their own resolution (weights do not change what is computed), batch 1, 1 and 2 threads,
float32 and int8 (or another kind) in turn, each in a process of its own, as `mobilenets bench` does it.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from imported_tflite import percent, sample
from rows import NETWORKS, append

from mobilenets import images
from mobilenets.arch import compose
from mobilenets.bench import measure_all
from mobilenets.bundle import Bundle
from mobilenets.export import write_ungated
from mobilenets.export.int8 import calibrated, layer_steps, prepared, quantized
from mobilenets.export.int8.weights import weight_steps
from mobilenets.export.onnx_graph import to_onnx
from mobilenets.export.quantize import quantize
from mobilenets.fit.latency import untrained_bundle
from mobilenets.runtime import open_artifact, run_batches
from mobilenets.weights import import_weights

SECONDS = 4.0
TRIES = 3  # of which the quietest counts, for each side
FOLDS = 2
BOUND_IMAGES = 128


def _thousand(root: Path, named: list[str]) -> Iterator[tuple[Path, Bundle]]:
    """Networks that know ImageNet's 1000 classes."""
    for file in map(Path, named) if named else sorted((root / "official").glob("*.tflite")):
        bundle = import_weights(file)
        if bundle.spec.head.classes == 1000:
            yield file, bundle


def accuracy(root: Path, named: list[str]) -> None:
    encoded, classes = sample(root / "imagenet_sample.zip")
    for file, bundle in _thousand(root, named):
        pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded])
        fold = np.arange(len(pixels)) % FOLDS
        floats, small = np.zeros((2, len(pixels), 1000), np.float32)
        kept = []
        with tempfile.TemporaryDirectory() as folder:
            write_ungated(bundle, Path(folder) / "fp32")
            floats[:] = run_batches(open_artifact(Path(folder) / "fp32").engine, pixels)
            for number in range(FOLDS):
                made = quantize(bundle, pixels[fold != number])
                kept.append(made.kept.described())
                small[fold == number] = _answers(made.model, pixels[fold == number])
        ours, theirs = floats.argmax(axis=1), small.argmax(axis=1)
        append(
            "int8",
            {
                "what": "int8 by us against our float32, percent; two folds, calibrated on the other half",
                "file": file.name,
                "model": bundle.spec.name,
                "n": len(pixels),
                "top1_float": percent(ours == classes),
                "top1_int8": percent(theirs == classes),
                "drop": round(percent(ours == classes) - percent(theirs == classes), 2),
                "agreement": percent(ours == theirs),
                "kept": kept,
            },
        )


def bound(root: Path, named: list[str]) -> None:
    encoded, _ = sample(root / "imagenet_sample.zip")
    for file, bundle in _thousand(root, named):
        pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded[: 2 * BOUND_IMAGES]])
        seen, judging = pixels[::2], pixels[1::2]
        graph = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)
        exact = _answers(graph, judging)
        proto = prepared(graph, bundle.preprocess, kernels="onnxruntime")
        ranges = calibrated(proto, seen, method="minmax")
        ours = layer_steps(proto)
        weights = {each.name: onnx.numpy_helper.to_array(each) for each in proto.graph.initializer}
        free = {name: weight_steps(weights[name], in_pairs=False) for name in ours}
        noise, alike = {}, {}
        for name, steps in (("bound", ours), ("free", free)):
            model = quantized(proto, ranges, kernels="onnxruntime", steps=steps)
            for how, plain in (("exact", True), ("here", False)):
                answered = _answers(model, judging, plain=plain)
                added = np.square(answered - exact).sum() / np.square(exact - exact.mean(axis=0)).sum()
                noise[f"{name}_{how}"] = round(100 * float(added), 2)
                alike[f"{name}_{how}"] = percent(answered.argmax(axis=1) == exact.argmax(axis=1))
        append(
            "int8",
            {
                "what": "noise of int8 in percent of the logits' variance, weights bound to 16 bits or free; min-max",
                "file": file.name,
                "model": bundle.spec.name,
                "n": len(judging),
                "noise": noise,
                "agreement": alike,
            },
        )


def _answers(model, pixels: np.ndarray, *, plain: bool = False) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"pixels": pixels[i : i + 25]})[0] for i in range(0, len(pixels), 25)])


def speed(models: list[str]) -> None:
    kind = models.pop(0) if models and models[0] in ("int8", "int8-dynamic") else "int8"
    for name in models or NETWORKS:
        spec = compose(name)
        bundle = untrained_bundle(spec)
        shape = (16, spec.resolution, spec.resolution, spec.channels)
        noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / precision for precision in ("fp32", kind)]
            write_ungated(bundle, paths[0])
            write_ungated(bundle, paths[1], precision=kind, calibration=noise)
            for threads in (1, 2):
                tries = [measure_all(paths, threads=threads, seconds=SECONDS) for _ in range(TRIES)]
                before, after = (min((each[i] for each in tries), key=lambda one: one.median_ms) for i in (0, 1))
                append(
                    "int8",
                    {
                        "what": f"latency of one image, ms, float32 and {kind} in turn; ONNX Runtime",
                        "model": spec.name,
                        "resolution": spec.resolution,
                        "threads": threads,
                        "fp32_ms": round(before.median_ms, 3),
                        "fp32_low_high_ms": [round(before.low_ms, 3), round(before.high_ms, 3)],
                        "int8_ms": round(after.median_ms, 3),
                        "int8_low_high_ms": [round(after.low_ms, 3), round(after.high_ms, 3)],
                        "speedup": round(before.median_ms / after.median_ms, 2),
                        "fp32_min_ms": round(before.min_ms, 3),
                        "int8_min_ms": round(after.min_ms, 3),
                        "speedup_of_minima": round(before.min_ms / after.min_ms, 2),
                        "n": before.n,
                        "rounds": before.rounds,
                        "tries": TRIES,
                    },
                )


def main() -> None:
    what, *rest = sys.argv[1:]
    if what == "accuracy":
        accuracy(Path(rest[0]), rest[1:])
    elif what == "bound":
        bound(Path(rest[0]), rest[1:])
    elif what == "speed":
        speed(rest)
    else:
        sys.exit(f"{what}: wanted accuracy, bound or speed")


if __name__ == "__main__":
    main()
