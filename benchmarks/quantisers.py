"""Which quantiser does the mechanics? Ours, ONNX Runtime's as it comes, NNCF's, torchao's, on the same networks.

python benchmarks/quantisers.py DATA BUNDLE... [--nncf PYTHON] [--torchao PYTHON]

Each bundle is quantised after training by each, with the same calibration images of DATA's training split, and answers
the same validation images: top-1, agreement with float32, and noise (variance of what was added to the logits, in
variances of the logits). Files for ONNX Runtime are timed in turn with float32 in one process, batch 1, 1 thread;
torchao's program (torch.compile) in its own process, right before float32. NNCF and torchao need not be where this
runs: PYTHON is an interpreter that has them, and for torchao torch and a C++ compiler. Who is not given is not tried.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from quantisers_worker import SECONDS
from rows import append

from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import open_dataset, prepared
from mobilenets.export.images import calibration_images, gate_images
from mobilenets.export.onnx_graph import to_onnx
from mobilenets.export.quantize import quantize
from mobilenets.export.torch_program import to_pt2
from mobilenets.runtime.validate import match_labels

BATCH = 16
WORKER = Path(__file__).with_name("quantisers_worker.py")


def onnxruntime_file(graph: Any, seen: np.ndarray, folder: Path) -> None:
    """`quantize_static` as its documentation recommends for CPUs: QDQ, uint8 activations, int8 weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"pixels": seen[i : i + BATCH]} for i in range(0, len(seen), BATCH)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop(0) if self.left else None

    onnx.save(graph, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx")
    quantize_static(
        folder / "ready.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def outside(what: str, python: str, folder: Path, seen: np.ndarray, images: np.ndarray) -> None:
    np.save(folder / "calibration.npy", seen)
    np.save(folder / "images.npy", images)
    subprocess.run([python, str(WORKER), what, str(folder)], check=True)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    run = session(path)
    return np.concatenate([run.run(None, {"pixels": images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)])


def in_turn(paths: list[Path], image: np.ndarray) -> list[list[float]]:
    """Milliseconds of each run, one run of each file after the other."""
    sessions = [session(path) for path in paths]
    times: list[list[float]] = [[] for _ in paths]
    end = time.perf_counter() + SECONDS * len(paths)
    for run in sessions:
        run.run(None, {"pixels": image})
    while time.perf_counter() < end:
        for run, own in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            run.run(None, {"pixels": image})
            own.append(1000 * (time.perf_counter() - begin))
    return times


def tried(
    bundle: Bundle, data: str, root: Path, ways: dict[str, Callable[[Path, np.ndarray, np.ndarray], None]]
) -> None:
    dataset = open_dataset(data)
    seen = calibration_images(dataset, bundle.preprocess)
    val = gate_images(prepared(dataset, "val", bundle.preprocess), on="val")
    targets = match_labels(bundle.labels, dataset.labels)[val.targets]
    plain = root / "float.onnx"
    onnx.save(to_onnx(bundle.spec, bundle.tensors, bundle.preprocess), plain)
    reference = answers(plain, val.images)
    for name, make in ways.items():
        folder = root / name
        folder.mkdir()
        begin = time.perf_counter()
        make(folder, seen, val.images)
        row = {
            "what": "int8 after training by several quantisers, against float32 on the same images",
            "quantiser": name,
            "model": bundle.spec.name,
            "data": dataset.name,
            "n": len(targets),
            "calibration_images": len(seen),
            "seconds_to_make": round(time.perf_counter() - begin, 1),
        }
        if (folder / "answers.npy").exists():
            given, mine = np.load(folder / "answers.npy"), json.loads((folder / "times.json").read_text())
            (floats,) = in_turn([plain], val.images[:1])
        else:
            given = answers(folder / "int8.onnx", val.images)
            floats, mine = in_turn([plain, folder / "int8.onnx"], val.images[:1])
        added = np.square(given - reference).sum() / np.square(reference - reference.mean(axis=0)).sum()
        speed = {"speed": f"none: {mine}"} if isinstance(mine, str) else speed_of(floats, mine)
        append(
            "quantisers",
            {
                **row,
                "top1_float": round(100 * float((reference.argmax(1) == targets).mean()), 2),
                "top1_int8": round(100 * float((given.argmax(1) == targets).mean()), 2),
                "agreement": round(100 * float((given.argmax(1) == reference.argmax(1)).mean()), 2),
                "noise_percent": round(100 * float(added), 3),
                **speed,
            },
        )


def speed_of(floats: list[float], mine: list[float]) -> dict[str, Any]:
    return {
        "float_ms": round(statistics.median(floats), 3),
        "int8_ms": round(statistics.median(mine), 3),
        "speedup": round(statistics.median(floats) / statistics.median(mine), 2),
        "speedup_of_minima": round(min(floats) / min(mine), 2),
        "runs": [len(floats), len(mine)],
        "threads": 1,
    }


@click.command()
@click.argument("data")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--nncf", metavar="PYTHON")
@click.option("--torchao", metavar="PYTHON")
def main(data: str, bundles: tuple[Path, ...], nncf: str | None, torchao: str | None) -> None:
    for place in bundles:
        bundle = read_bundle(place)
        graph = to_onnx(bundle.spec, bundle.tensors, bundle.preprocess)

        def ours(folder: Path, seen: np.ndarray, images: np.ndarray, bundle: Bundle = bundle) -> None:
            onnx.save(quantize(bundle, seen).model, folder / "int8.onnx")

        def theirs(folder: Path, seen: np.ndarray, images: np.ndarray, graph: Any = graph) -> None:
            onnxruntime_file(graph, seen, folder)

        def by_nncf(folder: Path, seen: np.ndarray, images: np.ndarray, graph: Any = graph) -> None:
            onnx.save(graph, folder / "float.onnx")
            outside("nncf", nncf or "", folder, seen, images)

        def by_torchao(folder: Path, seen: np.ndarray, images: np.ndarray, bundle: Bundle = bundle) -> None:
            (folder / "float.pt2").write_bytes(to_pt2(bundle, facts={}))
            outside("torchao", torchao or "", folder, seen, images)

        ways = {"ours": ours, "onnxruntime": theirs}
        ways |= {"nncf": by_nncf} if nncf else {}
        ways |= {"torchao": by_torchao} if torchao else {}
        with tempfile.TemporaryDirectory() as folder:
            tried(bundle, data, Path(folder), ways)


if __name__ == "__main__":
    sys.exit(main())
