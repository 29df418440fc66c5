"""Fed wrongly: every usual way is found where it is the right one, and none is named where chance explains it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from doctored import COLOURS, Draft, artifact_of, colour_model, colours_folder, nearest_colour
from mobilenets.data import Dataset, open_dataset
from mobilenets.doctor import NORMS, Checkup, Finding, Norm, Order, doctor
from mobilenets.doctor.feeding import Way, fed_in, numbers_of, outputs_of, ways
from mobilenets.errors import UsageError
from mobilenets.records import Preprocess

NAMES = tuple(sorted(COLOURS))


def found(checkup: Checkup) -> dict[str, Finding]:
    return {finding.problem: finding for finding in checkup.findings if finding.problem != "labels missing"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(colours_folder(tmp_path_factory.mktemp("data") / "colours"))


def bare(path: Path, norm: Norm, order: Order = "RGB", *, shift: int = 0) -> Path:
    _, mean, std = NORMS[norm]
    onnx.save(colour_model(mean, std, order=order, shift=shift), path)
    return path


def ours(folder: Path, trained: Preprocess, *, order: Order = "RGB", inside: Preprocess | None = None) -> Path:
    """An artifact trained with one mean and std that has, and says, another."""
    inside = inside or trained
    model = colour_model(trained.mean, trained.std, order=order, inside=inside)
    output = model.graph.output[0].name
    return artifact_of(folder, model.SerializeToString(), labels=NAMES, preprocess=inside, output_name=output)


def as_preprocess(norm: Norm) -> Preprocess:
    _, mean, std = NORMS[norm]
    return Preprocess(resolution=16, mean=mean, std=std)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("norm", list(NORMS))
def test_a_file_that_is_fed_as_it_was_trained_is_not_accused(
    norm: Norm, order: Order, colours: Dataset, tmp_path: Path
) -> None:
    checkup = doctor(bare(tmp_path / "m.onnx", norm, order), colours, split="train", fed=norm, order=order)
    assert found(checkup) == {}
    assert checkup.feeding is not None
    assert checkup.feeding.ways[0].top1 > 0.9
    assert len(checkup.feeding.ways) == 8


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("norm", list(NORMS))
def test_the_way_it_was_trained_is_named_where_it_is_fed_in_another(
    norm: Norm, order: Order, colours: Dataset, tmp_path: Path
) -> None:
    fed: Norm = "0to1" if norm == "minus1to1" else "minus1to1"
    finding = found(doctor(bare(tmp_path / "m.onnx", norm, order), colours, split="train", fed=fed))["fed wrongly"]
    assert finding.evidence.startswith(f"fed {fed_in(norm, order=order).name}, ")
    assert ("[..., ::-1]" in finding.remedy) == (order == "BGR")


def test_the_remedy_is_a_line_that_works(colours: Dataset, tmp_path: Path) -> None:
    finding = found(doctor(bare(tmp_path / "m.onnx", "imagenet", "BGR"), colours, split="train", fed="0to1"))[
        "fed wrongly"
    ]
    rgb = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    line = re.sub(r"\((0[^()]*)\)", r"np.array((\1))", finding.remedy)  # tuples of numbers, as numpy takes them
    names = {"np": np, "rgb": rgb}
    exec(line, names)
    x = names["x"]
    np.testing.assert_allclose(x, numbers_of(rgb, fed_in("imagenet", order="BGR")), atol=2e-3)


@pytest.mark.parametrize(
    ("trained", "inside"),
    [("imagenet", "0to1"), ("minus1to1", "imagenet"), ("0to255", "imagenet"), ("0to1", "minus1to1")],
)
def test_an_artifact_with_the_wrong_mean_inside_is_found(
    trained: Norm, inside: Norm, colours: Dataset, tmp_path: Path
) -> None:
    path = ours(tmp_path / "a", as_preprocess(trained), inside=as_preprocess(inside))
    finding = found(doctor(path, colours, split="train"))["fed wrongly"]
    assert finding.evidence.startswith(f"fed {NORMS[trained][0]}, ")
    assert "export again" in finding.remedy


def test_ways_that_the_images_do_not_tell_apart_are_both_named(tmp_path: Path) -> None:
    """Dark and bright alone are the same in both."""
    few = tuple(name for name in COLOURS if "red 20 " in name or "red 235 " in name)
    images = open_dataset(colours_folder(tmp_path / "few", each=12, names=few))
    path = ours(tmp_path / "a", as_preprocess("minus1to1"), inside=as_preprocess("0to1"))
    finding = found(doctor(path, images, split="train"))["fed wrongly"]
    assert finding.evidence.startswith("fed ImageNet's mean and std, 100.0 %")
    assert finding.evidence.endswith("these images do not tell it from values in [-1, 1]")


def test_an_artifact_with_swapped_channels_is_found(colours: Dataset, tmp_path: Path) -> None:
    finding = found(doctor(ours(tmp_path / "a", as_preprocess("imagenet"), order="BGR"), colours, split="train"))
    assert "as artifact.json says, blue first" in finding["fed wrongly"].evidence
    assert "input channels" in finding["fed wrongly"].remedy


def test_an_artifact_that_is_right_is_not_accused(colours: Dataset, tmp_path: Path) -> None:
    checkup = doctor(ours(tmp_path / "a", as_preprocess("imagenet")), colours, split="train")
    assert found(checkup) == {}
    assert checkup.feeding is not None
    assert checkup.feeding.untried == {}
    assert checkup.feeding.labels == "artifact.json"


def test_a_record_that_disagrees_with_a_right_file_is_found_without_images_too(
    colours: Dataset, tmp_path: Path
) -> None:
    path = ours(tmp_path / "a", as_preprocess("imagenet"))
    told = colour_model(*NORMS["imagenet"][1:], inside=as_preprocess("imagenet"))
    said = artifact_of(
        tmp_path / "b",
        told.SerializeToString(),
        labels=NAMES,
        preprocess=as_preprocess("minus1to1"),
        output_name=told.graph.output[0].name,
    )
    assert set(found(doctor(said))) == {"normalisation unlike its record"}
    assert found(doctor(path)) == {}


def test_a_few_images_accuse_nobody(tmp_path: Path) -> None:
    few = open_dataset(colours_folder(tmp_path / "few", each=3))
    checkup = doctor(bare(tmp_path / "m.onnx", "imagenet"), few, split="val", fed="0to1")
    assert checkup.feeding is not None
    assert max(way.top1 for way in checkup.feeding.ways) > checkup.feeding.ways[0].top1
    assert "fed wrongly" not in found(checkup)


@pytest.mark.parametrize("shift", [1, -1])
def test_outputs_beside_their_labels_are_found(shift: int, colours: Dataset, tmp_path: Path) -> None:
    model = colour_model(*NORMS["imagenet"][1:], inside=as_preprocess("imagenet"), shift=shift)
    labels = (*NAMES, "none") if shift > 0 else ("none", *NAMES)
    path = artifact_of(
        tmp_path / "a",
        model.SerializeToString(),
        labels=labels,
        preprocess=as_preprocess("imagenet"),
        output_name=model.graph.output[0].name,
    )
    finding = found(doctor(path, colours, split="train"))["labels shifted"]
    assert f"class k is the output k {'+' if shift > 0 else '-'} 1" in finding.evidence


def test_a_background_before_the_classes_is_taken_for_one(colours: Dataset, tmp_path: Path) -> None:
    checkup = doctor(bare(tmp_path / "m.onnx", "imagenet", shift=1), colours, split="train")
    assert found(checkup) == {}
    assert checkup.feeding is not None
    assert "behind a background" in checkup.feeding.labels


def test_answers_at_chance_are_found(colours: Dataset, tmp_path: Path) -> None:
    draft = Draft()
    value = draft.head(draft.conv("image", 3, 8, stride=2), 8, classes=len(COLOURS))
    draft.write(tmp_path / "m.onnx", draft.add("Mul", value, draft.constant(0)), classes=len(COLOURS), named=False)
    assert "answers at chance" in found(doctor(tmp_path / "m.onnx", colours, split="train"))


def test_a_file_that_takes_bytes_is_fed_bytes(colours: Dataset, tmp_path: Path) -> None:
    model = colour_model(*NORMS["minus1to1"][1:], inside=as_preprocess("minus1to1"))
    onnx.save(model, tmp_path / "m.onnx")
    checkup = doctor(tmp_path / "m.onnx", colours, split="train")
    assert found(checkup) == {}
    assert checkup.feeding is not None
    assert checkup.feeding.ways[0].name == "raw bytes"


def test_files_that_take_one_image_at_a_time_or_pixels_last_are_fed_too(colours: Dataset, tmp_path: Path) -> None:
    draft = Draft(shape=[4, 16, 16, 3])
    value = draft.add("Transpose", "image", perm=[0, 3, 1, 2])
    matrix, bias = nearest_colour(*NORMS["0to1"][1:])
    value = draft.add("Flatten", draft.add("GlobalAveragePool", value))
    value = draft.add("Gemm", value, draft.constant(matrix), draft.constant(bias), transB=1)
    draft.write(tmp_path / "m.onnx", value, classes=len(COLOURS), named=False)
    checkup = doctor(tmp_path / "m.onnx", colours, split="train", fed="0to1")
    assert checkup.feeding is not None
    assert checkup.feeding.ways[0].top1 > 0.9


def test_classes_are_matched_by_imagenets_names_metadata_or_the_alphabet() -> None:
    index, told = outputs_of(("n01440764", "n01443537"), outputs=1001, named=(), metadata={})
    assert (index.tolist(), told) == ([1, 2], "ImageNet's usual order")
    index, told = outputs_of(("b", "a"), outputs=2, named=(), metadata={"names": "{0: 'b', 1: 'a'}"})
    assert (index.tolist(), told) == ([0, 1], "the file's metadata")
    index, told = outputs_of(("2", "10"), outputs=2, named=(), metadata={})
    assert index.tolist() == [1, 0]  # as text "10" comes first, and ImageFolder sorts text
    with pytest.raises(UsageError, match="5 outputs, the data 2 classes"):
        outputs_of(("a", "b"), outputs=5, named=(), metadata={})


def test_an_artifact_is_not_told_how_it_is_fed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="says itself"):
        doctor(ours(tmp_path / "a", as_preprocess("imagenet")), fed="0to1")


def test_an_image_that_is_not_square_is_refused_with_images_only(colours: Dataset, tmp_path: Path) -> None:
    draft = Draft(shape=[1, 3, 16, 24])
    draft.write(
        tmp_path / "m.onnx",
        draft.head(draft.conv("image", 3, 8, stride=2), 8, classes=len(COLOURS)),
        classes=len(COLOURS),
        named=False,
    )
    assert found(doctor(tmp_path / "m.onnx")) == {}
    with pytest.raises(UsageError, match="16x24"):
        doctor(tmp_path / "m.onnx", colours)


def test_ways_are_told_once_each_and_grey_images_have_one_order() -> None:
    said = fed_in("imagenet")
    assert [way.name for way in ways(said)][:2] == ["ImageNet's mean and std", "values in [-1, 1]"]
    assert len(ways(said)) == 8
    assert len(ways(Way("own", (0.4,) * 3, (0.2,) * 3))) == 10
    assert len(ways(fed_in("0to1", channels=1))) == 4
