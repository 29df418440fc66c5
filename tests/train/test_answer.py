import numpy as np
import pytest

from making import patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bundle import Bundle
from mobilenets.errors import UsageError
from mobilenets.export import write_ungated
from mobilenets.runtime import open_artifact, predict
from mobilenets.train.answer import BundleModel


def bundle() -> Bundle:
    return settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, stride="small", classes=5))


def test_a_bundle_answers_like_its_export(tmp_path) -> None:
    made = bundle()
    pixels = patches(6, 32)
    write_ungated(made, tmp_path / "onnx")
    ours, theirs = BundleModel(made, device="cpu"), open_artifact(tmp_path / "onnx")
    np.testing.assert_allclose(ours.run(pixels), theirs.run(pixels), atol=1e-3)
    assert (ours.labels, ours.preprocess) == (theirs.labels, theirs.preprocess)


def test_predict_takes_a_bundle_as_it_takes_an_artifact(tmp_path) -> None:
    from PIL import Image

    made = bundle()
    pictures = [Image.fromarray(image) for image in patches(3, 32)]
    said = list(predict(BundleModel(made, device="cpu"), pictures, top_k=2))
    best = BundleModel(made, device="cpu").run(patches(3, 32)).argmax(axis=1)
    assert [prediction.top[0].label for prediction in said] == [made.labels[index] for index in best]


@pytest.mark.parametrize(
    ("later", "untrained", "folded"),
    [((), True, True), (({"step": "adapt"},), True, True), (({"step": "adapt"}, {"step": "train"}), False, False)],
)
def test_what_an_import_left_open_holds_until_the_bundle_is_trained(later, untrained: bool, folded: bool) -> None:
    made = bundle()
    came = {"step": "import", "classifier": "none in the file", "norms": "folded"}
    imported = Bundle(
        spec=made.spec,
        task="classify",
        labels=made.labels,
        preprocess=made.preprocess,
        tensors=made.tensors,
        history=(came, *later),
    )
    assert (imported.untrained_classifier, imported.folded_norms) == (untrained, folded)
    assert (made.untrained_classifier, made.folded_norms) == (False, False)
    if untrained:
        with pytest.raises(UsageError, match="was never trained"):
            BundleModel(imported)
