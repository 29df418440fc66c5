"""The ledger's run: what stands, what is taken back, what is written, and going on after a stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import drowned
from compress.tables import table
from ledger.measurements import clock
from mobilenets.arch import ArchSpec, BottleneckRow, ConvRow, cost
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.compress import Limits, Pruned, Target
from mobilenets.data import Dataset
from mobilenets.errors import UsageError
from mobilenets.export import artifact as exporting
from mobilenets.ledger import Ledger, Measured, Pruning, account, compress, steps
from mobilenets.records import read_record
from mobilenets.runtime import open_artifact
from mobilenets.train import Recipe
from mobilenets.train.run import train_run

SPEC = table(ConvRow(out=12, stride=2), BottleneckRow(out=12, expanded=24), ConvRow(out=24, kernel=1), classes=3)
RECIPE = Recipe(epochs=2.0, batch_size=16, lr=0.2, precision="fp32")
HALF = Target(of="mult_adds", most=0.5, relative=True)
NARROW = Pruning(limits=Limits(divisor=2, minimum=2))
Tried = Callable[..., Ledger]


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drowned.shades(tmp_path_factory.mktemp("shades"))


@pytest.fixture(scope="module")
def whole(shades: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    recipe = msgspec.structs.replace(RECIPE, epochs=12.0, lr=1.0)
    return train_run(SPEC, shades, recipe, out=tmp_path_factory.mktemp("whole"), device="cpu").best


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "measure_all", clock())
    monkeypatch.setattr(exporting, "measure_all", clock())


@pytest.fixture
def tried(whole: Bundle, shades: Dataset, tmp_path: Path) -> Tried:
    def run(**changes: object) -> Ledger:
        told = {"out": tmp_path / "out", "recipe": RECIPE, "target": HALF, "pruning": NARROW, "threads": 1}
        told |= {"device": "cpu", "max_drop": 20.0, **changes}
        return compress(told.pop("bundle", whole), shades, **told)

    return run


def confused(bundle: Bundle) -> Bundle:
    """It says the opposite of what it said."""
    turned = {
        name: -tensor if name.startswith("head.classifier.") else tensor for name, tensor in bundle.tensors.items()
    }
    return replace(bundle, tensors=turned)


def pessimistic(precision: str) -> Callable[[ArchSpec], float]:
    """Milliseconds as the clock has them, at the upper end of its interval."""
    return lambda spec: 1.01 * (0.5 if precision == "int8" else 1.0) * cost(spec).mult_adds / 1e6


def numbers(ledger: Ledger, *lines: int) -> list[Measured]:
    """What was measured of some lines."""
    found = [ledger.lines[line].measured for line in lines]
    assert None not in found
    return found  # type: ignore[return-value]


def verdicts(ledger: Ledger) -> list[tuple[str, str]]:
    return [(line.step, line.verdict) for line in ledger.lines]


def test_what_pays_stands_and_is_handed_out_with_its_account(tried: Tried, whole: Bundle, tmp_path: Path) -> None:
    ledger = tried()
    out = tmp_path / "out"
    assert verdicts(ledger) == [
        ("start", "start"),
        ("distil", "left out"),
        ("prune", "kept"),
        ("quantise", "kept"),
        ("qat", "left out"),
        ("weights", "left out"),
    ]
    assert ledger.lines[4].why == "int8 stands without it"
    assert ledger.lines[5].why == "its weights are bytes already"
    start, pruned, last = numbers(ledger, 0, 2, 3)
    assert ledger.finished
    assert ledger.over is None
    assert ledger.most == 0.5 * start.mult_adds >= pruned.mult_adds == last.mult_adds
    assert (start.precision, pruned.precision, last.precision) == ("fp32", "fp32", "int8")
    assert pruned.faster_than_start == pruned.faster_than_before
    assert last.faster_than_before.value == pytest.approx(2.0)
    assert last.faster_than_start.value == pytest.approx(2 * start.mult_adds / last.mult_adds)
    assert (start.test.n, last.test.n, pruned.test) == (15, 15, None)
    best, artifact = read_bundle(out / "best"), open_artifact(out / "artifact").artifact
    assert best.digest == last.digest == artifact.bundle_digest != whole.digest
    assert artifact.precision == "int8"
    assert artifact.gates
    assert all(gate.passed for gate in artifact.gates)
    assert [entry["step"] for entry in best.history] == ["train", "prune", "train"]
    assert read_record(out / "ledger.json", Ledger, what="ledger") == ledger
    assert last.size_mb == pytest.approx((out / "artifact" / artifact.file).stat().st_size / 1e6)


def test_the_table_has_every_number_with_its_difference_to_what_stood_before(tried: Tried, tmp_path: Path) -> None:
    ledger = tried()
    text = (tmp_path / "out" / "ledger.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    start, pruned, last = numbers(ledger, 0, 2, 3)
    assert rows[2][4] == f"{start.size_mb:.3f}"
    assert rows[4][5] == f"{pruned.mult_adds / 1e6:.2f} ({(pruned.mult_adds - start.mult_adds) / 1e6:+.2f})"
    assert rows[5][4] == f"{last.size_mb:.3f} ({last.size_mb - pruned.size_mb:+.3f})"
    assert rows[5][7] == "2.00 (2.00 to 2.00)"
    assert rows[3][2:] == [""] * 7
    assert "- distil: left out: no teacher was given" in text
    assert "and 15 test images" in text


def test_what_loses_too_much_is_rolled_back_and_the_next_step_starts_before_it(
    tried: Tried, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = steps.prune_run

    def spoilt(*given: object, **named: object) -> Pruned:
        made = real(*given, **named)
        worse = confused(made.best)
        worse.write(Path(str(named["out"])) / "best")
        return replace(made, best=worse)

    monkeypatch.setattr(steps, "prune_run", spoilt)
    ledger = tried()
    assert verdicts(ledger)[2:4] == [("prune", "rolled back"), ("quantise", "kept")]
    assert "points below the start's 100.00 %, and 20 may be lost" in ledger.lines[2].why
    pruned, last = numbers(ledger, 2, 3)
    assert pruned.digest != whole.digest == last.digest
    assert last.faster_than_before == last.faster_than_start
    assert read_bundle(tmp_path / "out" / "best").digest == whole.digest
    assert open_artifact(tmp_path / "out" / "artifact").artifact.bundle_digest == whole.digest
    # Half of the products were asked for, and what is handed out has all of them.
    assert ledger.over is not None
    assert ledger.over.startswith("mult_adds is ")
    assert "The bound is not kept" in (tmp_path / "out" / "ledger.md").read_text()


def test_what_brings_nothing_is_rolled_back(tried: Tried, whole: Bundle) -> None:
    ledger = tried(steps=("distil",), target=None, teacher=whole)
    assert verdicts(ledger) == [("start", "start"), ("distil", "rolled back")]
    assert "it brings nothing: +0.00 points" in ledger.lines[1].why


def test_a_gate_that_refuses_is_a_roll_back_with_its_reason(
    tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", clock(int8=2.0))
    ledger = tried(steps=("prune", "quantise", "qat"))
    assert verdicts(ledger)[1:] == [("prune", "kept"), ("quantise", "rolled back"), ("qat", "left out")]
    assert "speedup_over_fp32 = 0.5" in ledger.lines[2].why
    assert ledger.lines[2].measured is None
    assert not ledger.lines[2].lost
    assert "training changes nothing else" in ledger.lines[3].why
    assert open_artifact(tmp_path / "out" / "artifact").artifact.precision == "fp32"
    (pruned,) = numbers(ledger, 1)
    assert read_bundle(tmp_path / "out" / "best").digest == pruned.digest
    assert pruned.test is not None


def test_where_int8_is_refused_weights_become_bytes(
    tried: Tried, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", clock(int8=2.0))
    ledger = tried(steps=("quantise", "weights"), target=None)
    assert verdicts(ledger) == [("start", "start"), ("quantise", "rolled back"), ("weights", "kept")]
    start, last = numbers(ledger, 0, 2)
    assert (last.precision, last.fp32, last.bundle) == ("int8-weights", "start/fp32", None)
    assert last.size_mb < start.size_mb
    assert last.faster_than_before.value == 1.0
    artifact = open_artifact(tmp_path / "out" / "artifact").artifact
    assert (artifact.precision, artifact.bundle_digest) == ("int8-weights", whole.digest)
    assert artifact.gates
    assert all(gate.passed for gate in artifact.gates)
    assert last.test is not None


def test_what_is_cut_behind_weights_in_bytes_has_them_too_and_may_still_become_int8(tried: Tried) -> None:
    ledger = tried(steps=("weights", "prune", "quantise"))
    assert verdicts(ledger)[1:] == [("weights", "kept"), ("prune", "kept"), ("quantise", "kept")]
    pruned, last = numbers(ledger, 2, 3)
    assert (pruned.precision, pruned.fp32) == ("int8-weights", "2-prune/fp32")
    assert (last.precision, last.fp32) == ("int8", "2-prune/fp32")
    assert ledger.over is None


def test_a_bound_out_of_reach_is_a_roll_back_with_its_reason(tried: Tried) -> None:
    ledger = tried(target=Target(of="mult_adds", most=0.001, relative=True), steps=("prune",))
    assert verdicts(ledger)[1:] == [("prune", "rolled back")]
    assert "with every width at its least" in ledger.lines[1].why
    assert ledger.over is not None


def test_a_teacher_helps_a_network_that_knows_less(tried: Tried, whole: Bundle) -> None:
    learns = msgspec.structs.replace(RECIPE, epochs=12.0, lr=1.0)
    ledger = tried(bundle=confused(whole), teacher=whole, recipe=learns, steps=("distil", "quantise"), target=None)
    assert verdicts(ledger) == [("start", "start"), ("distil", "kept"), ("quantise", "kept")]
    assert "taught by table" in ledger.lines[1].why
    taught, last = numbers(ledger, 1, 2)
    assert taught.digest == last.digest != whole.digest


def test_the_network_before_the_cut_teaches_the_one_behind_it(tried: Tried, whole: Bundle, tmp_path: Path) -> None:
    ledger = tried(teacher="self", steps=("distil", "prune"))
    assert verdicts(ledger) == [("start", "start"), ("distil", "left out"), ("prune", "kept")]
    assert read_bundle(tmp_path / "out" / "best").history[-1]["teacher"]["digest"] == whole.digest


def test_the_order_is_the_plans_and_pruning_stops_where_int8_is_enough(tried: Tried) -> None:
    whole_ms = cost(SPEC).mult_adds / 1e6
    bound = Target(of="latency_ms", most=0.6 * whole_ms)
    ledger = tried(steps=("quantise", "prune"), target=bound, measure=pessimistic)
    assert verdicts(ledger) == [("start", "start"), ("quantise", "kept"), ("prune", "left out")]
    assert ledger.over is None


def test_behind_int8_the_pruned_network_is_int8_as_well(tried: Tried) -> None:
    whole_ms = cost(SPEC).mult_adds / 1e6
    bound = Target(of="latency_ms", most=0.3 * whole_ms)
    ledger = tried(steps=("quantise", "prune"), target=bound, measure=pessimistic)
    assert verdicts(ledger) == [("start", "start"), ("quantise", "kept"), ("prune", "kept")]
    (last,) = numbers(ledger, 2)
    assert (last.precision, last.fp32) == ("int8", "2-prune/fp32")
    assert 0.45 < last.mult_adds / cost(SPEC).mult_adds <= 0.6
    assert ledger.over is None


def test_a_size_is_that_of_the_file(tried: Tried) -> None:
    ledger = tried(steps=("prune",), target=Target(of="size_mb", most=0.8, relative=True))
    start, last = numbers(ledger, 0, 1)
    assert ledger.most == pytest.approx(0.8 * start.size_mb)
    assert last.size_mb <= 0.8 * start.size_mb
    assert ledger.over is None


def test_a_run_that_died_in_a_step_goes_on_there_and_ends_alike(
    tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tried(out=tmp_path / "straight")

    def died(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    for module, name, done in ((steps, "prune_run", 2), (account, "export_int8", 3), (account, "new_folder", 6)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, died)
            with pytest.raises(RuntimeError, match="killed"):
                tried(resume=True)
        before = read_record(tmp_path / "out" / "ledger.json", Ledger, what="ledger")
        assert len(before.lines) == done
        assert not before.finished
    with monkeypatch.context() as patch:
        patch.setattr(steps, "prune_run", died)  # what is in the ledger is not done again
        patch.setattr(account, "export", died)
        made = tried(resume=True)
        assert tried(resume=True) == made
    assert made.finished
    assert verdicts(made) == verdicts(straight)
    assert [line.measured and line.measured.digest for line in made.lines] == [
        line.measured and line.measured.digest for line in straight.lines
    ]


def test_ctrl_c_in_a_training_leaves_the_step_open(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(bundle: Bundle, *_: object, **__: object) -> Pruned:
        return Pruned(best=bundle, top1=1.0, steps=(), finished=False)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "prune_run", stopped)
        ledger = tried()
    assert not ledger.finished
    assert len(ledger.lines) == 2
    assert tried(resume=True).finished


def test_another_run_in_the_folder_is_refused(tried: Tried, whole: Bundle) -> None:
    tried(steps=("quantise",))
    with pytest.raises(UsageError, match="not the same as then: max_drop, cuts; "):
        tried(steps=("quantise",), max_drop=1.0, pruning=NARROW._replace(cuts=2), resume=True)
    with pytest.raises(UsageError, match="not the same as then: bundle, teacher, distillation; "):
        tried(steps=("quantise",), bundle=confused(whole), teacher=whole, resume=True)
    with pytest.raises(UsageError, match="is there already"):
        tried(steps=("quantise",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": ()}, "some of distil, prune, quantise, qat, weights"),
        ({"steps": ("prune", "prune")}, "each once"),
        ({"steps": ("sharpen",)}, "steps sharpen"),
        ({"target": None}, "pruning without a bound"),
        ({"target": Target(of="latency_ms", most=1.0)}, "no way to measure"),
        ({"max_drop": -1.0}, "max_drop = -1"),
        ({"qat": 2.0, "steps": ("quantise",)}, "no such step"),
        ({"qat": 0.0}, "epochs = 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    tried: Tried, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        tried(**changes)
    assert not (tmp_path / "out").exists()


def test_images_of_other_classes_and_teachers_that_lack_some_are_refused(
    tried: Tried, whole: Bundle, tmp_path: Path
) -> None:
    stranger = replace(whole, labels=("bright", "dark", "striped"))
    with pytest.raises(UsageError, match="labels that are not those of the bundle"):
        tried(bundle=stranger)
    with pytest.raises(UsageError, match="no teacher for this data"):
        tried(teacher=stranger)
    assert not (tmp_path / "out").exists()
