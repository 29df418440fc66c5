"""A gate that cannot fail is a defect: every kind of broken export must be caught."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from making import needs, patches, settled_bundle
from mobilenets.arch import compose
from mobilenets.bundle import Bundle
from mobilenets.errors import CheckError, GateError, UsageError
from mobilenets.export import GateImages, Limits, artifact, export, formats
from mobilenets.export.gate import gates_of, reference_logits
from mobilenets.export.outside import CONVERTERS
from mobilenets.records import Format, Gate
from mobilenets.runtime import open_artifact, read_artifact

# Every file that may be made; int8 has tests of its own below, for what breaks it is its calibration.
# Converters of other makers take up to a minute, a traced program some seconds.
PAIRS = [
    pytest.param(
        pair,
        marks=[needs(*pair), *([pytest.mark.slow] if pair[0] in ("pt2", *CONVERTERS) else [])],
        id="-".join(pair),
    )
    for pair in formats.FORMATS
    if pair[1] != "int8"
]
FEW = 16  # images for ranges, too few to try out which ranges are best


def sure_of(bundle: Bundle, pixels: np.ndarray, *, count: int) -> np.ndarray:
    """The images that leave the least doubt, as most do to a trained network: no rounding turns those around."""
    ordered = np.sort(reference_logits(bundle, pixels), axis=1)
    return pixels[np.sort(np.argsort(ordered[:, -2] - ordered[:, -1])[:count])]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return settled_bundle(compose("mobilenet_v2", alpha=0.25, resolution=32, stride="small", classes=5))


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> GateImages:
    pixels = sure_of(bundle, patches(400, 32), count=40)
    return GateImages(images=pixels, targets=reference_logits(bundle, pixels).argmax(1), on="val")


def test_a_sound_export_passes_and_its_gates_are_on_disk(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    made = export(bundle, tmp_path / "model", images=images)
    read, _ = read_artifact(tmp_path / "model")
    assert read == made
    assert [gate.name for gate in read.gates] == ["logits_max_difference", "top1_agreement", "accuracy_drop"]
    assert all(gate.passed and gate.n == 40 for gate in read.gates)
    assert read.bundle_digest == bundle.digest


def _wrong_mean(bundle: Bundle) -> Bundle:
    return replace(bundle, preprocess=msgspec.structs.replace(bundle.preprocess, mean=(0.0, 0.0, 0.0)))


def _swapped_channels(bundle: Bundle) -> Bundle:
    tensors = dict(bundle.tensors)
    tensors["rows.0.conv.conv.weight"] = tensors["rows.0.conv.conv.weight"][:, ::-1].copy()
    return replace(bundle, tensors=tensors)


def _corrupted_weights(bundle: Bundle) -> Bundle:
    tensors = dict(bundle.tensors)
    name = "rows.5.project.conv.weight"
    tensors[name] = np.random.default_rng(0).permutation(tensors[name].ravel()).reshape(tensors[name].shape)
    return replace(bundle, tensors=tensors)


def _not_a_number(bundle: Bundle) -> Bundle:
    tensors = dict(bundle.tensors)
    tensors["head.classifier.bias"] = np.full_like(tensors["head.classifier.bias"], np.nan)
    return replace(bundle, tensors=tensors)


def _wrong_padding(bundle: Bundle) -> Bundle:
    return replace(bundle, spec=msgspec.structs.replace(bundle.spec, padding="same"))


@pytest.mark.parametrize(
    "breakage", [_wrong_mean, _swapped_channels, _corrupted_weights, _not_a_number, _wrong_padding]
)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_broken_export_is_refused_and_leaves_nothing(
    pair, breakage, tmp_path: Path, bundle: Bundle, images: GateImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(whole: Bundle, calibration: formats.Calibration | None) -> formats.Made:
        return formats.FORMATS[pair](breakage(whole), calibration)

    monkeypatch.setattr(artifact, "FORMATS", {pair: broken})
    format, precision = pair
    with pytest.raises(GateError) as caught:
        export(bundle, tmp_path / "model", images=images, format=format, precision=precision, calibration=images.images)
    assert "logits_max_difference" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pair", PAIRS)
def test_the_same_export_passes_when_nothing_is_broken(
    pair, tmp_path: Path, bundle: Bundle, images: GateImages
) -> None:
    format, precision = pair
    export(bundle, tmp_path / "model", images=images, format=format, precision=precision, calibration=images.images)


def test_a_refused_export_leaves_an_older_one_as_it_was(
    tmp_path: Path, bundle: Bundle, images: GateImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(bundle, tmp_path / "model", images=images)
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    monkeypatch.setattr(
        artifact, "FORMATS", {("onnx", "fp32"): lambda b, _: formats.FORMATS["onnx", "fp32"](_wrong_mean(b), None)}
    )
    with pytest.raises(GateError):
        export(bundle, tmp_path / "model", images=images)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before


def test_int8_is_calibrated_smaller_and_close(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    export(bundle, tmp_path / "fp32", images=images)
    limits = Limits(logits=5.0, agreement=0.5, drop=0.5)
    made = export(
        bundle, tmp_path / "int8", images=images, precision="int8", calibration=images.images[:FEW], limits=limits
    )
    assert made.size_mb < 0.6 * read_artifact(tmp_path / "fp32")[0].size_mb
    whole, small = (open_artifact(tmp_path / p).engine.run(images.images) for p in ("fp32", "int8"))
    assert np.corrcoef(whole.ravel(), small.ravel())[0, 1] > 0.9
    assert not np.array_equal(whole, small)


@pytest.mark.parametrize("calibration", [None, np.zeros((0, 32, 32, 3), np.uint8)])
def test_int8_without_calibration_images_is_refused(
    calibration, tmp_path: Path, bundle: Bundle, images: GateImages
) -> None:
    with pytest.raises(UsageError, match="calibration"):
        export(bundle, tmp_path / "int8", images=images, precision="int8", calibration=calibration)
    assert list(tmp_path.iterdir()) == []


def test_int8_calibrated_on_the_wrong_images_is_caught(tmp_path: Path, bundle: Bundle, images: GateImages) -> None:
    black = np.zeros((8, 32, 32, 3), np.uint8)
    with pytest.raises(GateError):
        export(bundle, tmp_path / "int8", images=images, precision="int8", calibration=black)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_int8_of_a_network_that_answers_with_no_number_is_refused(
    format: Format, tmp_path: Path, bundle: Bundle, images: GateImages
) -> None:
    odd, pixels = _not_a_number(bundle), images.images
    with pytest.raises(CheckError, match="no number"):
        export(odd, tmp_path / "int8", images=images, format=format, precision="int8", calibration=pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("breakage", [_wrong_mean, _swapped_channels, _corrupted_weights])
def test_a_broken_int8_export_is_refused_and_leaves_nothing(
    breakage, tmp_path: Path, bundle: Bundle, images: GateImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(whole: Bundle, calibration: formats.Calibration | None) -> formats.Made:
        return formats.FORMATS["onnx", "int8"](breakage(whole), calibration)

    monkeypatch.setattr(artifact, "FORMATS", {("onnx", "int8"): broken})
    with pytest.raises(GateError):
        export(bundle, tmp_path / "model", images=images, precision="int8", calibration=images.images[:FEW])
    assert list(tmp_path.iterdir()) == []


def test_int8_may_end_where_its_range_ends_and_nowhere_else() -> None:
    """One image of 200 lies twenty deviations out; what int8 makes of it, and of the others, decides."""
    reference = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    reference[7] *= 20 / np.abs(reference[7]).max()
    cut = reference.copy()
    cut[7] *= 3 / 20  # as far as the others go
    exploding = reference.copy()
    exploding[8] *= 20
    elsewhere = cut.copy()
    elsewhere[7] = -elsewhere[7]
    images = GateImages(images=np.zeros((200, 1, 1, 3), np.uint8), targets=None, on="val")

    def passes(answered: np.ndarray, limits: Limits) -> bool:
        return gates_of(reference, answered, images, limits)[0].passed

    int8 = Limits.of("int8")
    assert passes(cut, int8)
    assert not passes(cut, msgspec.structs.replace(int8, usual=None))
    assert not passes(cut, Limits.of("int8-weights"))  # float32 has no such end
    assert not passes(exploding, int8)
    assert not passes(elsewhere, int8)
    assert not passes(np.where(np.arange(200)[:, None] == 7, np.inf, cut), int8)


def test_int8_that_is_not_faster_enough_is_refused(
    tmp_path: Path, bundle: Bundle, images: GateImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(bundle, tmp_path / "fp32", images=images)
    monkeypatch.setattr(artifact, "SPEED_SECONDS", 0.2)
    limits = Limits(logits=9.0, agreement=0.0, drop=1.0, speedup=1000.0)
    with pytest.raises(GateError, match="speedup_over_fp32"):
        export(
            bundle,
            tmp_path / "int8",
            images=images,
            precision="int8",
            calibration=images.images[:FEW],
            limits=limits,
            faster_than=tmp_path / "fp32",
        )
    assert not (tmp_path / "int8").exists()


def test_nan_never_passes_a_gate() -> None:
    for passes in ("at_most", "at_least"):
        assert not Gate(name="x", value=float("nan"), limit=0.5, passes=passes, n=1, on="val").passed


def test_an_unknown_precision_has_no_limits() -> None:
    with pytest.raises(UsageError):
        Limits.of("fp8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "limit", "passes", "passed"),
    [
        (0.75 - 0.74, 0.01, "at_most", True),  # 0.010000000000000009: five images of five hundred
        (0.012, 0.01, "at_most", False),
        (0.98, 0.98, "at_least", True),
        (0.978, 0.98, "at_least", False),
        (float("nan"), 0.01, "at_most", False),
        (float("nan"), 0.98, "at_least", False),
    ],
)
def test_a_gate_lets_its_limit_itself_pass_and_nothing_beyond(
    value: float, limit: float, passes: Literal["at_most", "at_least"], passed: bool
) -> None:
    assert Gate(name="a gate", value=value, limit=limit, passes=passes, n=500, on="val").passed is passed
