"""One other library's quantiser, in the Python that has it: `quantisers.py` starts this.

PYTHON benchmarks/quantisers_worker.py nncf|torchao FOLDER

FOLDER holds float.onnx (nncf) or float.pt2 (torchao), calibration.npy (uint8, N x R x R x C) and images.npy. NNCF
leaves int8.onnx there; torchao, whose result is a torch program, answers.npy and times.json: milliseconds, or why there
are none.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

BATCH = 16
SECONDS = 4.0


def nncf_file(folder: Path) -> None:
    import nncf
    import onnx

    model = onnx.load(folder / "float.onnx")
    name = model.graph.input[0].name
    images = np.load(folder / "calibration.npy")
    batches = [{name: images[i : i + 1]} for i in range(len(images))]
    made = nncf.quantize(
        model,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,  # activations asymmetric, as ours: hard-swish goes below zero
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(batches),
    )
    onnx.save(made, folder / "int8.onnx")


def torchao_answers(folder: Path) -> None:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    torch.set_num_threads(1)
    program = torch.export.load(folder / "float.pt2").module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    images, seen = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("images", "calibration"))
    with torch.no_grad():
        prepared = prepare_pt2e(program, quantizer)
        for start in range(0, len(seen), BATCH):
            prepared(seen[start : start + BATCH])
        converted = convert_pt2e(prepared)
        answers = [converted(images[i : i + BATCH]).numpy() for i in range(0, len(images), BATCH)]
        np.save(folder / "answers.npy", np.concatenate(answers))
        fast = torch.compile(converted, options={"freezing": True})
        try:
            times: list[float] | str = _timed(lambda: fast(images[:1]))
        except Exception as error:  # of many kinds: which operators compile changes with each version of the two
            times = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    (folder / "times.json").write_text(json.dumps(times))


def _timed(run) -> list[float]:
    """Milliseconds of each call, after the first ones."""
    for _ in range(5):
        run()
    times, end = [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    return times


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "nncf":
        nncf_file(folder)
    elif what == "torchao":
        torchao_answers(folder)
    else:
        sys.exit(f"{what}: wanted nncf or torchao")


if __name__ == "__main__":
    main()
