import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from making import DarkAndLight
from mobilenets.arch import ArchSpec, compose
from mobilenets.bundle import read_bundle
from mobilenets.errors import CheckError, FileFormatError, UsageError
from mobilenets.metrics import softmax
from mobilenets.nets import DepthwiseConv2d, build
from mobilenets.records import Preprocess
from mobilenets.train import (
    Batch,
    CrossEntropy,
    EvalPixels,
    Outcome,
    Recipe,
    Setting,
    loop,
    named_recipe,
    train,
    with_settings,
)
from mobilenets.train.answer import BundleModel
from mobilenets.train.checkpoint import read_progress
from mobilenets.train.loop import CHECKPOINT_NAME
from mobilenets.train.update import apply_recipe, average, follow, make_optimizer

LABELS = ("dark", "light")
SIDE = 16
PREPROCESS = Preprocess(resolution=SIDE)


def spec(classes: int = 2) -> ArchSpec:
    return compose("mobilenet_v2", alpha=0.1, resolution=SIDE, stride="small", classes=classes)


def recipe(**changes) -> Recipe:
    return Recipe(**{"epochs": 3.0, "batch_size": 32, "lr": 0.1, "precision": "fp32", **changes})


def run(out: Path, *, start=None, labels=LABELS, **changes) -> Outcome:
    source = DarkAndLight()
    resume, objective = changes.pop("resume", "never"), changes.pop("objective", CrossEntropy)
    return train(
        start or spec(len(labels)),
        source,
        EvalPixels(source.uniform[:32], source.targets[:32]),
        recipe(**changes),
        labels=labels,
        preprocess=PREPROCESS,
        out=out,
        data_digest="patches",
        device="cpu",
        resume=resume,
        objective=objective,
    )


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_a_network_learns_what_can_be_learned(tmp_path: Path) -> None:
    outcome = run(tmp_path, epochs=30.0, lr=0.8)
    assert outcome.finished
    assert outcome.top1 >= 0.8
    assert outcome.rows[-1].train_loss < outcome.rows[0].train_loss


def test_two_runs_with_one_seed_are_bit_equal_and_another_seed_differs(tmp_path: Path) -> None:
    one, two, other = (run(tmp_path / n, seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2)))
    assert same(one.last.tensors, two.last.tensors)
    assert not same(one.last.tensors, other.last.tensors)


def test_best_and_last_are_bundles_on_disk_that_tell_how_they_were_made(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    for name, bundle in (("best", outcome.best), ("last", outcome.last)):
        read = read_bundle(tmp_path / name)
        assert same(read.tensors, bundle.tensors)
        (step,) = read.history
        assert step["step"] == "train"
        assert step["recipe"]["batch_size"] == 32
        assert step["validation_images"] == 32


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
import mobilenets.train.loop as loop
loop.CHECKPOINT_SECONDS = 0.0
loop.EVAL_SHARE = 1e9
from train import test_loop
test_loop.run(Path({out!r}), epochs={epochs}, rotate=5.0, cutout=0.2, resume="if_there")
"""


def kill_after(out: Path, code: str, *, steps: int, wait: float) -> bool:
    """Start the run, let it make at least so many steps and then so many seconds, and kill it; whether it ran yet."""

    def made() -> int:
        try:
            return read_progress(out / CHECKPOINT_NAME).step
        except FileFormatError:  # not there yet
            return 0

    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    before = made()
    while process.poll() is None and made() < before + steps:
        time.sleep(0.02)
    time.sleep(wait)
    running = process.poll() is None
    if running:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return running


@pytest.fixture
def every_epoch_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a busy machine leaves some out, and which weights are the best depends on that."""
    monkeypatch.setattr(loop, "EVAL_SHARE", 1e9)


@pytest.mark.usefixtures("every_epoch_is_validated")
def test_a_run_killed_at_any_moment_ends_bit_equal_to_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", epochs=12.0, rotate=5.0, cutout=0.2)
    out = tmp_path / "killed"
    code = SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out), epochs=12.0)
    assert kill_after(out, code, steps=3, wait=0.05)
    progress = read_progress(out / CHECKPOINT_NAME)
    resumed = run(out, epochs=12.0, rotate=5.0, cutout=0.2, resume="must")
    assert progress.step > 0
    assert same(resumed.last.tensors, whole.last.tensors)
    # How often is validated depends on how long it takes; what is found at a step does not.
    found = {row.step: row.eval_top1 for row in whole.rows}
    again = {row.step: row.eval_top1 for row in resumed.rows if row.step in found}
    assert again
    assert again == {step: found[step] for step in again}


@pytest.mark.slow
@pytest.mark.usefixtures("every_epoch_is_validated")
def test_twenty_kills_at_random_moments_leave_the_run_bit_equal(tmp_path: Path) -> None:
    epochs = 100.0
    whole = run(tmp_path / "whole", epochs=epochs, rotate=5.0, cutout=0.2)
    out = tmp_path / "killed"
    code = SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out), epochs=epochs)
    rng = np.random.default_rng()
    kills = sum(kill_after(out, code, steps=1, wait=rng.uniform(0, 0.4)) for _ in range(20))
    assert kills == 20
    assert 20 <= read_progress(out / CHECKPOINT_NAME).step < 300
    resumed = run(out, epochs=epochs, rotate=5.0, cutout=0.2, resume="must")
    assert same(resumed.last.tensors, whole.last.tensors)
    assert same(resumed.best.tensors, whole.best.tensors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_work_and_resume_ends_bit_equal(number: signal.Signals, tmp_path: Path) -> None:
    usual = signal.getsignal(number)
    whole = run(tmp_path / "whole", epochs=8.0)
    out = tmp_path / "stopped"

    def interrupt() -> None:
        while not (out / CHECKPOINT_NAME).exists():
            time.sleep(0.005)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    first = run(out, epochs=8.0)
    thread.join()
    assert signal.getsignal(number) is usual
    assert not first.finished
    assert (out / "best").is_dir()
    assert (out / "last").is_dir()
    resumed = run(out, epochs=8.0, resume="must")
    assert resumed.finished
    assert same(resumed.last.tensors, whole.last.tensors)


def test_resume_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        run(tmp_path, resume="must")


def test_resume_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(UsageError, match="another run"):
        run(tmp_path, resume="must", lr=0.2)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path, resume="must")
    assert again.rows == first.rows
    assert same(again.best.tensors, first.best.tensors)


def test_an_absurd_rate_is_lowered_once_and_then_stops_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckError, match=r"though the rate was lowered to 0\.3 of it at step 0.* lower lr"):
        run(tmp_path, lr=1e20, warmup=0.0, epochs=10.0)
    assert capsys.readouterr().err.count("going back to step 0 with 0.3 of the rate") == 1
    with pytest.raises(CheckError, match="lower lr"):  # a resumed run knows that it was lowered
        run(tmp_path, lr=1e20, warmup=0.0, epochs=10.0, resume="must")
    assert "going back" not in capsys.readouterr().err


class BreaksOnce:
    """Cross-entropy that spoils a weight at one step, the first time."""

    def __init__(self, setting: Setting, *, at: int) -> None:
        self._plain, self._network, self._at = CrossEntropy(setting), setting.network, at
        self.broke = 0
        self.modules, self.identity, self.told = {}, None, {}
        self.answering, self.eligible = self._plain.answering, self._plain.eligible

    def learn(self, batch: Batch, *, step: int) -> torch.Tensor:
        loss = self._plain.learn(batch, step=step)
        if step == self._at and not self.broke:
            self.broke += 1
            next(self._network.parameters()).data[0] = float("nan")
        return loss


@pytest.mark.usefixtures("every_epoch_is_validated")
def test_one_bad_step_is_rolled_back_and_the_rest_runs_at_a_lower_rate(tmp_path: Path) -> None:
    made: list[BreaksOnce] = []

    def objective(setting: Setting) -> BreaksOnce:
        made.append(BreaksOnce(setting, at=7))
        return made[-1]

    outcome = run(tmp_path, epochs=6.0, schedule="constant", warmup=0.0, objective=objective)
    assert made[0].broke == 1
    assert outcome.finished
    assert all(np.isfinite(tensor).all() for tensor in outcome.last.tensors.values())
    rate = 0.1 * 32 / 256
    assert [row.lr for row in outcome.rows] == pytest.approx([rate, rate, *[0.3 * rate] * 4])
    assert [row.step for row in outcome.rows] == [3, 6, 9, 12, 15, 18]
    assert read_progress(tmp_path / CHECKPOINT_NAME).lowered == 0.3
    assert outcome.last.history[-1]["rate_lowered_at"] == 6


def test_labels_that_do_not_match_the_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 classes, the data 3"):
        run(tmp_path, start=spec(2), labels=("a", "b", "c"))


def test_a_bundle_with_the_same_labels_goes_on_and_with_others_gets_a_fresh_classifier(tmp_path: Path) -> None:
    first = run(tmp_path / "first", epochs=2.0)
    tiny = {"epochs": 0.1, "lr": 1e-12, "weight_decay": 0.0, "ema": 0.0, "norm_momentum": 1e-9}
    on = run(tmp_path / "on", start=first.last, **tiny)
    other = run(tmp_path / "other", start=first.last, labels=("left", "right"), **tiny)
    name = "head.classifier.weight"
    np.testing.assert_allclose(on.last.tensors[name], first.last.tensors[name], atol=1e-6)
    assert np.abs(other.last.tensors[name] - first.last.tensors[name]).max() > 1e-3
    stem = "rows.0.conv.conv.weight"
    np.testing.assert_allclose(other.last.tensors[stem], first.last.tensors[stem], atol=1e-6)
    assert [step["step"] for step in on.last.history] == ["train", "train"]


def test_seconds_bound_a_run(tmp_path: Path) -> None:
    outcome = run(tmp_path, epochs=None, seconds=2.0)
    assert outcome.finished
    assert outcome.rows[-1].lr < 0.2 * max(row.lr for row in outcome.rows) + 1e-3


def test_weight_decay_spares_norms_biases_and_depthwise_filters() -> None:
    network = build(compose("mobilenet_v3_small", alpha=0.25, resolution=32, classes=3))
    decayed, spared = make_optimizer(network, recipe(optimizer="sgd")).param_groups
    assert decayed["weight_decay"] > 0 == spared["weight_decay"]
    ids = {id(p) for p in spared["params"]}
    for module in network.modules():
        if isinstance(module, DepthwiseConv2d | torch.nn.BatchNorm2d):
            assert {id(p) for p in module.parameters()} <= ids
        elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert id(module.weight) not in ids
            assert module.bias is None or id(module.bias) in ids
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw", "rmsprop"])
def test_every_optimizer_makes_a_step(optimizer: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, optimizer=optimizer, lr=0.01, epochs=1.0)
    assert np.isfinite(outcome.rows[-1].train_loss)


def test_what_the_recipe_says_of_decays_and_eps_reaches_the_optimizer() -> None:
    network = build(spec())
    given = {"square_decay": 0.95, "eps": 0.5, "momentum": 0.6}
    adam = make_optimizer(network, recipe(optimizer="adamw", **given)).defaults
    rms = make_optimizer(network, recipe(optimizer="rmsprop", **given)).defaults
    assert (adam["betas"], adam["eps"]) == ((0.6, 0.95), 0.5)
    assert (rms["alpha"], rms["momentum"], rms["eps"]) == (0.95, 0.6, 0.5)


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v4"])
def test_the_recipes_of_the_papers_run(name: str, tmp_path: Path) -> None:
    changes = {"batch_size": 32, "precision": "fp32", "epochs": 1}
    paper = with_settings(named_recipe(name), changes)
    outcome = run(tmp_path, **msgspec.structs.asdict(paper))
    assert np.isfinite(outcome.rows[-1].train_loss)


def test_recalibrated_norms_hold_the_statistics_of_the_weights_that_are_delivered(tmp_path: Path) -> None:
    slow = {"epochs": 2.0, "norm_momentum": 1e-6}  # statistics that never leave 0 and 1
    plain, *fresh = (run(tmp_path / f"{how}", recalibrate=how, **slow) for how in (0, 3, "auto"))
    name = "rows.0.conv.norm.running_var"
    learned = [n for n in plain.last.tensors if "running" not in n]
    assert np.abs(plain.last.tensors[name] - 1).max() < 1e-3
    for made in fresh:
        assert np.abs(made.last.tensors[name] - 1).max() > 0.1
        assert all(np.array_equal(plain.last.tensors[n], made.last.tensors[n]) for n in learned)


def test_a_recalibrated_run_that_goes_on_ends_bit_equal(
    tmp_path: Path, ctrl_c_at: Callable[[int], AbstractContextManager[None]]
) -> None:
    settings = {"epochs": 3.0, "recalibrate": 2, "mixup": 0.2, "drop_path": 0.2, "erase": 0.3, "randaugment": 1}
    whole = run(tmp_path / "whole", **settings)
    with ctrl_c_at(5):
        assert not run(tmp_path / "part", **settings).finished
    rest = run(tmp_path / "part", resume="must", **settings)
    assert same(rest.last.tensors, whole.last.tensors)


def test_stochastic_depth_leaves_branches_out_in_training_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    network = build(compose("mobilenet_v2", alpha=0.5, resolution=32, stride="small", classes=2))
    place = next(i for i, p in enumerate(network.spec.placed()) if i > 0 and p.row.residual(p.in_channels))
    apply_recipe(network, recipe(drop_path=0.5))
    row, rate = network.rows[place], 0.5 * (place + 1) / len(network.rows)
    for module in row.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    row.training = False
    inputs = torch.randn(1, next(row.parameters()).shape[1], 8, 8).expand(2000, -1, -1, -1)
    with torch.no_grad():
        branch = row(inputs) - inputs
        row.training = True
        dropped = row(inputs) - inputs
    left_out = (dropped == 0).flatten(1).all(dim=1)
    assert abs(left_out.float().mean().item() - rate) < 0.05
    torch.testing.assert_close(dropped[~left_out], branch[~left_out] / (1 - rate), rtol=1e-3, atol=1e-4)


def test_the_average_follows_a_share_of_the_steps_bounded_by_its_decay() -> None:
    def moved(step: int, **changes: float) -> float:
        old, new = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
        old.weight.data.zero_()
        new.weight.data.fill_(1)
        follow(old, new, recipe(**changes), step=step)
        return old.weight.item()

    assert moved(0) == 1.0
    assert moved(1000, ema=0.1) == pytest.approx(4 / 104)
    assert moved(100_000, ema=0.1, ema_decay=0.999) == pytest.approx(4 / 1004)
    assert moved(1001, ema=0.1) == 0.0


def test_averaging_moves_by_its_weight_and_includes_running_statistics() -> None:
    old, new = build(spec()), build(spec())
    for tensor in old.state_dict().values():
        tensor.zero_()
    for tensor in new.state_dict().values():
        tensor.fill_(4)
    average(old, new, weight=0.25)
    values = {name: tensor.flatten()[0].item() for name, tensor in old.state_dict().items()}
    assert {values[n] for n in values if not n.endswith("num_batches_tracked")} == {1.0}


def test_a_photo_source_without_a_common_size_trains_too(tmp_path: Path) -> None:
    class Photos(DarkAndLight):
        def __init__(self) -> None:
            super().__init__()
            self._all = [np.ascontiguousarray(np.resize(p, (20 + i % 5, 24, 3))) for i, p in enumerate(self.uniform)]
            self._eval = self.uniform
            self.uniform = None

        def pixels(self, index: int) -> np.ndarray:
            return self._all[index]

    source = Photos()
    outcome = train(
        spec(),
        source,
        EvalPixels(source._eval[:32], source.targets[:32]),
        msgspec.structs.replace(recipe(), epochs=1.0),
        labels=LABELS,
        preprocess=PREPROCESS,
        out=tmp_path,
        device="cpu",
    )
    assert outcome.finished


@pytest.mark.parametrize("remedy", [{"class_weights": "inverse"}, {"sampling": "balanced"}])
def test_a_remedy_for_rare_classes_raises_their_share_of_the_answers(remedy: dict, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = (np.arange(200) % 20 == 0).astype(np.int64)  # one of twenty is of class 1
    noise = rng.integers(0, 120, (200, SIDE, SIDE, 3))
    images = (noise + 20 * targets[:, None, None, None]).astype(np.uint8)  # hard to tell apart

    class Rare(DarkAndLight):
        def __init__(self) -> None:
            self.uniform, self.targets = images, targets

    def share(out: Path, **changes) -> float:
        source = Rare()
        settings = {"epochs": 4.0, "batch_size": 40, "optimizer": "sgd", "label_smoothing": 0.0, "lr": 0.2, "ema": 0.0}
        bundle = train(
            spec(),
            source,
            EvalPixels(images, targets),
            recipe(**settings, **changes),
            labels=LABELS,
            preprocess=PREPROCESS,
            out=out,
            device="cpu",
        ).last
        return float(softmax(BundleModel(bundle, device="cpu").run(images))[:, 1].mean())

    plain = share(tmp_path / "plain")
    assert plain < 0.25
    assert share(tmp_path / "remedy", **remedy) > plain + 0.1


def test_a_run_begins_with_smaller_images_and_ends_with_whole_ones(tmp_path: Path) -> None:
    sides: list[int] = []

    class Watched(CrossEntropy):
        def learn(self, batch: Batch, *, step: int) -> torch.Tensor:
            sides.append(batch.images.shape[-1])
            return super().learn(batch, step=step)

    outcome = run(tmp_path, epochs=2.0, small_side=0.75, small_until=0.4, objective=Watched)
    assert sides == [12] * 3 + [16] * 3  # 6 steps, of which the first three begin before 0.4 of the run
    assert outcome.finished
