"""The contract between the loop and an objective, held with one that carries state of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mobilenets.arch import ArchSpec
from mobilenets.errors import UsageError
from mobilenets.records import Preprocess
from mobilenets.tasks import Targets
from mobilenets.tasks.classify import loss
from mobilenets.train import Batch, CrossEntropy, EvalPixels, Outcome, Recipe, Setting, train
from mobilenets.train.loader import Batches

SIDE = 16


class Stateful:
    """Cross-entropy, with a learned scale and a buffer that counts; stops the run at one step."""

    def __init__(self, setting: Setting, *, stop_at: int | None, identity: str = "") -> None:
        self._plain = CrossEntropy(setting)
        self._stop_at, self._identity = stop_at, identity
        self.inside = nn.BatchNorm1d(1)
        self.seen: list[int] = []

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        return {"inside": self.inside}

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def told(self) -> Mapping[str, object]:
        mean, scale = self.inside.running_mean.item(), self.inside.weight.detach().item()
        return {"objective": "stateful", "mean": mean, "scale": scale}

    def answering(self, network: nn.Module) -> nn.Module:
        return network

    def eligible(self, done: float) -> bool:
        return True

    def learn(self, batch: Batch, *, step: int) -> Tensor:
        if step == self._stop_at:
            raise KeyboardInterrupt
        assert all(p.grad is None for p in self.inside.parameters())
        self.seen.append(step)
        own = self.inside(batch.images.mean(dim=(1, 2, 3))[:, None]).square().mean()
        own.backward()
        return self._plain.learn(batch, step=step) + own.detach()


def run(out: Path, spec: ArchSpec, objective: Callable[[Setting], Stateful], *, resume: str = "never") -> Outcome:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, SIDE, SIDE, 3), dtype=np.uint8)
    targets = np.arange(48, dtype=np.int64) % 3

    class Source:
        uniform = images

        def __init__(self) -> None:
            self.targets = targets

        def pixels(self, index: int) -> np.ndarray:
            return images[index]

    return train(
        spec,
        Source(),
        EvalPixels(images[:12], targets[:12]),
        Recipe(epochs=4.0, batch_size=16, lr=0.1, precision="fp32"),
        labels=("a", "b", "c"),
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        resume=resume,
        objective=objective,
    )


def test_the_state_of_an_objective_survives_a_stop_bit_by_bit(
    tiny_run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobilenets.train.loop.CHECKPOINT_SECONDS", 0.0)
    spec = tiny_run.tiny_spec()
    whole = run(tmp_path / "whole", spec, lambda s: Stateful(s, stop_at=None))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", spec, lambda s: Stateful(s, stop_at=7))
    rest = run(tmp_path / "part", spec, lambda s: Stateful(s, stop_at=None), resume="must")
    assert rest.last.digest == whole.last.digest
    told, again = whole.last.history[-1], rest.last.history[-1]
    assert (told["mean"], told["scale"]) == (again["mean"], again["scale"])
    assert told["scale"] != 1.0  # it was learned
    assert told["mean"] != 0.0


def test_another_objective_cannot_go_on_with_a_run(tiny_run: ModuleType, tmp_path: Path) -> None:
    run(tmp_path, tiny_run.tiny_spec(), lambda s: Stateful(s, stop_at=None, identity="one"))
    with pytest.raises(UsageError, match="not the same as then: the objective"):
        run(tmp_path, tiny_run.tiny_spec(), lambda s: Stateful(s, stop_at=None, identity="two"), resume="must")


def test_cross_entropy_gives_the_gradients_of_the_stock_loss(tiny_run: ModuleType) -> None:
    from mobilenets.nets import build

    torch.manual_seed(0)
    network = build(tiny_run.tiny_spec()).train()
    images = torch.randn(8, 3, SIDE, SIDE)
    classes = torch.arange(8) % 3
    recipe = Recipe(epochs=1.0, label_smoothing=0.1)
    source = type("Source", (), {"uniform": None, "targets": np.zeros(8, np.int64)})()
    preprocess = Preprocess(resolution=SIDE)
    setting = Setting(
        network=network,
        recipe=recipe,
        labels=("a", "b", "c"),
        preprocess=preprocess,
        batches=Batches(source, recipe, preprocess),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    torch.manual_seed(1)  # dropout
    got = CrossEntropy(setting).learn(Batch(images, Targets(classes), np.arange(8), 1.0), step=0)
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    torch.manual_seed(1)
    wanted = nn.CrossEntropyLoss(label_smoothing=0.1)(network(images), classes)
    wanted.backward()
    assert not got.requires_grad
    torch.testing.assert_close(got, wanted.detach())
    for one, other in zip(gradients, (p.grad for p in network.parameters()), strict=True):
        torch.testing.assert_close(one, other)


def test_blended_images_have_the_blend_of_the_losses_and_weights_count_by_class() -> None:
    torch.manual_seed(0)
    logits, one, other = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 0, 1])
    share = torch.tensor([1.0, 0.0, 0.3, 0.5, 0.9])
    parts = [torch.nn.functional.cross_entropy(logits, t, reduction="none", label_smoothing=0.1) for t in (one, other)]
    blend = (share * parts[0] + (1 - share) * parts[1]).mean()
    torch.testing.assert_close(loss(logits, Targets(one, mixed=other, share=share), 0.1), blend)
    weights = torch.tensor([0.5, 2.0, 1.0])
    weighed = (weights[one] * parts[0]).mean()
    torch.testing.assert_close(loss(logits, Targets(one, weights=weights), 0.1), weighed)
