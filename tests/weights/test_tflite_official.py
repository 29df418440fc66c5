"""Google's own quantised files against LiteRT, which runs them; wants the shared data folder."""

import csv
import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from mobilenets import images
from mobilenets.bundle import Bundle
from mobilenets.export import write_ungated
from mobilenets.nets import Network, load_tensors
from mobilenets.runtime import open_artifact, run_batches
from mobilenets.train.loader import normalise
from mobilenets.train.validate import bundle_logits
from mobilenets.weights import import_weights

pytestmark = pytest.mark.shared

# file, the name it is recognised by, and the least share of equal answers
CLASSIFIERS = [
    ("mobilenet_v1_0.25_128_quant", "mobilenet_v1_0.25_128", 0.92),
    ("mobilenet_v1_0.5_160_quant", "mobilenet_v1_0.5_160", 0.95),
    ("mobilenet_v2_1.0_224_quant", "mobilenet_v2", 0.97),
]
QUICK = 60
POINT = 0.01


@cache
def sample(archive: Path) -> tuple[list[bytes], np.ndarray]:
    """Encoded images and their classes, 0..999."""
    with zipfile.ZipFile(archive) as content:
        names = {Path(name).name: name for name in content.namelist()}
        rows = list(csv.DictReader(io.StringIO(content.read(names["labels.csv"]).decode("utf-8"))))
        encoded = [content.read(names[Path(row["file"]).name]) for row in rows]
    return encoded, np.array([int(row["class_index"]) for row in rows])


def litert(file: Path, pixels: np.ndarray) -> np.ndarray:
    """Its output for every image, in steps."""
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    interpreter.allocate_tensors()
    (given,), out = interpreter.get_input_details(), interpreter.get_output_details()[0]
    found = []
    for image in pixels:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(out["index"]).reshape(-1))
    return np.stack(found)


def imported(file: Path) -> Bundle:
    return import_weights(file)


def answers(bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([bundle_logits(bundle, part) for part in np.array_split(pixels, -(-len(pixels) // 25))])


@pytest.mark.parametrize(("name", "known_as", "least"), CLASSIFIERS)
def test_a_quick_sample_is_answered_as_litert_answers_it(
    name: str, known_as: str, least: float, shared_data: Path
) -> None:
    file = shared_data / "official" / f"{name}.tflite"
    bundle = imported(file)
    assert bundle.spec.name == known_as
    assert bundle.spec.padding == "same"
    assert len(bundle.labels) == 1000
    encoded, _ = sample(shared_data / "imagenet_sample.zip")
    pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded[:: len(encoded) // QUICK]])
    theirs = litert(file, pixels).argmax(axis=1) - 1
    assert (answers(bundle, pixels).argmax(axis=1) == theirs).mean() >= least - 0.07  # four images of sixty more


@pytest.mark.slow
@pytest.mark.parametrize(("name", "known_as", "least"), CLASSIFIERS)
def test_network_and_export_answer_as_litert_does(
    name: str, known_as: str, least: float, shared_data: Path, tmp_path: Path
) -> None:
    """All 500 images: top-1 within a point of LiteRT's, and the share of equal answers that the goals ask for."""
    file = shared_data / "official" / f"{name}.tflite"
    bundle = imported(file)
    encoded, classes = sample(shared_data / "imagenet_sample.zip")
    pixels = np.stack([images.load(content, bundle.preprocess) for content in encoded])
    theirs = litert(file, pixels).argmax(axis=1) - 1
    write_ungated(bundle, tmp_path / "artifact")
    engine = open_artifact(tmp_path / "artifact").engine
    for logits in (answers(bundle, pixels), run_batches(engine, pixels, batch_size=25)):
        ours = logits.argmax(axis=1)
        assert (ours == theirs).mean() >= least
        assert abs((ours == classes).mean() - (theirs == classes).mean()) <= POINT + 1e-9


@pytest.mark.parametrize(
    ("picture", "among"),
    [("cat.png", "cat"), ("parrot.jpg", "macaw"), ("grace_hopper.png", "military uniform"), ("hot_dog.jpg", "hotdog")],
)
def test_the_imported_v2_names_what_is_in_a_picture(picture: str, among: str, shared_data: Path) -> None:
    bundle = imported(shared_data / "official" / "mobilenet_v2_1.0_224_quant.tflite")
    pixels = images.load(shared_data / "official" / picture, bundle.preprocess)
    best = answers(bundle, pixels[None])[0].argsort()[::-1][:2]
    assert any(among in bundle.labels[index] for index in best)


def test_the_embedding_extractor_gives_litert_s_embeddings(shared_data: Path) -> None:
    file = shared_data / "official" / "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    bundle = imported(file)
    assert bundle.spec.name == "mobilenet_v1"
    assert bundle.untrained_classifier
    pixels = np.stack(
        [images.load(shared_data / "official" / name, bundle.preprocess) for name in ("cat.png", "owl.jpg")]
    )
    theirs = litert(file, pixels).astype(np.float64)
    network, seen = Network(bundle.spec).eval(), []
    load_tensors(network, bundle.tensors)
    network.head.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy()))
    with torch.no_grad():
        network(normalise(torch.from_numpy(pixels), bundle.preprocess))
    assert np.corrcoef(seen[0].ravel(), theirs.ravel())[0, 1] > 0.995


def test_deeplab_is_imported_as_its_dilated_backbone(shared_data: Path) -> None:
    bundle = imported(shared_data / "official" / "deeplabv3_mnv2_pascal_quant.tflite")
    assert bundle.untrained_classifier
    assert "operator 60" in bundle.history[0]["segmentation_head"]
    assert (bundle.spec.resolution, bundle.spec.out_channels) == (513, 320)
    assert [row.dilation for row in bundle.spec.rows] == [1] * 15 + [2] * 3
    assert list(bundle.spec.placed())[-1].reduction == 16
