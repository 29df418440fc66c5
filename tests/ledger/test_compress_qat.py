"""The ledger's step "qat": what int8 loses is trained back, and nothing is trained where it lost nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import drowned
from ledger.measurements import clock
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import Dataset
from mobilenets.errors import SpecError
from mobilenets.export import artifact as exporting
from mobilenets.export.int8 import trained_ranges
from mobilenets.ledger import Ledger, account, compress, steps
from mobilenets.records import read_record
from mobilenets.runtime import open_artifact
from mobilenets.train import Outcome, Recipe

RECIPE = Recipe(epochs=6.0, batch_size=16, lr=1.0, precision="fp32")
Tried = Callable[..., Ledger]


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return drowned.shades(tmp_path_factory.mktemp("shades"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return drowned.drowned()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "measure_all", clock())
    monkeypatch.setattr(exporting, "measure_all", clock())


@pytest.fixture
def tried(bundle: Bundle, shades: Dataset, tmp_path: Path) -> Tried:
    def run(**changes: object) -> Ledger:
        told = {"out": tmp_path / "out", "recipe": RECIPE, "steps": ("quantise", "qat"), "threads": 1}
        told |= {"device": "cpu", **changes}
        return compress(told.pop("bundle", bundle), shades, **told)

    return run


def verdicts(ledger: Ledger) -> list[tuple[str, str]]:
    return [(line.step, line.verdict) for line in ledger.lines]


def test_what_int8_loses_after_training_is_trained_back(tried: Tried, bundle: Bundle, tmp_path: Path) -> None:
    ledger = tried()
    assert verdicts(ledger) == [("start", "start"), ("quantise", "rolled back"), ("qat", "kept")]
    _, refused, mended = ledger.lines
    assert "top1_agreement = " in refused.why
    assert refused.lost
    assert refused.measured is None
    assert mended.measured is not None
    assert mended.measured.val.top1 == 1.0
    assert mended.measured.precision == "int8"
    assert mended.measured.faster_than_before is not None
    assert mended.measured.faster_than_before.value == pytest.approx(2.0)
    assert (mended.measured.bundle, mended.measured.fp32) == ("2-qat/run/best", "2-qat/fp32")
    assert "trained for int8 for 6 epochs at a rate of 0.2; ranges as trained" in mended.why
    assert mended.measured.test is not None
    assert mended.measured.test.top1 == 1.0
    best, artifact = read_bundle(tmp_path / "out" / "best"), open_artifact(tmp_path / "out" / "artifact").artifact
    assert trained_ranges(best) is not None
    assert best.digest == artifact.bundle_digest != bundle.digest
    assert artifact.precision == "int8"
    assert all(gate.passed for gate in artifact.gates)
    text = (tmp_path / "out" / "ledger.md").read_text()
    assert "| qat | kept | 100.00 % (+0.00) | 100.00 % |" in text
    assert "what stands after qat" in text
    assert read_record(tmp_path / "out" / "ledger.json", Ledger, what="ledger") == ledger


@pytest.mark.parametrize("teacher", ["self", "another"])
def test_a_teacher_teaches_through_the_roundings_too(
    teacher: str, tried: Tried, bundle: Bundle, tmp_path: Path
) -> None:
    other = drowned.drowned(unread=0.0)
    ledger = tried(steps=("qat",), teacher="self" if teacher == "self" else other)
    assert verdicts(ledger) == [("start", "start"), ("qat", "kept")]
    assert "taught by drowned" in ledger.lines[1].why
    told = read_bundle(tmp_path / "out" / "best").history[-1]["teacher"]
    assert told["digest"] == (bundle if teacher == "self" else other).digest


def test_an_int8_that_stands_is_trained_only_when_asked_and_kept_only_if_more_often_right(
    tried: Tried, bundle: Bundle, tmp_path: Path
) -> None:
    sound = drowned.drowned(unread=0.0)
    ledger = tried(bundle=sound, out=tmp_path / "plain")
    assert verdicts(ledger)[1:] == [("quantise", "kept"), ("qat", "left out")]
    assert ledger.lines[2].why == "int8 stands without it"
    assert not (tmp_path / "plain" / "2-qat").exists()
    asked = tried(bundle=sound, out=tmp_path / "asked", qat=1.0)
    assert verdicts(asked)[1:] == [("quantise", "kept"), ("qat", "rolled back")]
    assert "it brings nothing: +0.00 points" in asked.lines[2].why
    assert "for 1 epochs" in asked.lines[2].why
    assert not asked.lines[2].lost
    assert read_bundle(tmp_path / "asked" / "best").digest == sound.digest


def test_nothing_is_trained_for_a_file_that_is_too_slow(
    tried: Tried, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "measure_all", clock(int8=2.0))
    monkeypatch.setattr(steps, "train_run", None)
    ledger = tried(bundle=drowned.drowned(unread=0.0), qat=1.0)
    assert verdicts(ledger)[1:] == [("quantise", "rolled back"), ("qat", "left out")]
    assert "speedup_over_fp32" in ledger.lines[1].why
    assert "not taken back for its answers" in ledger.lines[2].why


def test_training_that_mends_too_little_is_rolled_back(tried: Tried, tmp_path: Path, bundle: Bundle) -> None:
    ledger = tried(recipe=msgspec.structs.replace(RECIPE, lr=1e-6, epochs=1.0))
    assert verdicts(ledger)[1:] == [("quantise", "rolled back"), ("qat", "rolled back")]
    assert ledger.lines[2].lost
    assert read_bundle(tmp_path / "out" / "best").digest == bundle.digest


def test_a_network_that_cannot_be_trained_for_int8_is_told_and_left(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise SpecError("rows.3.attention is AttentionRowModule", wanted="convolutions", do="quantise it")

    monkeypatch.setattr(steps, "check_trainable", refuses)
    ledger = tried()
    assert verdicts(ledger)[1:] == [("quantise", "rolled back"), ("qat", "left out")]
    assert ledger.lines[2].why == "rows.3.attention is AttentionRowModule; trained for int8 is convolutions"
    assert ledger.finished


def test_training_for_int8_that_was_stopped_goes_on_and_ends_alike(
    tried: Tried, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = steps.train_run

    def stopped(*given: object, **named: object) -> Outcome:
        return replace(real(*given, **named), finished=False)

    def died(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(steps, "train_run", stopped)
        ledger = tried()
    assert not ledger.finished
    assert verdicts(ledger) == [("start", "start"), ("quantise", "rolled back")]
    with monkeypatch.context() as patch:
        patch.setattr(account, "export_int8", died)
        with pytest.raises(RuntimeError, match="killed"):
            tried(resume=True)
    made, straight = tried(resume=True), tried(out=tmp_path / "straight")
    assert made.finished
    assert verdicts(made) == verdicts(straight)
    # The last weights; which of them were best so far depends on when the clock let them be validated.
    ends = [read_bundle(tmp_path / name / "2-qat" / "run" / "last").digest for name in ("out", "straight")]
    assert ends[0] == ends[1]


def test_a_ledger_that_was_written_before_this_step_is_read(tried: Tried, tmp_path: Path) -> None:
    before = tried(steps=("quantise",))
    path = tmp_path / "out" / "ledger.json"
    told = msgspec.json.decode(path.read_bytes())
    del told["plan"]["qat"]
    for line in told["lines"]:
        del line["lost"]
    path.write_bytes(msgspec.json.encode(told))
    again = tried(steps=("quantise",), resume=True)
    assert again.plan == before.plan
    assert [line.verdict for line in again.lines] == [line.verdict for line in before.lines]
