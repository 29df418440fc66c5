"""Training in float16, which only GPUs are fast at; on a CPU it computes the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from making import DarkAndLight
from mobilenets.arch import compose
from mobilenets.records import Preprocess
from mobilenets.train import CrossEntropy, EvalPixels, Outcome, Recipe, distil, train
from mobilenets.train.elastic import elastic
from mobilenets.train.elastic_policy import ElasticPolicy
from mobilenets.train.loop import CHECKPOINT_NAME
from mobilenets.train.loss_scale import CALM, FIRST, LossScale
from mobilenets.train.machine import compute_dtype
from mobilenets.train.probe import ways_open

SIDE = 16
CPU = torch.device("cpu")


def run(out: Path, **changes) -> Outcome:
    source, resume, objective = DarkAndLight(), changes.pop("resume", "never"), changes.pop("objective", CrossEntropy)
    return train(
        compose("mobilenet_v4_fused", alpha=0.2, resolution=SIDE, stride="small", classes=2),
        source,
        EvalPixels(source.uniform[:32], source.targets[:32]),
        Recipe(**{"epochs": 4.0, "batch_size": 32, "lr": 0.1, "precision": "fp16", **changes}),
        labels=("dark", "light"),
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        resume=resume,
        objective=objective,
    )


def weights(outcome: Outcome) -> np.ndarray:
    return np.concatenate([tensor.ravel() for name, tensor in outcome.last.tensors.items() if "running" not in name])


def apart(out: Path, **changes) -> float:
    """How far one step of SGD in float16 is from one in float32, as a part of the latter."""
    step = {"optimizer": "sgd", "epochs": 0.34, "warmup": 0.0, "schedule": "constant", "ema": 0.0, "dropout": 0.0}
    step |= {"clip": 0.0, **changes}
    begun = weights(run(out / "begun", **step, precision="fp32", lr=1e-12))
    half, exact = (weights(run(out / precision, **step, precision=precision)) for precision in ("fp16", "fp32"))
    return float(np.linalg.norm(half - exact) / np.linalg.norm(exact - begun))


def test_a_step_is_that_of_float32_and_would_not_be_without_scaling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert 0 < apart(tmp_path / "scaled") < 0.05
    monkeypatch.setattr("mobilenets.train.loss_scale.FIRST", 2.0**-24)  # as if the loss were smaller by that
    assert apart(tmp_path / "vanished") > 0.5


def test_teachers_and_several_widths_are_scaled_too(tmp_path: Path) -> None:
    teacher = run(tmp_path / "teacher", precision="fp32")
    assert apart(tmp_path / "student", objective=distil(teacher.last)) < 0.05
    policy = ElasticPolicy(narrowest=0.1, widest=0.2, alone=0.0)
    assert apart(tmp_path / "widths", objective=elastic(policy)) < 0.05


def test_a_resumed_run_ends_bit_equal(ctrl_c_at, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", epochs=2.0)
    assert whole.last.history[-1]["compute"] == "float16"
    with ctrl_c_at(2):
        assert not run(tmp_path / "stopped", epochs=2.0).finished
    assert np.array_equal(weights(run(tmp_path / "stopped", epochs=2.0, resume="must")), weights(whole))
    checkpoints = [(tmp_path / name / CHECKPOINT_NAME).read_bytes() for name in ("whole", "stopped")]
    assert all(b"loss_scale.factor" in content for content in checkpoints)


def test_a_step_that_overflows_is_one_without_gradients_and_halves_the_factor() -> None:
    scale, (one, other) = LossScale(CPU), (nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3)))
    one.grad, other.grad = torch.full((2,), FIRST), torch.full((3,), 3 * FIRST)
    scale.down([one, other])
    assert (one.grad.tolist(), other.grad.tolist(), float(scale.factor)) == ([1, 1], [3, 3, 3], FIRST)
    one.grad[1] = torch.inf
    scale.down([one, other, nn.Parameter(torch.ones(1))])
    assert (one.grad.tolist(), other.grad.tolist(), float(scale.factor)) == ([0, 0], [0, 0, 0], FIRST / 2)
    for _ in range(CALM):
        scale.down([one])
    assert float(scale.factor) == FIRST


def test_gpus_without_bfloat16_compute_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, recipe = torch.device("cuda"), Recipe(epochs=1.0)
    for there, usual in ((False, "fp16"), (True, "bf16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert compute_dtype("auto", gpu) == {"fp16": torch.float16, "bf16": torch.bfloat16}[usual]
        assert [way.precision for way in ways_open(recipe, gpu)] == [usual, "fp32"]
    assert compute_dtype("auto", CPU) != torch.float16
