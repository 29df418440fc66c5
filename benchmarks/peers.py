"""Our files against what one would otherwise run: timm and torchvision in torch, and a plain export to ONNX Runtime.

python benchmarks/peers.py [MODEL ...] [--seconds S] [--threads N] [--resolution R]
python benchmarks/peers.py --bundles DIR ... --data DATA [--seconds S] [--threads N]
python benchmarks/peers.py --train CIFAR_FOLDER --out DIR [MODEL ...] [--minutes M] [--seconds S] [--threads N]
python benchmarks/peers.py --jpeg DATA_ROOT BUNDLE [--seconds S] [--threads N]

Latency: batch 1; for each network all of our files and all of its peers in turn, each in a process of its own, as
`mobilenets bench --peers` does it. Of each network: the fastest way of running it in eager torch (as it is,
channels_last, bfloat16), the plain export, the best peer of all (torch.compile among them), and our fastest file; and
over the networks the geometric means. Without --bundles the networks are untrained ones of the catalogue at their own
resolution: weights do not change what is computed, but nothing judged the files, which the row says. With --bundles
each file was exported through the gates on DATA, as `mobilenets export --data` does it, and those that a gate refused
do not take part. --train makes such bundles first, those that are not in DIR yet: M minutes of a part of CIFAR-10 at
96 pixels, then as long at the paper's resolution, so that the gates have real answers to judge; never good ones.

--jpeg: from JPEG files to labels; see from_jpeg.py.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
from rows import NETWORKS, append
from runs import linked, trained

from mobilenets.arch import compose
from mobilenets.bench import Entry, Latency, measure_all, paired_ratio
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.cli.artifacts import gate_images_of
from mobilenets.data import open_dataset
from mobilenets.errors import MobileNetsError
from mobilenets.export import GateImages, export, write_ungated
from mobilenets.export.images import calibration_images
from mobilenets.fit.latency import untrained_bundle
from mobilenets.peers import Peer, peers_of
from mobilenets.runtime import is_installed, read_artifact

# What we can hand out for this machine: format, precision, and the engine that runs it. float32 of a format comes
# before what has to be faster than it.
OURS = (
    ("onnx", "fp32", "onnxruntime"),
    ("onnx", "int8", "onnxruntime"),
    ("openvino", "fp32", "openvino"),
    ("openvino", "bf16", "openvino"),
    ("openvino", "int8", "openvino"),
    ("tflite", "fp32", "litert"),
    ("tflite", "int8", "litert"),
)
EAGER = ("eager", "channels_last", "bf16")
NOISE = 16  # images that ranges of untrained networks are read from
IMAGES, VALIDATION = 2000, 50  # of each class, with --train: few to validate, for that takes time at full resolution
SMALL = 96  # pixels, where most of it is learned; the rest fits what was learned to larger maps


def made(
    bundle: Bundle, folder: Path, *, images: GateImages | None, calibration: np.ndarray, threads: int
) -> tuple[list[Entry], dict[str, str]]:
    """Our files of a network, and why others are not there; gated where there are images to judge by."""
    entries, refused = [], {}
    for format_, precision, engine in OURS:
        label, out = f"ours {format_} {precision} {engine}", folder / f"{format_}-{precision}"
        if not is_installed(engine):
            refused[label] = f"{engine} is not installed"
            continue
        ranges = calibration if precision == "int8" else None
        try:
            if images is None:
                write_ungated(bundle, out, format=format_, precision=precision, calibration=ranges)
            else:
                export(
                    bundle,
                    out,
                    images=images,
                    format=format_,
                    precision=precision,
                    calibration=ranges,
                    faster_than=folder / f"{format_}-fp32",
                    threads=threads,
                )
        except MobileNetsError as error:
            refused[label] = str(error)
        else:
            entries.append(Entry(path=str(out), engine=engine, label=label))
    return entries, refused


def noise(bundle: Bundle) -> np.ndarray:
    side = bundle.spec.resolution
    return np.random.default_rng(0).integers(0, 256, (NOISE, side, side, bundle.spec.channels), dtype=np.uint8)


def timed(entries: list[Entry], *, threads: int, seconds: float) -> tuple[dict[str, Latency], dict[str, str]]:
    """Latencies by name. Who cannot be opened is left out, with the reason; the others are timed in turn."""
    refused: dict[str, str] = {}
    while entries:
        try:
            found = measure_all(entries, threads=threads, seconds=seconds)
        except MobileNetsError as error:
            guilty = [entry for entry in entries if entry.name in error.got or entry.path in error.got]
            if not guilty:
                raise
            refused |= {entry.name: error.got for entry in guilty}
            entries = [entry for entry in entries if entry not in guilty]
        else:
            return {each.name: each for each in found}, refused
    return {}, refused


def network_row(bundle: Bundle, *, dataset, threads: int, seconds: float) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        images = None if dataset is None else gate_images_of(bundle, dataset)
        seen = noise(bundle) if dataset is None else calibration_images(dataset, bundle.preprocess)
        ours, refused = made(bundle, Path(folder), images=images, calibration=seen, threads=threads)
        record, _ = read_artifact(Path(ours[0].path))
        peers = list(peers_of(record))
        ways = {entry.name: Peer.of_entry(entry.path).way for entry in peers}
        found, failed = timed([*ours, *peers], threads=threads, seconds=seconds)
    groups = {
        "ours": [each for name, each in found.items() if name not in ways],
        "eager": [each for name, each in found.items() if ways.get(name) in EAGER],
        "plain_onnxruntime": [each for name, each in found.items() if ways.get(name) == "onnxruntime"],
        "any_peer": [each for name, each in found.items() if name in ways],
    }
    best = {group: min(those, key=lambda each: each.median_ms) for group, those in groups.items() if those}
    row = {
        "model": bundle.spec.name,
        "resolution": bundle.spec.resolution,
        **{group: {"which": one.name, **told(one)} for group, one in best.items()},
        "ratios": {group: ratio(one, best["ours"]) for group, one in best.items() if group != "ours"},
        "all": {name: told(each) for name, each in found.items()},
        "left_out": refused | failed,
    }
    print(f"{bundle.spec.name}: {row['ours']}, {row['ratios']}", flush=True)
    return row


def told(one: Latency) -> dict:
    return {
        "median_ms": round(one.median_ms, 3),
        "low_high_ms": [round(one.low_ms, 3), round(one.high_ms, 3)],
        "min_ms": round(one.min_ms, 3),
        "n": one.n,
        "rounds": one.rounds,
        "engine": f"{one.engine} {one.engine_version}",
    }


def ratio(peer: Latency, ours: Latency) -> dict:
    """How many times as long: of the medians, and of the rounds side by side with its interval."""
    paired, low, high = paired_ratio(peer, ours)
    return {
        "of_medians": round(peer.median_ms / ours.median_ms, 3),
        "paired": round(paired, 3),
        "paired_low_high": [round(low, 3), round(high, 3)],
    }


def made_here(names: list[str], cifar: Path, out: Path, *, minutes: float) -> tuple[list[Path], str]:
    """Bundles of these networks at their papers' resolution, and the images that they were trained on."""
    data = str(linked(cifar.resolve(), out.resolve() / "data", images=IMAGES, validation=VALIDATION))
    for name in names:
        time = ("--time", f"{minutes:g}m")
        first, last = out / name / "small", out / name / "whole"
        trained(first, "train", f"{name}_1.0_{SMALL}", data, *time)
        resolution = str(compose(name).resolution)
        trained(
            last, "train", str(first / "best"), data, *time, "--resolution", resolution, "--lr", "0.1", "--set", "ema=0"
        )
    return [out / name / "whole" / "best" for name in names], data


def geometric_mean(rows: list[dict], group: str) -> float | None:
    """Over the networks that have such a peer; None without any."""
    ratios = [row["ratios"][group]["of_medians"] for row in rows if group in row["ratios"]]
    return round(math.exp(sum(map(math.log, ratios)) / len(ratios)), 3) if ratios else None


def latencies(given: argparse.Namespace) -> None:
    named = given.models or list(NETWORKS)
    if given.train:
        given.bundles, given.data = made_here(named, given.train, given.out, minutes=given.minutes)
    dataset = open_dataset(given.data) if given.bundles else None
    if given.bundles:
        bundles = [read_bundle(path) for path in given.bundles]
    else:
        bundles = [untrained_bundle(compose(name, resolution=given.resolution)) for name in named]
    rows = [network_row(each, dataset=dataset, threads=given.threads, seconds=given.seconds) for each in bundles]
    append(
        "peers",
        {
            "what": "latency of one image, ms; peers divided by our fastest file",
            "weights": "trained" if given.bundles else "random",
            "gates": f"passed on {Path(given.data).name}"
            if given.bundles
            else "none: random weights, nothing to be right about",
            "threads": given.threads,
            "seconds": given.seconds,
            "batch_size": 1,
            "geometric_means": {
                "fastest eager / ours": geometric_mean(rows, "eager"),
                "plain ONNX Runtime export / ours": geometric_mean(rows, "plain_onnxruntime"),
                "best peer / ours": geometric_mean(rows, "any_peer"),
            },
            "slower_than_a_peer": [row["model"] for row in rows if row["ratios"]["any_peer"]["of_medians"] < 1],
            "networks": rows,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--bundles", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--data", metavar="DATA")
    parser.add_argument("--train", type=Path, metavar="CIFAR_FOLDER")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--out", type=Path, metavar="DIR")
    parser.add_argument("--jpeg", nargs=2, type=Path, metavar=("DATA_ROOT", "BUNDLE"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resolution", type=int)
    given = parser.parse_args()
    if given.bundles and not given.data:
        parser.error("--bundles wants --data: the images that judge the files")
    if given.train and not given.out:
        parser.error("--train wants --out: where the bundles are kept")
    if given.jpeg:
        from from_jpeg import from_jpeg

        from_jpeg(*given.jpeg, threads=given.threads, seconds=given.seconds)
    else:
        latencies(given)


if __name__ == "__main__":
    main()
