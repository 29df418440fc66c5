"""Training speed, and the accuracy that goes with it, beside a stock PyTorch loop and timm's, on CIFAR-10.

python benchmarks/training.py speed CIFAR_FOLDER [--models M,M] [--seconds S] [--rounds N] [--threads T]
python benchmarks/training.py accuracy CIFAR_FOLDER [--model M] [--epochs E] [--seeds 0,1,2] [--out DIR]

CIFAR_FOLDER has train/ and test/ with one folder of images per class. All loops train the same tables at 32 pixels with
the same batch, shifts and mirrors of the images, and optimizer:

- ours: as `mobilenets train` runs. It decodes files once; that time is not counted, theirs decode in every epoch.
- stock: float32, PyTorch's own layers, torchvision's ImageFolder and transforms, a DataLoader with a worker per thread.
- timm: timm's data set, loader and optimizer around the same network in PyTorch's own layers, as its train script puts
  them together, in four ways: float32 or bfloat16 autocast, channels-last or not. The fastest of the first round counts
  and alone takes part in the others.

speed: each loop in a process of its own, in turn, several rounds; images a second after a warm-up, loading included.
accuracy: ours and stock for as many epochs, with one schedule and no averaged weights; all of test/ judges the last
weights of each, by the same float32 network. Rows go to results/training.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from rows import NETWORKS, append
from runs import judged, linked, trained

TIMM = ("timm", "timm channels_last", "timm amp", "timm amp channels_last")
LOOPS = ("ours", "stock", *TIMM)
WARM_UP = 8  # steps
SIDE, PADDING, BATCH = 32, 4, 128
MEAN = STD = (128 / 255,) * 3


def table(model: str):
    """The table at 32 pixels for ten classes: what `mobilenets train` makes of a name there."""
    from mobilenets.train.choose import spec_for

    return spec_for(model, native_side=SIDE, classes=10)


def stock_network(model: str):
    """The same network of PyTorch's own layers, with the same weights."""
    from torch import nn

    from mobilenets import nets

    def plain(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nets.DepthwiseConv2d | nets.FullConv2d):
                made = nn.Conv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                    groups=child.groups,
                    bias=child.bias is not None,
                )
                made.load_state_dict(child.state_dict())
                setattr(module, name, made)
            elif isinstance(child, nn.BatchNorm2d):
                child.momentum = 0.1  # PyTorch's own, and the recipe's; tables have those of their papers' long runs
            elif isinstance(child, GlobalMean):
                setattr(module, name, nn.AdaptiveAvgPool2d(1))
            elif isinstance(child, ConvNormAct):
                plain(child)
                setattr(module, name, nn.Sequential(child.pad, child.conv, child.norm, child.act))
            else:
                plain(child)

    from mobilenets.nets.parts import ConvNormAct, GlobalMean

    network = nets.build(table(model))
    plain(network)
    return network


def recipe(seed: int, epochs: float):
    """What all loops follow."""
    from mobilenets.train import Recipe

    return Recipe(epochs=epochs, seed=seed, ema=0, batch_size=BATCH, optimizer="sgd")


def our_learner(root: Path, model: str, how):
    """What `mobilenets train` steps with, and its batches."""
    from mobilenets import data
    from mobilenets.train.begin import begin
    from mobilenets.train.choose import preprocess_for, store_side
    from mobilenets.train.learner import Learner
    from mobilenets.train.loader import Batches
    from mobilenets.train.machine import compute_dtype, keep_freed_memory, pick_device
    from mobilenets.train.objective import CrossEntropy
    from mobilenets.train.team import join_team

    keep_freed_memory()
    dataset, spec, device = data.open_dataset(str(root)), table(model), pick_device("cpu")
    preprocess = preprocess_for(spec, native_side=SIDE)
    kept = data.store(dataset, "train", side=store_side(spec, native_side=SIDE), channels=spec.channels)
    batches = Batches(kept, how, preprocess)
    network = begin(spec, batches, labels=dataset.labels, preprocess=preprocess, seed=how.seed, device=device)
    return batches, Learner(
        network,
        batches,
        how,
        labels=dataset.labels,
        preprocess=preprocess,
        dtype=compute_dtype(how.precision, device),
        objective=CrossEntropy,
        team=join_team(),
    )


def our_steps(root: Path, model: str):
    """Endless steps of ours; each gives its number of images."""
    batches, learner = our_learner(root, model, recipe(0, 100))
    step = 0
    for epoch in range(10**6):
        for drawn in batches.epoch(epoch):
            learner.step(drawn, step=step, rate=0.01, done=1.0)
            step += 1
            yield len(drawn.targets)


def stock_loader(root: Path, threads: int, seed: int):
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    # mobilenets pads with black before it normalises, as this does
    how = [transforms.RandomCrop(SIDE, padding=PADDING), transforms.RandomHorizontalFlip()]
    images = ImageFolder(
        str(root / "train"), transforms.Compose([*how, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    )
    torch.manual_seed(seed)
    return DataLoader(images, BATCH, shuffle=True, num_workers=threads, drop_last=True, persistent_workers=True)


def stock_steps(root: Path, model: str, threads: int):
    """Endless steps of a loop as tutorials have it."""
    import torch

    torch.manual_seed(0)
    network = stock_network(model).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    loader = stock_loader(root, threads, 0)
    while True:
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), targets)
            loss.backward()
            optimizer.step()
            yield len(targets)


def timm_steps(root: Path, model: str, threads: int, *, amp: bool, channels_last: bool):
    """Endless steps of timm's parts, in the order of its train script."""
    import contextlib

    import torch
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    torch.manual_seed(0)
    network = stock_network(model).train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    optimizer = create_optimizer_v2(network, opt="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = create_dataset("", root=str(root), split="train", is_training=True)
    loader = create_loader(
        images,
        (3, SIDE, SIDE),
        BATCH,
        is_training=True,
        no_aug=False,
        train_crop_mode="rkrc",  # resized to the side, padded by 4, cropped
        hflip=0.5,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=threads,
        use_prefetcher=False,
        persistent_workers=True,
    )
    criterion = LabelSmoothingCrossEntropy(0.1)
    context = torch.autocast("cpu", dtype=torch.bfloat16) if amp else contextlib.nullcontext()
    while True:
        for pixels, targets in loader:
            pixels = pixels.contiguous(memory_format=layout)
            with context:
                loss = criterion(network(pixels), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield len(targets)


def steps_of(loop: str, root: Path, model: str, threads: int):
    if loop == "ours":
        return our_steps(root, model)
    if loop == "stock":
        return stock_steps(root, model, threads)
    return timm_steps(root, model, threads, amp="amp" in loop, channels_last="channels_last" in loop)


def timed(loop: str, root: Path, model: str, seconds: float, threads: int) -> float:
    """Images a second of one loop, in this process."""
    import torch

    torch.set_num_threads(threads)
    steps = steps_of(loop, root, model, threads)
    for _ in range(WARM_UP):
        next(steps)
    begun, images = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        images += next(steps)
    return images / (time.monotonic() - begun)


def stock_accuracy(root: Path, model: str, epochs: float, seed: int, threads: int) -> float:
    """Top-1 on test/ of the stock loop with our schedule."""
    import torch
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    how, network = recipe(seed, epochs), stock_network(model).train()
    grouped = {True: [], False: []}
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            heavy = isinstance(module, torch.nn.Linear) or getattr(module, "groups", 0) == 1
            grouped[heavy and name == "weight"].append(parameter)
    groups = [{"params": some, "weight_decay": how.weight_decay if heavy else 0.0} for heavy, some in grouped.items()]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=how.momentum, nesterov=True)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=how.label_smoothing)
    loader = stock_loader(root, threads, seed)
    total, step = round(epochs * len(loader)), 0
    while step < total:
        for images, targets in loader:
            for group in optimizer.param_groups:
                group["lr"] = how.peak_lr * how.rate(step / total)
            optimizer.zero_grad()
            criterion(network(images), targets).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), how.clip)
            optimizer.step()
            step += 1
            if step == total:
                break
    test = ImageFolder(str(root / "test"), transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)]))
    network.eval()
    with torch.no_grad():
        right = sum(
            int((network(images).argmax(1) == targets).sum())
            for images, targets in torch.utils.data.DataLoader(test, 500, num_workers=threads)
        )
    return right / len(test)


def process(*words: str) -> dict:
    """What a worker says."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def speed(given: argparse.Namespace) -> None:
    """One row per network."""
    for model in given.models.split(","):
        found: dict[str, list[float]] = {loop: [] for loop in LOOPS}
        fastest = TIMM[0]
        for number in range(given.rounds):
            for loop in ("ours", "stock", fastest) if number else LOOPS:
                words = ["worker", str(given.cifar), "--loop", loop, "--model", model]
                told = process(*words, "--seconds", str(given.seconds), "--threads", str(given.threads))
                found[loop].append(told["images_per_second"])
                print(f"{model}  {loop}: {found[loop][-1]:.0f} images/s", file=sys.stderr)
            fastest = fastest if number else max(TIMM, key=lambda loop: found[loop][0])
        middle = {loop: statistics.median(values) for loop, values in found.items()}
        spec = table(model)
        append(
            "training",
            {
                "what": "speed",
                "model": spec.name,
                "mult_adds": cost_of(spec),
                "batch": BATCH,
                "threads": given.threads,
                "seconds": given.seconds,
                "images_per_second": {loop: [round(value, 1) for value in values] for loop, values in found.items()},
                "times_stock": round(middle["ours"] / middle["stock"], 2),
                "times_timm": round(middle["ours"] / middle[fastest], 2),
                "fastest_timm": fastest,
                "timm": version("timm"),
            },
        )


def cost_of(spec) -> int:
    from mobilenets.arch import cost

    return cost(spec).mult_adds


def accuracy(given: argparse.Namespace) -> None:
    """One row: both loops, seed by seed."""
    with tempfile.TemporaryDirectory() as folder:
        root = given.out or Path(folder)
        data = linked(given.cifar, root / "cifar", images=4500, validation=500)
        top1: dict[str, list[float]] = {"ours": [], "stock": []}
        for seed in given.seeds.split(","):
            out = root / f"ours-{seed}"
            fixed = ["--epochs", f"{given.epochs:g}", "--seed", seed, "--set", "ema=0", "--set", "optimizer=sgd"]
            trained(out, "train", given.model, str(data), *fixed)
            top1["ours"].append(judged(out / "last", str(data))["top1"])
            kept = root / f"stock-{seed}.json"
            if not kept.exists():
                words = [
                    "worker",
                    str(data),
                    "--loop",
                    "stock",
                    "--model",
                    given.model,
                    "--epochs",
                    f"{given.epochs:g}",
                ]
                told = process(*words, "--seed", seed, "--threads", str(given.threads))
                kept.write_text(json.dumps(told))
            top1["stock"].append(100 * json.loads(kept.read_text())["top1"])
        mean = {loop: statistics.mean(values) for loop, values in top1.items()}
        append(
            "training",
            {
                "what": "accuracy",
                "model": table(given.model).name,
                "epochs": given.epochs,
                "training_images": 45_000,
                "test_images": 10_000,
                "threads": given.threads,
                "top1": {loop: [round(value, 2) for value in values] for loop, values in top1.items()},
                "mean": {loop: round(value, 2) for loop, value in mean.items()},
                "spread": {loop: round(statistics.stdev(v), 2) if len(v) > 1 else None for loop, v in top1.items()},
                "points": round(mean["ours"] - mean["stock"], 2),
            },
        )


def worker(given: argparse.Namespace) -> None:
    """One loop in this process."""
    if given.epochs is None:
        pace = timed(given.loop, given.cifar, given.model, given.seconds, given.threads)
        print(json.dumps({"images_per_second": pace}), flush=True)
    else:
        top1 = stock_accuracy(given.cifar, given.model, given.epochs, given.seed, given.threads)
        print(json.dumps({"top1": top1}), flush=True)
    os._exit(0)  # loaders' workers are waiting for batches that nobody wants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for name, does in (("speed", speed), ("accuracy", accuracy), ("worker", worker)):
        part = parts.add_parser(name)
        part.set_defaults(does=does)
        part.add_argument("cifar", type=Path)
        part.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
        if name != "accuracy":
            part.add_argument("--seconds", type=float, default=15)
        if name == "speed":
            part.add_argument("--models", default=",".join(NETWORKS))
            part.add_argument("--rounds", type=int, default=3)
        else:
            part.add_argument("--model", default="mobilenet_v1_0.25")
        if name == "accuracy":
            part.add_argument("--epochs", type=float, default=8)
            part.add_argument("--seeds", default="0,1,2")
            part.add_argument("--out", type=Path, help="keep the runs here; what is there is not made again")
        if name == "worker":
            part.add_argument("--loop", choices=LOOPS, required=True)
            part.add_argument("--epochs", type=float)
            part.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.does(given)


if __name__ == "__main__":
    main()
