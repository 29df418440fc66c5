"""Keras itself, in a process of its own, says what its networks answer; ours must say the same."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilenets.arch import find
from mobilenets.errors import UnknownNameError
from mobilenets.nets import Network, load_tensors
from mobilenets.weights import Imported
from mobilenets.weights.keras import read_keras

pytestmark = [pytest.mark.parity, pytest.mark.slow]  # Keras has to make its networks first

WITHIN = 1e-4  # of the logits' size
SCRIPT = Path(__file__).with_name("keras_models.py")


@pytest.fixture(scope="session")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that Keras wrote, with `logits.npz`."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed: it is the witness here")
    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, env=environment, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def answers(keras_files: Path) -> Mapping[str, np.ndarray]:
    with np.load(keras_files / "logits.npz") as content:
        return dict(content)


def prepared(imported: Imported, images: np.ndarray) -> torch.Tensor:
    mean, std = np.float32(imported.preprocess.mean), np.float32(imported.preprocess.std)
    return torch.from_numpy((images / np.float32(255) - mean) / std).permute(0, 3, 1, 2)


def network(imported: Imported) -> Network:
    made = Network(imported.spec)
    load_tensors(made, imported.tensors)
    return made.eval()


def ours(imported: Imported, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(imported)(prepared(imported, images)).numpy()


def assert_close(got: np.ndarray, wanted: np.ndarray) -> None:
    assert got.shape == wanted.shape
    assert np.ptp(wanted, axis=0).max() > 0.05 * np.abs(wanted).max()  # images that a network tells apart
    assert np.abs(got - wanted).max() <= WITHIN * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("v1_0.25", "mobilenet_v1_0.25_224"),
        ("v1_1.0", "mobilenet_v1"),
        ("v2_0.35", "mobilenet_v2_0.35_224"),
        ("v2_1.0", "mobilenet_v2"),
        ("v2_1.4", "mobilenet_v2_1.4_224"),
        ("v3_large_0.75", "mobilenet_v3_large_0.75_224"),
        ("v3_large_1.0", "mobilenet_v3_large"),
        ("v3_small_0.75", "mobilenet_v3_small_0.75_224"),
        ("v3_small_1.0", "mobilenet_v3_small"),
        ("v3_large_minimalistic_1.0", "mobilenet_v3_large_minimalistic"),
        ("v3_small_minimalistic_1.0", "mobilenet_v3_small_minimalistic"),
        ("v3_small_minimalistic_0.75", "mobilenet_v3_small_minimalistic_0.75_224"),
    ],
)
def test_weights_of_keras_applications_answer_as_keras_does(
    name: str, known_as: str, keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    imported = read_keras(keras_files / f"{name}.weights.h5")
    assert imported.spec.name == known_as
    assert find(known_as).rows == imported.spec.rows
    assert_close(ours(imported, answers["images"]), answers[name])


def test_widths_that_no_alpha_of_ours_makes_come_as_they_are(
    keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    imported = read_keras(keras_files / "v3_small_0.5.weights.h5")
    assert imported.spec.rows[0].out == 16
    with pytest.raises(UnknownNameError):
        find(imported.spec.name)
    assert_close(ours(imported, answers["images"]), answers["v3_small_0.5"])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["v2_0.35_fitted", "v3_small_0.75_fitted"])
def test_a_whole_model_comes_with_its_resolution_and_without_its_optimizer(
    name: str, suffix: str, keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    imported = read_keras(keras_files / f"{name}{suffix}")
    assert imported.spec.resolution == imported.preprocess.resolution == 64
    assert_close(ours(imported, answers["images"]), answers[name])


@pytest.mark.parametrize("name", ["v1_dense", "v3_dense"])
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_a_backbone_under_a_dense_layer_comes_as_one_network(
    name: str, suffix: str, keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    imported = read_keras(keras_files / f"{name}{suffix}")
    assert imported.spec.head.classes == 4
    assert imported.spec.head.hidden is None
    assert "classifier" not in imported.told
    assert_close(ours(imported, answers["images"]), answers[name])


def test_one_output_for_two_classes_becomes_two_with_the_same_probabilities(
    keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    got = ours(read_keras(keras_files / "v2_dense.keras"), answers["images"])
    assert_close(got[:, 1:], answers["v2_dense"])
    assert not got[:, 0].any()


@pytest.mark.parametrize("name", ["v1_no_top", "small_no_top"])
def test_without_its_top_the_features_are_those_of_keras_and_the_classifier_is_called_untrained(
    name: str, keras_files: Path, answers: Mapping[str, np.ndarray]
) -> None:
    imported = read_keras(keras_files / f"{name}.weights.h5")
    assert "none in the file" in imported.told["classifier"]
    assert imported.spec.head.classes == 2
    made = network(imported)
    features = prepared(imported, answers["images"])
    with torch.no_grad():
        for row in made.rows:
            features = row(features)
    assert_close(features.mean((2, 3)).numpy(), answers[name])
    again = read_keras(keras_files / f"{name}.weights.h5")
    assert all(np.array_equal(imported.tensors[key], again.tensors[key]) for key in imported.tensors)
