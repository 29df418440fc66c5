"""Every format in every precision that the table claims, for a network of every family."""

import io
import json
import typing
from pathlib import Path

import numpy as np
import pytest

from making import needs, patches, settled_bundle
from mobilenets.arch import CATALOG, compose
from mobilenets.errors import FileFormatError, UnknownNameError
from mobilenets.export import FORMATS, GateImages, Limits, export
from mobilenets.export.formats import Made
from mobilenets.export.gate import reference_logits
from mobilenets.export.outside import CONVERTERS
from mobilenets.records import Format, Precision
from mobilenets.runtime import engines_for, is_installed, open_artifact, read_artifact

PAIRS = [
    pytest.param(*pair, marks=[needs(*pair), *([pytest.mark.slow] if pair[0] in CONVERTERS else [])], id="-".join(pair))
    for pair in FORMATS
]
FLOATS = [pytest.param(*pair, marks=needs(*pair), id="-".join(pair)) for pair in FORMATS if pair[1] != "int8"]
FAMILIES = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v4_conv_small")
# Untrained networks pass every rounding on and are never sure of anything; how close a trained one must stay is the
# gate's business. These limits are far below what any real mistake does (tests/export/test_gate.py).
UNTRAINED = {
    "fp32": Limits.of("fp32"),
    "fp16": Limits(logits=0.3, agreement=0.8, drop=0.2),
    "bf16": Limits(logits=2.5, agreement=0.5, drop=0.5),
    "int8": Limits(logits=9.0, agreement=0.2, drop=0.8),
    "int8-weights": Limits(logits=4.0, agreement=0.5, drop=0.5),
    "int8-dynamic": Limits(logits=9.0, agreement=0.2, drop=0.8),
}

# Least correlation of logits, where not 0.99: roundings to 8 bits add up over the rows of large networks.
ALIKE: dict[Precision, float] = {"bf16": 0.95, "int8": 0.9, "int8-weights": 0.9, "int8-dynamic": 0.8}


def _slow(format: Format, precision: Precision, base: str) -> list[pytest.MarkDecorator]:
    """Traced programs and some int8 take seconds to make: one family for every day. Lowered ones take a minute."""
    seconds = format == "pt2" or (format == "openvino" and precision == "int8")
    often = format not in CONVERTERS and (not seconds or (base == "mobilenet_v3_small" and precision != "bf16"))
    return [] if often else [pytest.mark.slow]


def _exported(base: str, folder: Path, *, format: Format, precision: Precision, side: int = 32) -> None:
    bundle = settled_bundle(compose(base, alpha=0.25, resolution=side, stride="small", classes=5))
    pixels = patches(20, side)
    expected = reference_logits(bundle, pixels)
    images = GateImages(images=pixels, targets=expected.argmax(1), on="val")
    made = export(
        bundle,
        folder,
        images=images,
        format=format,
        precision=precision,
        calibration=pixels,
        limits=UNTRAINED[precision],
    )
    assert (made.format, made.precision) == (format, precision)
    assert (
        made.size_mb
        == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "artifact.json") / 1e6
    )
    for engine in engines_for(format):
        if is_installed(engine):
            answered = open_artifact(folder, engine=engine, threads=1).engine.run(pixels)
            assert np.corrcoef(answered.ravel(), expected.ravel())[0, 1] > ALIKE.get(precision, 0.99)


@pytest.mark.parametrize(
    ("format", "precision", "base"),
    [
        pytest.param(*pair, base, marks=[needs(*pair), *_slow(*pair, base)], id="-".join((*pair, base)))
        for pair in FORMATS
        for base in FAMILIES
    ],
)
def test_every_claimed_file_of_every_family_answers_like_its_network(
    format: Format, precision: Precision, base: str, tmp_path: Path
) -> None:
    _exported(base, tmp_path / "model", format=format, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted(CATALOG))
@pytest.mark.parametrize(("format", "precision"), FLOATS)
def test_every_claimed_file_of_every_catalogue_network_answers_like_it(
    format: Format, precision: Precision, base: str, tmp_path: Path
) -> None:
    _exported(base, tmp_path / "model", format=format, precision=precision, side=64)


@pytest.mark.parametrize(("format", "precision"), PAIRS)
def test_a_file_is_opened_by_itself_and_tells_its_labels_and_preprocessing(
    format: Format, precision: Precision
) -> None:
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, stride="small", classes=3))
    facts = FACTS[format](FORMATS[format, precision](bundle, patches(8, 32)))
    assert json.loads(facts["labels"]) == list(bundle.labels)
    assert json.loads(facts["preprocess"])["mean"] == list(bundle.preprocess.mean)
    assert (facts["task"], facts["bundle"], facts["network"]) == ("classify", bundle.digest, bundle.spec.name)


def _onnx_facts(made: Made) -> dict[str, str]:
    import onnx

    properties = onnx.load_from_string(made["model.onnx"]).metadata_props
    return {entry.key.removeprefix("mobilenets."): entry.value for entry in properties}


def _openvino_facts(made: Made) -> dict[str, str]:
    from mobilenets.runtime.engines.open_vino import import_openvino

    ov = import_openvino()
    model = ov.Core().read_model(made["model.xml"], ov.Tensor(np.frombuffer(made["model.bin"], np.uint8)))
    return {name: value.value for name, value in model.get_rt_info()["mobilenets"].items()}


def _tflite_facts(made: Made) -> dict[str, str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(made["model.tflite"], 0)
    (entry,) = model.metadata
    facts: dict[str, str] = json.loads(bytes(model.buffers[entry.buffer].data))
    return facts


def _pt2_facts(made: Made) -> dict[str, str]:
    import torch

    from mobilenets.runtime.engines.torch_export import FACTS_FILE

    files = {FACTS_FILE: ""}
    torch.export.load(io.BytesIO(made["model.pt2"]), extra_files=files)
    facts: dict[str, str] = json.loads(files[FACTS_FILE])
    return facts


def _coreml_facts(made: Made) -> dict[str, str]:
    spec = pytest.importorskip("coremltools.proto.Model_pb2", reason="coremltools is not installed here")
    model = spec.Model.FromString(next(content for name, content in made.items() if name.endswith(".mlmodel")))
    metadata = dict(model.description.metadata.userDefined)
    return {name.removeprefix("mobilenets."): value for name, value in metadata.items()}


def _executorch_facts(made: Made) -> dict[str, str]:
    runtime = pytest.importorskip("executorch.runtime", reason="executorch is not installed here")
    program = runtime.Runtime.get().load_program(made["model.pte"])
    (told,) = program.load_method("mobilenets").execute([])
    facts: dict[str, str] = json.loads(bytes(told.tolist()))
    return facts


FACTS: dict[Format, typing.Callable[[Made], dict[str, str]]] = {
    "onnx": _onnx_facts,
    "openvino": _openvino_facts,
    "tflite": _tflite_facts,
    "executorch": _executorch_facts,
    "coreml": _coreml_facts,
    "pt2": _pt2_facts,
}


@pytest.mark.parametrize(
    "format",
    [
        pytest.param(name, marks=[needs(name), *([pytest.mark.slow] if name in CONVERTERS else [])])
        for name, precision in FORMATS
        if precision == "fp16"
    ],
)
def test_half_weights_are_half_the_file(format: Format) -> None:
    bundle = settled_bundle(compose("mobilenet_v1", resolution=32, stride="small", classes=3))
    whole, half = (sum(map(len, FORMATS[format, precision](bundle, None).values())) for precision in ("fp32", "fp16"))
    assert half < 0.55 * whole


@pytest.mark.parametrize("precision", ["fp16"])
def test_a_weight_beyond_float16_is_refused(precision: Precision) -> None:
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, stride="small", classes=3))
    bundle.tensors["rows.3.project.conv.weight"][:] = 1e6
    with pytest.raises(FileFormatError, match=r"rows\.3\.project\.weight has a weight of .*65504"):
        FORMATS["onnx", precision](bundle, None)


def test_a_pair_that_the_table_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    bundle = settled_bundle(compose("mobilenet_v1", alpha=0.25, resolution=32, stride="small", classes=3))
    images = GateImages(images=patches(4, 32), targets=None, on="val")
    with pytest.raises(UnknownNameError, match="onnx bf16"):
        export(bundle, tmp_path / "model", images=images, precision="bf16")


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
def test_a_companion_that_was_changed_or_lost_is_told(tmp_path: Path) -> None:
    _exported("mobilenet_v1", tmp_path / "model", format="openvino", precision="fp32")
    weights = tmp_path / "model" / "model.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\0\1")
    with pytest.raises(FileFormatError, match=r"model\.bin was changed"):
        open_artifact(tmp_path / "model")
    weights.unlink()
    with pytest.raises(FileFormatError, match=r"model\.bin is missing"):
        read_artifact(tmp_path / "model")
