"""What rounding after training loses and training through the roundings brings back."""

from pathlib import Path

import numpy as np
import pytest

from drowned import drowned, shades
from mobilenets.bundle import Bundle
from mobilenets.data import Dataset, prepared
from mobilenets.errors import GateError
from mobilenets.export import export, write_ungated
from mobilenets.export.gate import SPEEDUP, reference_logits
from mobilenets.export.images import calibration_images, gate_images
from mobilenets.export.quantize import quantize
from mobilenets.export.training import check_scores, train_for_int8
from mobilenets.metrics import top_k_accuracy
from mobilenets.runtime import open_artifact, run_batches
from mobilenets.train import Distillation, Recipe, distil

RECIPE = Recipe(epochs=6.0, batch_size=16, lr=0.2, precision="fp32")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shades(tmp_path_factory.mktemp("shades"))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return drowned()


def file_of(bundle: Bundle, dataset: Dataset, out: Path) -> np.ndarray:
    """Logits of the int8 file, which has passed the gate, for the test images."""
    export(
        bundle,
        out,
        images=gate_images(prepared(dataset, "val", bundle.preprocess), on="val"),
        precision="int8",
        calibration=calibration_images(dataset, bundle.preprocess),
    )
    return run_batches(open_artifact(out).engine, prepared(dataset, "test", bundle.preprocess).images)


def test_no_way_to_quantise_after_training_saves_what_lies_below_a_bytes_step(
    bundle: Bundle, dataset: Dataset, tmp_path: Path
) -> None:
    test = prepared(dataset, "test", bundle.preprocess)
    exact = reference_logits(bundle, test.images)
    assert top_k_accuracy(exact, test.targets, k=1) == 1.0
    calibration = calibration_images(dataset, bundle.preprocess)
    made = quantize(bundle, calibration)
    assert {(trial.calibration, trial.corrected) for trial in made.trials} >= {
        (method, corrects) for method in ("minmax", "percentile") for corrects in (False, True)
    }
    assert not made.kept.floats  # a row in float32 was tried, and is one too many
    assert max(trial.agreement or 0.0 for trial in made.trials if not trial.floats) < 0.6
    write_ungated(bundle, tmp_path / "ungated", precision="int8", calibration=calibration)
    answered = run_batches(open_artifact(tmp_path / "ungated").engine, test.images)
    assert (answered == answered[0]).all()
    with pytest.raises(GateError, match="top1_agreement") as refused:
        file_of(bundle, dataset, tmp_path / "file")
    assert "top1_agreement" in refused.value.failed
    assert SPEEDUP not in refused.value.failed
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("teaches", [False, True])
def test_training_through_the_roundings_brings_it_back(
    teaches: bool, bundle: Bundle, dataset: Dataset, tmp_path: Path
) -> None:
    more = {"objective": distil(bundle, Distillation(weight=0.5))} if teaches else {}
    outcome, scores = train_for_int8(bundle, dataset, RECIPE, out=tmp_path / "run", device="cpu", **more)
    assert scores is not None
    assert scores.float_before == 1.0
    assert scores.int8_before <= 0.5
    assert scores.int8_after == 1.0
    check_scores(scores)
    test = prepared(dataset, "test", bundle.preprocess)
    answered = file_of(outcome.best, dataset, tmp_path / "file")
    assert top_k_accuracy(answered, test.targets, k=1) == 1.0
    assert ("teacher" in outcome.best.history[-1]) == teaches
