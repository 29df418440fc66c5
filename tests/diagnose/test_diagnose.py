"""Networks that are ill in one known way: the diagnosis names it, and a healthy one is left alone."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from mobilenets.bundle import Bundle
from mobilenets.data import Dataset
from mobilenets.data.memory import dataset_in_memory
from mobilenets.diagnose import Diagnosis, diagnose, diagnosis_text, findings_of, page
from mobilenets.errors import UsageError
from mobilenets.train import Recipe, Row
from mobilenets.train.run import train_run

COLOURS = np.array([(40, 60, 200), (40, 180, 60), (200, 50, 40)])
LABELS = ("blue", "green", "red")
RECIPE = Recipe(epochs=12, batch_size=32, lr=1.0, precision="fp32", mirror=False)


@pytest.fixture(scope="session")
def tiny_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).parents[1] / "train" / "tiny_run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(count: int, *, seed: int, noise: float = 25.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    pixels = COLOURS[targets][:, None, None] + rng.normal(0, noise, (count, 16, 16, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), targets, np.arange(count)


@pytest.fixture(scope="module")
def data() -> Dataset:
    splits = {"train": pictures(120, seed=0), "val": pictures(120, seed=1), "test": pictures(30, seed=2)}
    return dataset_in_memory("colours", labels=LABELS, splits=splits, digest="colours", mirror_safe=True)


@pytest.fixture(scope="module")
def healthy(tiny_run: ModuleType, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train_run(tiny_run.tiny_spec(), data, RECIPE, out=tmp_path_factory.mktemp("healthy")).best


@pytest.fixture(scope="module")
def diagnosis(healthy: Bundle, data: Dataset) -> Diagnosis:
    return diagnose(healthy, data, device="cpu")


def causes(diagnosis: Diagnosis) -> set[str]:
    return {finding.cause for finding in diagnosis.findings}


def test_a_healthy_network_has_none_of_the_illnesses(diagnosis: Diagnosis) -> None:
    assert diagnosis.measured.accuracy.top1 > 0.95
    # Confidence of so short a training, and the time of so small a step, are as they are.
    assert causes(diagnosis) <= {"wrong confidence", "waits for data"}


def test_every_row_and_the_head_are_measured(diagnosis: Diagnosis) -> None:
    rows = diagnosis.measured.rows
    assert [row.name for row in rows] == ["row 0", "row 1", "row 2", "head"]
    assert [row.kind for row in rows] == ["conv", "bottleneck", "conv", "classifier"]
    assert [row.channels for row in rows] == [8, 16 + 16 + 8, 16, 0]
    assert all(row.gradient > 0 and row.weights > 0 and row.deviation > 0 for row in rows)
    assert all(row.low < row.high for row in rows)


def test_the_time_of_a_step_is_split(diagnosis: Diagnosis) -> None:
    times = diagnosis.measured.times
    assert times.batch_size == 32
    assert min(times.data_ms, times.forward_ms, times.backward_ms, times.optimizer_ms) > 0
    assert times.total_ms == pytest.approx(times.data_ms + times.forward_ms + times.backward_ms + times.optimizer_ms)


def test_a_wrong_mean_is_found_by_feeding_the_images_otherwise(healthy: Bundle, data: Dataset) -> None:
    wrong = replace(healthy, preprocess=msgspec.structs.replace(healthy.preprocess, mean=(0.0,) * 3, std=(0.004,) * 3))
    found = diagnose(wrong, data, device="cpu")
    assert "wrong normalisation" in causes(found)
    (told,) = [f for f in found.findings if f.cause == "wrong normalisation"]
    assert told.sure == "likely"
    assert found.measured.inputs.top1 < 0.8


def test_exchanged_colours_are_found(healthy: Bundle, data: Dataset) -> None:
    stem = "rows.0.conv.conv.weight"
    turned = replace(healthy, tensors={**healthy.tensors, stem: np.ascontiguousarray(healthy.tensors[stem][:, ::-1])})
    (told,) = [f for f in diagnose(turned, data, device="cpu").findings if f.cause == "wrong normalisation"]
    assert "red and blue exchanged" in told.evidence


def test_stale_norms_are_found(healthy: Bundle, data: Dataset) -> None:
    tensors = {
        name: np.full_like(tensor, 3.0) if name.endswith("running_mean") else tensor
        for name, tensor in healthy.tensors.items()
    }
    found = diagnose(replace(healthy, tensors=tensors), data, device="cpu")
    assert "stale norms" in causes(found)
    assert found.measured.batch_norm_top1 > 0.9 > found.measured.inputs.top1


def test_dead_channels_are_counted_and_their_row_is_named(healthy: Bundle, data: Dataset) -> None:
    tensors = dict(healthy.tensors)
    for part, value in (("weight", 0.0), ("bias", -1.0)):
        name = f"rows.2.conv.norm.{part}"
        tensors[name] = tensors[name].copy()
        tensors[name][:6] = value
    found = diagnose(replace(healthy, tensors=tensors), data, device="cpu")
    assert found.measured.rows[2].dead >= 6
    (told,) = [f for f in found.findings if f.cause == "dead channels"]
    assert "most in row 2" in told.evidence


def test_what_was_learned_by_heart_is_found(tiny_run: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = {name: rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8) for name, n in (("train", 24), ("val", 90))}
    splits = {name: (pixels, np.arange(len(pixels)) % 3, np.arange(len(pixels))) for name, pixels in noise.items()}
    nothing = dataset_in_memory("noise", labels=LABELS, splits=splits, digest="noise", mirror_safe=True)
    still = {"mirror": False, "crop_padding": 0.0, "label_smoothing": 0.0, "weight_decay": 0.0, "dropout": 0.0}
    recipe = Recipe(epochs=150, batch_size=24, lr=4.0, precision="fp32", ema=0.0, **still)
    outcome = train_run(tiny_run.tiny_spec(), nothing, recipe, out=tmp_path)
    found = diagnose(outcome.last, nothing, device="cpu")
    assert found.measured.train_top1 > 0.9
    assert "learned by heart" in causes(found)


def test_text_names_causes_with_their_remedies_and_the_numbers(diagnosis: Diagnosis) -> None:
    text = diagnosis_text(diagnosis)
    assert text.startswith("tiny on colours, val: 120 images")
    for finding in diagnosis.findings:
        assert finding.remedy in text
    assert "row 2    conv" in text
    assert "a training step of 32 images takes" in text


def test_the_page_needs_nothing_else_and_holds_everything(diagnosis: Diagnosis) -> None:
    told = msgspec.structs.replace(diagnosis.measured, labels=("<b>", "a & b", "red"))
    html = page(Diagnosis(measured=told, findings=diagnosis.findings))
    assert "default-src 'none'" in unescape(html)
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "<b>" not in html
    assert "a &amp; b" in html
    for heading in ("Likely causes", "Row by row", "Where the time", "How the images are fed"):
        assert heading in html


def test_a_classifier_that_was_never_trained_is_refused(healthy: Bundle, data: Dataset) -> None:
    fresh = replace(healthy, history=({"step": "import", "classifier": "none in the file"},))
    with pytest.raises(UsageError, match="never trained"):
        diagnose(fresh, data)


def row(number: int, loss: float, top1: float) -> Row:
    return Row(
        epoch=number, train_loss=loss, eval_loss=loss, eval_top1=top1, eval_top5=top1, lr=0.1, step=number, seconds=1
    )


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"rate_lowered_at": 7}, "rate too high"),
        ({"curve": tuple(row(i, loss, 50) for i, loss in enumerate((1.0, 0.5, 0.9, 0.8)))}, "rate too high"),
        ({"curve": tuple(row(i, 1 - i / 10, 40 + 5 * i) for i in range(8)), "train_top1": 0.7}, "trained too short"),
        ({"curve": (row(20, 2.0, 10),), "train_top1": 0.1}, "trained too short"),
        ({"train_top1": 0.5}, "network too small"),
        ({"head_width": 2}, "head too small"),
        ({"balanced": 0.6, "train_counts": (100, 10, 10)}, "rare classes"),
    ],
)
def test_each_cause_is_told_from_its_numbers(changes: dict, cause: str, diagnosis: Diagnosis) -> None:
    accuracy = msgspec.structs.replace(diagnosis.measured.accuracy, top1=0.7, top1_low=0.6, top1_high=0.78)
    sound = msgspec.structs.replace(diagnosis.measured, accuracy=accuracy, train_top1=0.72, balanced=0.7)
    told = {finding.cause for finding in findings_of(msgspec.structs.replace(sound, **changes))}
    assert cause in told


def test_a_network_is_not_called_too_small_after_a_few_passes(diagnosis: Diagnosis) -> None:
    accuracy = msgspec.structs.replace(diagnosis.measured.accuracy, top1=0.7, top1_low=0.6, top1_high=0.78)
    for passes, cause in ((2, "trained too short"), (20, "network too small")):
        curve = (msgspec.structs.replace(row(passes, 1.2, 70), step=700),)
        measured = msgspec.structs.replace(diagnosis.measured, accuracy=accuracy, train_top1=0.72, curve=curve)
        told = {finding.cause for finding in findings_of(measured)}
        assert told & {"trained too short", "network too small"} == {cause}


def test_two_classes_taken_for_each_other_are_named(diagnosis: Diagnosis) -> None:
    matrix = ((40, 0, 0), (0, 25, 15), (0, 0, 40))
    accuracy = msgspec.structs.replace(diagnosis.measured.accuracy, confusion=matrix)
    found = findings_of(msgspec.structs.replace(diagnosis.measured, accuracy=accuracy))
    (told,) = [f for f in found if f.cause == "classes taken for each other"]
    assert told.evidence == "15 of 40 images of green are taken for red"


def test_uneven_gradients_name_both_rows(diagnosis: Diagnosis) -> None:
    rows = list(diagnosis.measured.rows)
    rows[1] = msgspec.structs.replace(rows[1], gradient=1e-7)
    (told,) = [
        f
        for f in findings_of(msgspec.structs.replace(diagnosis.measured, rows=tuple(rows)))
        if f.cause == "uneven gradients"
    ]
    assert "times that of row 1" in told.evidence
