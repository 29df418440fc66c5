"""Going on from a bundle whose norms came folded."""

import numpy as np
import torch
from torch import nn

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bundle import Bundle
from mobilenets.train import Recipe, train
from mobilenets.train.answer import BundleModel
from mobilenets.train.loop import EvalPixels

SIDE = 32


def folded(bundle: Bundle) -> Bundle:
    """The same network as a file with folded norms holds it: weight and shift only."""
    eps = bundle.spec.norm.eps
    tensors = dict(bundle.tensors)
    for name in [n.removesuffix(".running_var") for n in tensors if n.endswith(".running_var")]:
        scale = tensors[f"{name}.weight"] / np.sqrt(tensors[f"{name}.running_var"] + eps)
        conv = f"{name.removesuffix('.norm')}.conv.weight"
        tensors[conv] = tensors[conv] * scale.reshape(-1, 1, 1, 1)
        tensors[f"{name}.bias"] = tensors[f"{name}.bias"] - scale * tensors[f"{name}.running_mean"]
        tensors[f"{name}.weight"] = np.ones_like(scale)
        tensors[f"{name}.running_mean"] = np.zeros_like(scale)
        tensors[f"{name}.running_var"] = np.full_like(scale, 1 - eps)
    return Bundle(
        spec=bundle.spec,
        task="classify",
        labels=bundle.labels,
        preprocess=bundle.preprocess,
        tensors=tensors,
        history=({"step": "import", "norms": "folded"},),
    )


class Pictures:
    """Enough of `data.Store` for the loader."""

    def __init__(self) -> None:
        self.uniform = patches(96, SIDE)
        self.targets = np.arange(96) % 3

    def pixels(self, index: int) -> np.ndarray:
        return self.uniform[index]


def test_training_from_folded_norms_begins_where_the_file_ended(tmp_path) -> None:
    whole = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=SIDE, stride="small", classes=3))
    start = folded(whole)
    pixels = patches(8, SIDE)
    before = BundleModel(start, device="cpu").run(pixels)
    np.testing.assert_allclose(before, BundleModel(whole, device="cpu").run(pixels), atol=2e-3)
    outcome = train(
        start,
        Pictures(),
        EvalPixels(images=patches(6, SIDE), targets=np.arange(6) % 3),
        Recipe(
            epochs=1 / 3, batch_size=32, lr=1e-9, ema=0, norm_momentum=0.001, recalibrate=0, precision="fp32", warmup=0
        ),
        labels=start.labels,
        preprocess=start.preprocess,
        out=tmp_path / "run",
        device="cpu",
    )
    after = BundleModel(outcome.last, device="cpu").run(pixels)
    spread = float(before.std(axis=0).max())
    assert np.abs(after - before).max() < 0.05 * spread
    # What training sees in its batches is what the norms hold, so that the first steps do not tear the network apart.
    variances = [v for name, v in outcome.last.tensors.items() if name.endswith("running_var")]
    assert max(float(np.abs(v - (1 - start.spec.norm.eps)).max()) for v in variances) > 0.1


def test_in_training_mode_the_settled_network_says_nearly_what_it_says_in_evaluation(tmp_path) -> None:
    from mobilenets.nets import build, load_tensors
    from mobilenets.nets.settle import settle_norms
    from mobilenets.train.loader import normalise

    start = folded(settled_bundle(compose("mobilenet_v2", alpha=0.35, resolution=SIDE, stride="small", classes=3)))
    images = normalise(torch.from_numpy(patches(96, SIDE)), start.preprocess)
    network = build(start.spec)
    load_tensors(network, start.tensors)
    apart = []
    for settle in (False, True):
        if settle:
            settle_norms(network, [images])
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        with torch.no_grad():
            seen, meant = network.train()(images), network.eval()(images)
        apart.append(float((seen - meant).abs().max() / meant.std()))
    assert apart[0] > 10 * apart[1]
    assert apart[1] < 0.05
