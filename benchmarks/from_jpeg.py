"""From JPEG files to labels: our fastest file against torchvision's transforms and its own eager network.

Called by peers.py --jpeg DATA_ROOT BUNDLE. DATA_ROOT has imagenet_sample.zip, or imagenet_sample/ (images/, labels.csv:
file, class_index 0..999). BUNDLE is a MobileNetV2 that `mobilenets import` wrote, or a file that it takes.

All sides have the same weights, the same images, the same cores and one process each, and take turns. Each uses what
is fastest for it, tried on some images first: ours one of our files and a batch, and once more among those of float32
alone; theirs eager or channels_last and a batch. Half of the images calibrate int8 and the other half is what the gate
asks; top-1 is told on all of them, and on the half that calibrated nothing.

Weights that TensorFlow trained want SAME padding, which torchvision lacks. Its time is taken as it comes; its answers
with the padding put before the convolutions of stride 2, which is what the weights need to be right.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from imported_tflite import percent, sample
from rows import append

TURNS = 5  # of each side
TRIED = 64  # images that choose the way
BATCHES = (1, 8, 32)
WARM = 16  # images


def from_jpeg(root: Path, bundle_path: Path, *, threads: int, seconds: float) -> None:
    import msgspec

    from mobilenets import images
    from mobilenets.bundle import read_bundle
    from mobilenets.export import GateImages
    from mobilenets.weights import import_weights, to_state_dict
    from peers import made

    bundle = read_bundle(bundle_path) if bundle_path.is_dir() else import_weights(bundle_path)
    encoded, classes = labelled(root)
    half = np.arange(len(encoded)) % 2 == 0
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        (folder / "jpeg").mkdir()
        files = []
        for number, content in enumerate(encoded):
            files.append(str(folder / "jpeg" / f"{number:04d}.jpg"))
            Path(files[-1]).write_bytes(content)
        pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded])
        judged = GateImages(images=pixels[~half], targets=classes[~half], on="sample")
        entries, refused = made(bundle, folder, images=judged, calibration=pixels[half], threads=threads)
        ways = [
            {"side": "ours", "path": entry.path, "engine": entry.engine, "batch": batch}
            for entry in entries
            for batch in BATCHES
        ]
        plain = msgspec.structs.replace(bundle.spec, padding="symmetric")
        state = to_state_dict(dataclasses.replace(bundle, spec=plain), library="torchvision")
        np.savez(folder / "state.npz", **state)
        (folder / "about.json").write_text(json.dumps(about(bundle, plain)))
        theirs = [
            {"side": "torchvision", "path": str(folder), "way": way, "batch": batch}
            for way in ("eager", "channels_last")
            for batch in BATCHES
        ]
        exact = [way for way in ways if way["path"].endswith("-fp32")]
        sides = (ways, exact, theirs)
        chosen = [fastest(each, files[:TRIED], threads=threads, seconds=seconds / 4) for each in sides]
        rates: list[list[float]] = [[] for _ in sides]
        answers: list[list[int]] = [[] for _ in sides]
        for _ in range(TURNS):
            for side, way in enumerate(chosen):
                done = run(way, files, threads=threads, seconds=seconds)
                rates[side].append(done["images_per_second"])
                answers[side] = done["answers"]
    told = [
        {
            **without_path(way),
            **spread(rate),
            "times_as_fast": round(median(rate) / median(rates[-1]), 3),
            "times_as_fast_by_turn": [round(a / b, 3) for a, b in zip(rate, rates[-1], strict=True)],
            "top1": percent(np.array(answer) == classes),
            "top1_held_out": percent(np.array(answer)[~half] == classes[~half]),
        }
        for way, rate, answer in zip(chosen, rates, answers, strict=True)
    ]
    append(
        "from_jpeg",
        {
            "what": "JPEG file to label, images per second of one process; the same weights on all sides",
            "model": bundle.spec.name,
            "n": len(files),
            "threads": threads,
            "cores": len(cores()),
            **dict(zip(("ours", "ours_float32", "torchvision"), told, strict=True)),
            "torchvision_answers": "with SAME padding" if bundle.spec.padding == "same" else "as it comes",
            "refused": refused,
        },
    )


def labelled(root: Path) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and their classes, from the archive or the folder."""
    import csv

    if (root / "imagenet_sample.zip").is_file():
        return sample(root / "imagenet_sample.zip")
    folder = root / "imagenet_sample" if (root / "imagenet_sample").is_dir() else root
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(folder / row["file"]).read_bytes() for row in rows], np.array([int(row["class_index"]) for row in rows])


def about(bundle, plain) -> dict:
    """What torchvision's side has to know."""
    from mobilenets.images import scaled_side
    from mobilenets.weights import offer

    offered = offer(plain, library="torchvision")
    return {
        "function": offered.function.rpartition(".")[2],
        "eps": plain.norm.eps,
        "momentum": plain.norm.momentum,
        "classes": plain.head.classes,
        "width_mult": offered.arguments.get("width_mult", 1.0),
        "same": bundle.spec.padding == "same",
        "resize": scaled_side(bundle.preprocess),
        "crop": bundle.preprocess.resolution,
        "mean": bundle.preprocess.mean,
        "std": bundle.preprocess.std,
    }


def fastest(ways: list[dict], files: list[str], *, threads: int, seconds: float) -> dict:
    return max(ways, key=lambda way: run(way, files, threads=threads, seconds=seconds)["images_per_second"])


def run(way: dict, files: list[str], *, threads: int, seconds: float) -> dict:
    """One side in a process of its own."""
    request = json.dumps({**way, "files": files, "threads": threads, "seconds": seconds})
    done = subprocess.run(
        [sys.executable, __file__],
        input=request,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(threads),
    )
    return json.loads(done.stdout.splitlines()[-1])


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def cores() -> list[int]:
    """The two cores that both sides may use."""
    try:
        return sorted(os.sched_getaffinity(0))[:2]
    except AttributeError:  # not on macOS and Windows
        return list(range(min(2, os.cpu_count() or 1)))


def without_path(way: dict) -> dict:
    """A way as it is told: a file by its name, and nothing of folders that are gone."""
    named = {"file": Path(way["path"]).name} if way["side"] == "ours" else {}
    return {name: value for name, value in way.items() if name != "path"} | named


def spread(rates: list[float]) -> dict:
    return {
        "images_per_second": round(median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
        "turns": len(rates),
    }


def serve() -> None:
    """Be one side: answer all files again and again, and say how many a second."""
    request = json.loads(sys.stdin.read())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores())
    side = {"ours": ours, "torchvision": torchvisions}[request["side"]]
    files = request["files"]
    timed, right = side(request)
    timed(files[:WARM])
    count, spent = 0, 0.0
    while not count or spent < request["seconds"]:
        start = time.perf_counter()
        timed(files)
        spent += time.perf_counter() - start
        count += len(files)
    print(json.dumps({"images_per_second": count / spent, "answers": [int(each) for each in right(files)]}))


def ours(request: dict):
    from mobilenets.runtime import open_artifact, predict

    model = open_artifact(Path(request["path"]), engine=request["engine"], threads=request["threads"])

    def answer(files: list[str]) -> list[int]:
        found = predict(model, [Path(file) for file in files], top_k=1, batch_size=request["batch"])
        return [each.top[0].index for each in found]

    return answer, answer


def torchvisions(request: dict):
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(request["threads"])
    folder = Path(request["path"])
    known = json.loads((folder / "about.json").read_text())
    layout = torch.channels_last if request["way"] == "channels_last" else torch.contiguous_format
    network = torchvisions_network(known, folder).to(memory_format=layout)
    steps = transforms.Compose(
        [
            transforms.Resize(known["resize"]),
            transforms.CenterCrop(known["crop"]),
            transforms.ToTensor(),
            transforms.Normalize(known["mean"], known["std"]),
        ]
    )

    def answering(network: torch.nn.Module):
        def answer(files: list[str]) -> list[int]:
            said: list[int] = []
            for start in range(0, len(files), request["batch"]):
                images = [steps(Image.open(file).convert("RGB")) for file in files[start : start + request["batch"]]]
                with torch.inference_mode():
                    said += network(torch.stack(images).to(memory_format=layout)).argmax(1).tolist()
            return said

        return answer

    right = network
    if known["same"]:
        right = with_same_padding(torchvisions_network(known, folder)).to(memory_format=layout)
    return answering(network), answering(right)


def torchvisions_network(known: dict, folder: Path):
    import functools

    import torch
    import torchvision

    norm = functools.partial(torch.nn.BatchNorm2d, eps=known["eps"], momentum=known["momentum"])
    network = getattr(torchvision.models, known["function"])(
        num_classes=known["classes"], width_mult=known["width_mult"], norm_layer=norm
    )
    with np.load(folder / "state.npz") as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    network.load_state_dict(state, strict=True)
    return network.eval()


def with_same_padding(network):
    """TensorFlow pads an even map for a stride of 2 at its end only: one pixel less before, where the kernel is 3."""
    import torch

    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Conv2d) and child.stride == (2, 2):
                if child.kernel_size != (3, 3):
                    raise SystemExit(
                        f"a kernel of {child.kernel_size} with stride 2: how it is padded is not known here"
                    )
                child.padding = (0, 0)
                setattr(parent, name, torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), child))
    return network


if __name__ == "__main__":
    serve()
