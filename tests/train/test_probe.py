"""How a run computes is tried on copies: what is learned stays, and a stopped run goes on in the way it began."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from making import patches
from mobilenets.errors import UsageError
from mobilenets.records import Preprocess
from mobilenets.train import (
    Batch,
    CrossEntropy,
    EvalPixels,
    Outcome,
    Recipe,
    Setting,
    Tuning,
    Way,
    compiled,
    loop,
    machine,
    probe,
    train,
    trial,
)
from mobilenets.train.checkpoint import read_progress
from mobilenets.train.compiled import Account
from mobilenets.train.loop import CHECKPOINT_NAME
from mobilenets.train.machine import on_threads
from mobilenets.train.probe import Speed, pick, speeds_of, ways_open
from mobilenets.train.trial import Trial, measure
from mobilenets.train.way import usual_way

SIDE = 16
CPU = torch.device("cpu")
PROBE, COMPILE = Tuning(probe=True), Tuning(compile=True)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(compiled, "COMPARE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def run(tiny_run: ModuleType) -> Callable[..., Outcome]:
    """Six steps; `stop_at` breaks off before one of them, after its checkpoint."""

    def run(out: Path, tuning: Tuning, *, stop_at: int = -1, resume: str = "never", **changes) -> Outcome:
        source = SimpleNamespace(uniform=patches(48, SIDE).copy(), targets=np.arange(48) % 3)

        def objective(setting: Setting) -> CrossEntropy:
            made = CrossEntropy(setting)
            learn = made.learn

            def until(batch: Batch, *, step: int) -> Tensor:
                if step == stop_at and not setting.trial:
                    raise KeyboardInterrupt
                return learn(batch, step=step)

            made.learn = until
            return made

        return train(
            tiny_run.tiny_spec(),
            source,
            EvalPixels(source.uniform[:12], source.targets[:12]),
            Recipe(**{"epochs": 2.0, "batch_size": 16, "lr": 0.5, "precision": "fp32", **changes}),
            labels=("a", "b", "c"),
            preprocess=Preprocess(resolution=SIDE),
            out=out,
            device="cpu",
            resume=resume,
            objective=objective,
            tuning=tuning,
        )

    return run


def same(one: Outcome, other: Outcome) -> bool:
    pairs = zip(one.last.tensors.items(), other.last.tensors.items(), strict=True)
    return all(a == b and np.array_equal(x, y) for (a, x), (b, y) in pairs)


def way(precision: str, threads: int, *, compiled: bool = False) -> Way:
    return Way(precision=precision, threads=threads, compiled=compiled)


def test_what_is_learned_does_not_depend_on_whether_copies_were_measured(run, tmp_path: Path, capsys) -> None:
    with on_threads(1):
        plain = run(tmp_path / "plain", Tuning())
        probed = run(tmp_path / "probed", PROBE)
    assert same(plain, probed)
    told = capsys.readouterr().err
    assert "probe: steps of 16 images on copies" in told
    assert "images/s" in told
    assert "probe: float32, 1 thread: nothing else was measured" in told
    assert probed.last.history[-1]["way"] == {"precision": "fp32", "threads": 1, "compiled": False}
    assert "way" not in plain.last.history[-1]


def test_a_probed_run_goes_on_as_it_began_and_measures_nothing(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    chosen = way("bf16", 1)
    monkeypatch.setattr(probe, "pick", lambda speeds: (Speed(chosen, 1.0, 1), "it is the test's"))
    whole = run(tmp_path / "whole", PROBE, precision="auto")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", PROBE, stop_at=3, precision="auto")
    assert read_progress(tmp_path / "part" / CHECKPOINT_NAME).way == chosen
    monkeypatch.setattr(probe, "measure", lambda *_, **__: pytest.fail("measured again"))
    rest = run(tmp_path / "part", PROBE, resume="must", precision="auto")
    assert rest.last.digest == whole.last.digest
    assert rest.last.history[-1]["compute"] == "bfloat16"
    assert capsys.readouterr().err.count("it is the test's") == 2


def test_a_run_that_began_untried_is_not_tried_later(run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Tuning(), stop_at=3)
    with pytest.raises(UsageError, match="not the same as then: what was tried for speed"):
        run(tmp_path, PROBE, resume="must")


def test_the_threads_of_the_way_are_set_for_the_run_only(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    learn = CrossEntropy.learn

    def watched(self: CrossEntropy, batch: Batch, *, step: int) -> Tensor:
        seen.append((self._setting.trial, torch.get_num_threads()))
        return learn(self, batch, step=step)

    monkeypatch.setattr(CrossEntropy, "learn", watched)
    monkeypatch.setattr(probe, "pick", lambda speeds: (Speed(way("fp32", 1), 1.0, 1), "it is the test's"))
    with on_threads(2):
        run(tmp_path, PROBE, epochs=0.4)
        assert torch.get_num_threads() == 2
    assert (True, 2) in seen
    assert {threads for trial, threads in seen if not trial} == {1}


def test_precision_and_threads_are_open_where_the_recipe_and_the_machine_leave_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, fixed = Recipe(epochs=1.0), Recipe(epochs=1.0, precision="fp32")
    monkeypatch.setattr(machine, "has_bfloat16", lambda: True)
    monkeypatch.setattr(machine, "bfloat16_is_fast", lambda: True)
    with on_threads(2):
        assert ways_open(free, CPU) == (way("bf16", 2), way("fp32", 2), way("bf16", 1), way("fp32", 1))
        assert ways_open(free, CPU)[0] == usual_way(free, CPU)
        assert ways_open(fixed, CPU) == (way("fp32", 2), way("fp32", 1))
        monkeypatch.setattr(machine, "bfloat16_is_fast", lambda: False)
        assert ways_open(free, CPU) == (way("fp32", 2), way("bf16", 2), way("fp32", 1), way("bf16", 1))
        assert ways_open(free, CPU)[0] == usual_way(free, CPU)
        monkeypatch.setattr(machine, "has_bfloat16", lambda: False)
        assert ways_open(free, CPU) == (way("fp32", 2), way("fp32", 1))
    with on_threads(1):
        assert ways_open(free, CPU) == (way("fp32", 1),)


@pytest.mark.parametrize(
    ("speeds", "chosen", "why"),
    [
        ({("bf16", 2): 300.0, ("fp32", 2): 200.0, ("fp32", 1): 150.0}, ("bf16", 2), "the fastest, 1.50x the next"),
        ({("bf16", 2): 208.0, ("fp32", 2): 200.0}, ("fp32", 2), "bfloat16 is only 4 % faster, and it rounds"),
        ({("fp32", 2): 199.0, ("fp32", 1): 200.0}, ("fp32", 1), "the fastest, 1.01x the next"),
        ({("bf16", 2): 9.0}, ("bf16", 2), "nothing else was measured"),
    ],
)
def test_the_fastest_is_picked_but_rounding_has_to_pay(speeds: dict, chosen: tuple, why: str) -> None:
    measured = [Speed(way(*key), rate, 5) for key, rate in speeds.items()]
    best, told = pick(measured)
    assert (best.way, told) == (way(*chosen), why)


class Clock:
    """A clock that only steps move."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def trials_of(clock: Clock, *costs: float) -> list[Trial]:
    def learner(cost: float) -> SimpleNamespace:
        def step(drawn: object, *, step: int, rate: float, done: float) -> Tensor:
            assert (rate, done) == (0, 1)
            clock.now += cost
            return torch.tensor(0.0)

        return SimpleNamespace(step=step)

    return [Trial(way("fp32", torch.get_num_threads()), learner(cost), ["batch"]) for cost in costs]


def test_ways_take_turns_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    fast, slow = trials_of(clock, 0.1, 0.4)
    measure([fast, slow], seconds=20.0)
    assert 20.0 <= clock.now < 20.5
    assert (fast.step_seconds, slow.step_seconds) == (pytest.approx(0.1), pytest.approx(0.4))
    assert len(fast.seconds) * 0.1 == pytest.approx(len(slow.seconds) * 0.4, rel=0.15)


def test_a_way_that_had_no_turn_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    trials = trials_of(clock, 30.0, 30.0)
    measure(trials, seconds=20.0)
    (speed,) = speeds_of(trials, images=60)
    assert (speed.images_per_second, speed.steps) == (2.0, 1)


def test_where_steps_are_slow_all_are_compared_by_their_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    trials = trials_of(clock, 9.0, 6.0)
    measure(trials, seconds=20.0)
    assert [len(each.seconds) for each in trials] == [1, 0]
    assert [speed.images_per_second for speed in speeds_of(trials, images=18)] == [2.0, 3.0]


def test_the_account_says_when_compiling_has_paid() -> None:
    told = Account(compile_seconds=24.0, plain=0.5, compiled=0.375, images=128)
    assert (told.pays, told.even_after) == (True, 192)
    assert told.describe(steps=1000) == (
        "torch.compile: 24.0 s to compile; 256 images/s without, 341 with (1.33x): paid for after 192 steps"
    )
    assert told.describe(steps=100).endswith("and this run has 100; it is kept, for the compiling is done")
    never = Account(compile_seconds=24.0, plain=0.5, compiled=0.49, images=128)
    assert (never.pays, never.even_after) == (False, None)
    assert never.describe(steps=None).endswith("it never pays, so the run goes on without")


def test_what_compiling_took_is_what_the_first_steps_took_beyond_the_later_ones() -> None:
    plain, other = trials_of(Clock(), 1.0, 1.0)
    plain.warming, plain.seconds = [3.0], [0.5, 0.7, 0.6]
    other.warming, other.seconds = [20.0, 2.0], [0.5, 0.4, 0.3]
    made = compiled.account_of(plain, other, images=16)
    assert (made.compile_seconds, made.plain, made.compiled) == (pytest.approx(21.2), 0.6, 0.4)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The networks that were compiled; nothing is built, their traced graphs run as they are."""
    found: list[nn.Module] = []
    stock = nn.Module.compile

    def compile(self: nn.Module, **options) -> None:
        found.append(self)
        stock(self, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile)
    return found


def counted(monkeypatch: pytest.MonkeyPatch, *, pays: bool) -> None:
    found = Account(compile_seconds=6.0, plain=0.2, compiled=0.1 if pays else 0.2, images=16)
    monkeypatch.setattr(compiled, "account_of", lambda *_, **__: found)


def test_a_compiled_run_goes_on_compiled_and_ends_with_the_same_bits(
    run, traced: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    counted(monkeypatch, pays=True)
    whole = run(tmp_path / "whole", COMPILE, ema=0.0)
    assert len(traced) == 2  # a copy, and the network itself
    assert "paid for after 60 steps, and this run has 6" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", COMPILE, stop_at=3, ema=0.0)
    rest = run(tmp_path / "part", COMPILE, resume="must", ema=0.0)
    assert "s to compile anew" in capsys.readouterr().err
    assert rest.last.digest == whole.last.digest
    assert rest.last.history[-1]["way"]["compiled"] is True
    plain = run(tmp_path / "plain", Tuning(), ema=0.0)
    for name, tensor in plain.last.tensors.items():
        np.testing.assert_allclose(whole.last.tensors[name], tensor, rtol=1e-2, atol=1e-3, err_msg=name)


def test_what_does_not_pay_is_left_alone(
    run, traced: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    counted(monkeypatch, pays=False)
    made = run(tmp_path / "tried", COMPILE)
    assert len(traced) == 1
    assert "it never pays, so the run goes on without" in capsys.readouterr().err
    assert same(made, run(tmp_path / "plain", Tuning()))


def broken(self: nn.Module, **options) -> None:
    def call(*_: object, **__: object) -> None:
        raise RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: No working C++ compiler found in ...")

    self._compiled_call_impl = call


def test_without_a_compiler_the_run_goes_on_and_says_what_is_missing(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    plain = run(tmp_path / "plain", Tuning())
    monkeypatch.setattr(nn.Module, "compile", broken)
    made = run(tmp_path / "tried", COMPILE)
    told = capsys.readouterr().err
    assert "torch.compile does not work here: there is no C++ compiler: install" in told
    assert same(made, plain)


def test_a_compiled_run_does_not_go_on_where_nothing_can_be_compiled(
    run, traced: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, pays=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, COMPILE, stop_at=3)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    monkeypatch.setattr(nn.Module, "compile", broken)
    with pytest.raises(UsageError, match=r"this run was compiled, and torch\.compile does not work here"):
        run(tmp_path, COMPILE, resume="must")
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


@pytest.mark.slow  # a C++ compiler works for a minute
def test_loops_that_torch_writes_end_a_stopped_run_with_the_same_bits(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, pays=True)
    whole = run(tmp_path / "whole", COMPILE)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", COMPILE, stop_at=3)
    torch.compiler.reset()  # as in a new process
    assert run(tmp_path / "part", COMPILE, resume="must").last.digest == whole.last.digest
