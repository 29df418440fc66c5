"""What a file says, what its record says of it, and how its convolutions pad."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from doctored import LABELS, Draft, artifact_of, colour_model
from making import settled_bundle
from mobilenets.arch import ArchSpec, compose
from mobilenets.doctor import Checkup, Finding, doctor
from mobilenets.export.onnx_graph import INPUT_NAME, OUTPUT_NAME, to_onnx
from mobilenets.export.openvino_ir import to_openvino
from mobilenets.export.tflite import to_tflite
from mobilenets.files import write_json
from mobilenets.records import Artifact, Preprocess, read_record, to_json
from mobilenets.runtime import is_installed

OURS = {"input_name": INPUT_NAME, "output_name": OUTPUT_NAME}
NAMES = tuple("abcdefg")


def found(checkup: Checkup) -> dict[str, Finding]:
    return {finding.problem: finding for finding in checkup.findings}


def facts(checkup: Checkup) -> dict[str, str]:
    return {fact.name: fact.value for fact in checkup.facts}


def spec_of(base: str = "mobilenet_v2", *, side: int = 32) -> ArchSpec:
    return compose(base, alpha=0.25, resolution=side, stride="small", classes=len(NAMES))


def ours(folder: Path, spec: ArchSpec, *, said: ArchSpec | None = None, preprocess: Preprocess | None = None) -> Path:
    """An artifact of ours; `said` and `preprocess` are what its record claims where that is not the truth."""
    bundle = settled_bundle(spec)
    model = to_onnx(spec, bundle.tensors, bundle.preprocess)
    told = said or spec
    return artifact_of(
        folder,
        model.SerializeToString(),
        labels=NAMES,
        preprocess=preprocess or bundle.preprocess,
        spec=(told.name, told.digest),
        **OURS,
    )


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return ours(tmp_path / "healthy", spec_of())


@pytest.mark.parametrize("base", ["mobilenet_v1", "mobilenet_v3_small", "mobilenet_v4_conv_small"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_healthy_artifact_has_no_findings_and_its_padding_is_told(base: str, padding: str, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(spec_of(base), padding=padding)
    checkup = doctor(ours(tmp_path / "healthy", spec))
    assert checkup.findings == ()
    assert f"{padding}; the table says {padding}" in facts(checkup)["padding"]
    assert "mean (0.400, 0.500, 0.600), std (0.200, 0.250, 0.300)" in facts(checkup)["normalisation"]


def test_padding_unlike_the_table_is_found_both_ways(tmp_path: Path) -> None:
    even, uneven = spec_of(), msgspec.structs.replace(spec_of(), padding="same")
    for built, said in ((even, uneven), (uneven, even)):
        finding = found(doctor(ours(tmp_path / built.padding, built, said=said)))["padding unlike its table"]
        assert finding.weight == "wrong"
        assert f"pads {said.padding!r}; 3 convolutions" in finding.evidence


def test_a_table_of_somebodys_own_is_not_held_against_the_padding(tmp_path: Path) -> None:
    even = msgspec.structs.replace(spec_of(), padding="same")
    other = msgspec.structs.replace(spec_of("mobilenet_v1"), name="mine")
    assert found(doctor(ours(tmp_path / "a", even, said=other))) == {}


@pytest.mark.parametrize(
    ("side", "options", "kind"),
    [
        (16, {"pads": (1, 1)}, "1 symmetric"),
        (16, {"pads": (0, 1)}, "1 same"),
        (16, {"auto_pad": "SAME_UPPER"}, "1 same"),
        (16, {"auto_pad": "SAME_LOWER"}, "1 other"),
        (15, {"pads": (1, 1)}, "1 either"),
        (15, {"auto_pad": "SAME_UPPER"}, "1 either"),
        (16, {"pads": (0, 0)}, "1 other"),
        (16, {"kernel": 1, "pads": (0, 0)}, "1 either"),
    ],
)
def test_the_convention_is_read_off_where_it_can_be(
    side: int, options: dict[str, object], kind: str, tmp_path: Path
) -> None:
    draft = Draft(side=side)
    value = draft.head(draft.conv("image", 3, 8, stride=2, **options), 8)  # type: ignore[arg-type]
    assert facts(doctor(draft.write(tmp_path / "m.onnx", value)))["padding"] == f"convolutions that stride: {kind}"


def test_a_pad_of_its_own_counts_as_padding(tmp_path: Path) -> None:
    draft = Draft()
    padded = draft.add("Pad", "image", draft.constant([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
    value = draft.head(draft.conv(padded, 3, 8, stride=2, pads=(0, 0)), 8)
    assert facts(doctor(draft.write(tmp_path / "m.onnx", value)))["padding"].endswith("1 same")


def test_two_conventions_in_one_file_are_found(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.conv("image", 3, 8, stride=2, pads=(0, 1))
    odd = draft.conv(value, 8, 8, stride=2, pads=(1, 1))
    last = draft.conv(odd, 8, 8, stride=2, pads=(0, 1))
    assert found(doctor(draft.write(tmp_path / "m.onnx", draft.head(last, 8))))["mixed padding"].nodes == (odd,)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("format", ["tflite", "openvino"])
def test_other_formats_are_read_like_onnx(format: str, padding: str, tmp_path: Path) -> None:
    if not is_installed({"tflite": "litert"}.get(format, format)):
        pytest.skip(f"the engine of {format} is not installed")
    spec = msgspec.structs.replace(spec_of("mobilenet_v3_small"), padding=padding)
    bundle = settled_bundle(spec)
    model = to_onnx(spec, bundle.tensors, bundle.preprocess)
    made = {"model.tflite": to_tflite(model, facts={})} if format == "tflite" else to_openvino(model, facts={})
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    checkup = doctor(tmp_path / ("model.tflite" if format == "tflite" else "model.xml"))
    assert set(found(checkup)) == {"labels missing"}
    assert facts(checkup)["padding"] == f"convolutions that stride: 3 {padding}"
    assert facts(checkup)["layers"] == facts(doctor(ours(tmp_path / "onnx", spec)))["layers"]


def test_a_changed_file_is_found(healthy: Path) -> None:
    model = onnx.load(healthy / "model.onnx")
    model.doc_string = "changed"
    onnx.save(model, healthy / "model.onnx")
    assert set(found(doctor(healthy))) == {"changed file"}


def test_weights_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    draft = Draft()
    broken = draft.constant(np.full((8, 3, 3, 3), np.nan))
    value = draft.head(draft.conv("image", 3, 8, stride=2, weight=broken), 8)
    finding = found(doctor(draft.write(tmp_path / "m.onnx", value)))["numbers that are not finite"]
    assert "216 numbers in 1 tensors" in finding.evidence


@pytest.mark.parametrize(("mean", "std"), [((0.41, 0.5, 0.6), (0.2, 0.25, 0.3)), ((0.4, 0.5, 0.6), (0.2, 0.25, 0.31))])
def test_another_normalisation_than_the_record_says_is_found(
    mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path
) -> None:
    path = ours(tmp_path / "a", spec_of(), preprocess=Preprocess(resolution=32, mean=mean, std=std))
    assert set(found(doctor(path))) == {"normalisation unlike its record"}


def relabelled(folder: Path, labels: tuple[str, ...]) -> Path:
    record = read_record(folder / "artifact.json", Artifact, what="artifact.json")
    write_json(folder / "artifact.json", to_json(msgspec.structs.replace(record, labels=labels)))
    return folder


def test_labels_that_do_not_fit_the_outputs_are_found(healthy: Path) -> None:
    assert "7 outputs and 6 labels (one is the background" in evidence(relabelled(healthy, NAMES[1:]))
    assert "7 outputs and 9 labels" in evidence(relabelled(healthy, (*NAMES, "h", "i")))
    assert "1 labels are there more than once, first 'a'" in evidence(relabelled(healthy, ("a", *NAMES[:-1])))


def evidence(path: Path) -> str:
    return found(doctor(path))["labels unlike the outputs"].evidence


def test_labels_that_are_numbers_are_told(healthy: Path) -> None:
    assert found(doctor(relabelled(healthy, tuple(f"class {n}" for n in range(7)))))["labels missing"].weight == "note"
    assert found(doctor(relabelled(healthy, ("class 1", *NAMES[1:])))) == {}


def test_a_file_without_labels_is_told_of_and_one_with_names_in_its_metadata_is_not(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.head(draft.conv("image", 3, 8, stride=2), 8)
    assert set(found(doctor(draft.write(tmp_path / "bare.onnx", value, named=False)))) == {"labels missing"}
    assert found(doctor(draft.write(tmp_path / "named.onnx", value))) == {}


def test_a_thousand_and_one_outputs_are_a_note_and_wrong_without_a_background(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.head(draft.conv("image", 3, 8, stride=2), 8, classes=1001)
    path = draft.write(tmp_path / "bare.onnx", value, classes=1001)
    assert found(doctor(path))["1001 labels"].weight == "note"
    model = onnx.load(path)
    model.metadata_props[0].value = "\n".join(["background", *(f"name, or {index}" for index in range(1000))])
    onnx.save(model, tmp_path / "told.onnx")
    assert found(doctor(tmp_path / "told.onnx")) == {}
    names = tuple(f"name of {index}" for index in range(1000))
    ways = {"with": ("background", *names), "without": (*names, "one more")}
    checkups = {
        key: doctor(artifact_of(tmp_path / key, path.read_bytes(), labels=labels, output_name=value))
        for key, labels in ways.items()
    }
    assert found(checkups["with"]) == {}
    assert found(checkups["without"])["1001 labels"].weight == "wrong"


def test_softmax_inside_is_a_note_and_wrong_in_an_artifact(tmp_path: Path) -> None:
    draft = Draft()
    value = draft.add("Softmax", draft.head(draft.conv("image", 3, 8, stride=2), 8), axis=-1)
    path = draft.write(tmp_path / "bare.onnx", value)
    assert found(doctor(path))["softmax inside"].weight == "note"
    artifact = artifact_of(tmp_path / "a", path.read_bytes(), labels=LABELS, output_name=value)
    assert found(doctor(artifact))["softmax inside"].weight == "wrong"


def test_a_file_may_be_given_beside_its_record_and_then_has_one(healthy: Path) -> None:
    assert doctor(healthy / "model.onnx").findings == ()


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    """torch.onnx.export writes them so."""
    model = colour_model((0.5,) * 3, (0.5,) * 3)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert (tmp_path / "m.onnx.data").is_file()
    assert set(found(doctor(tmp_path / "m.onnx"))) == {"labels missing"}
