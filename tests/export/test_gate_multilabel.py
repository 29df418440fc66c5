"""The gate for images with any number of labels: what differs in a label's yes or no is caught."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bundle import Bundle
from mobilenets.errors import GateError, UsageError
from mobilenets.export import GateImages, Limits, export
from mobilenets.export.artifact import maker_of
from mobilenets.export.gate import gates_of, reference_logits
from mobilenets.runtime import open_artifact, predict

LABELS = ("red", "square", "bright")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    made = settled_bundle(compose("mobilenet_v2", alpha=0.25, resolution=32, stride="small", classes=3))
    return replace(made, task="multilabel", labels=LABELS)


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> GateImages:
    pixels = patches(40, 32)
    logits = reference_logits(bundle, pixels)
    # About half of the images have each label; an image in five is not known.
    targets = (logits > np.median(logits, axis=0)).astype(np.float32)
    targets[::5, 0] = np.nan
    return GateImages(images=pixels, targets=targets, on="val")


def test_a_sound_file_carries_the_task_and_answers_alike(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    made = export(bundle, tmp_path / "model", images=images)
    assert made.task == "multilabel"
    assert [gate.name for gate in made.gates] == ["logits_max_difference", "labels_agreement", "map_drop"]
    opened = open_artifact(tmp_path / "model")
    logits = opened.run(images.images[:4])
    np.testing.assert_allclose(logits, reference_logits(bundle, images.images[:4]), atol=1e-3)
    [said] = predict(opened, [Image.fromarray(images.images[0])])
    there = {label for label, logit in zip(LABELS, logits[0], strict=True) if logit > 0}
    assert {score.label for score in said.top} == there


def test_a_file_with_its_labels_in_another_order_is_refused(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    def swapped(source: Bundle, calibration: object) -> dict[str, bytes]:
        order = [1, 0, 2]
        tensors = dict(source.tensors)
        for name in ("head.classifier.weight", "head.classifier.bias"):
            tensors[name] = tensors[name][order]
        return dict(maker_of("onnx", "fp32")(replace(source, tensors=tensors), None))

    loose = Limits(logits=1e9, agreement=0.998, drop=0.002)
    with pytest.raises(GateError, match=r"labels_agreement|map_drop"):
        export(bundle, tmp_path / "model", images=images, maker=swapped, limits=loose)
    assert not (tmp_path / "model").exists()


def test_a_cell_in_a_hundred_on_the_other_side_fails_and_order_alone_shows_in_the_map(images: GateImages) -> None:
    reference = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    turned = reference.copy()
    turned[0, 0] *= -1
    held = replace(images, targets=(reference > 0).astype(np.float32))
    limits = Limits(logits=1e9, agreement=0.998, drop=0.002)
    found = {g.name: g for g in gates_of(reference, turned, held, limits, task="multilabel")}
    assert found["labels_agreement"].value == pytest.approx(1 - 1 / 120)
    assert not found["labels_agreement"].passed
    broken = {g.name: g for g in gates_of(reference, np.full_like(reference, np.nan), held, limits, task="multilabel")}
    assert not any(gate.passed for gate in broken.values())
    # All on the same side, but the images that have a label no longer before those that have not.
    raised = np.abs(reference) + 1
    other = raised[::-1].copy()
    order = {
        g.name: g
        for g in gates_of(raised, other, replace(held, targets=(raised > 1.5) * 1.0), limits, task="multilabel")
    }
    assert order["labels_agreement"].passed
    assert not order["map_drop"].passed


def test_int8_is_refused_before_anything_is_made(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    with pytest.raises(UsageError, match="int8 for the task 'multilabel'"):
        export(bundle, tmp_path / "model", images=images, precision="int8", calibration=images.images)
    assert not (tmp_path / "model").exists()
