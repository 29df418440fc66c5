"""TF-slim's checkpoints of our own random networks, written by `bundle_writer`, come back as they were."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from making import settled_bundle
from mobilenets.arch import ArchSpec, BottleneckRow, compose, find
from mobilenets.bundle import Bundle
from mobilenets.errors import FileFormatError
from mobilenets.weights import import_weights
from mobilenets.weights.slim import is_slim, read_slim
from weights.bundle_writer import block, table, write_checkpoint

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
GATE = np.float32(0.16667 * 6)  # slim's hard sigmoid against ours
MODELS = {
    "mobilenet_v1": ("MobilenetV1", 0.25),
    "mobilenet_v2": ("MobilenetV2", 0.35),
    "mobilenet_v3_large": ("MobilenetV3", 0.35),
    "mobilenet_v3_small": ("MobilenetV3", 0.35),
    "mobilenet_v3_small_minimalistic": ("MobilenetV3", 0.35),
}


def made(base: str, classes: int = 3) -> Bundle:
    return settled_bundle(compose(base, alpha=MODELS[base][1], resolution=32, classes=classes))


@pytest.fixture(scope="session")
def v1() -> Bundle:
    return made("mobilenet_v1")


def variables(bundle: Bundle) -> dict[str, np.ndarray]:
    """The bundle's tensors as slim names them and TensorFlow lays them out."""
    tensors, spec, found = bundle.tensors, bundle.spec, {}
    scope, _ = next(value for base, value in MODELS.items() if spec.name.startswith(base))

    def add(theirs: str, ours: str) -> None:
        if f"{ours}.conv.weight" in tensors:
            depthwise = ours.endswith("depthwise")
            kernel = tensors[f"{ours}.conv.weight"].transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
            found[f"{scope}/{theirs}/{'depthwise_weights' if depthwise else 'weights'}"] = kernel
            for part, name in NORM.items():
                found[f"{scope}/{theirs}/BatchNorm/{part}"] = tensors[f"{ours}.norm.{name}"]
        else:
            weight = tensors[f"{ours}.weight"]
            kernel = weight.T[None, None] if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
            found[f"{scope}/{theirs}/weights"] = kernel
            found[f"{scope}/{theirs}/biases"] = tensors[f"{ours}.bias"]

    for i, row in enumerate(spec.rows):
        if scope == "MobilenetV1":
            if i == 0:
                add("Conv2d_0", "rows.0.conv")
            else:
                add(f"Conv2d_{i}_depthwise", f"rows.{i}.depthwise")
                add(f"Conv2d_{i}_pointwise", f"rows.{i}.project")
        elif isinstance(row, BottleneckRow):
            name = "expanded_conv" if i == 1 else f"expanded_conv_{i - 1}"
            for part in ("expand", "depthwise", "project"):
                if f"rows.{i}.{part}.conv.weight" in tensors:
                    add(f"{name}/{part}", f"rows.{i}.{part}")
            if row.squeezed is not None:
                add(f"{name}/squeeze_excite/Conv", f"rows.{i}.excite.squeeze")
                add(f"{name}/squeeze_excite/Conv_1", f"rows.{i}.excite.excite")
        else:
            add("Conv" if i == 0 else "Conv_1", f"rows.{i}.conv")
    if spec.head.hidden is not None:
        add("Conv_2", "head.hidden")
    add("Logits/Conv2d_1c_1x1", "head.classifier")
    return found


def expected(bundle: Bundle) -> dict[str, np.ndarray]:
    wanted = dict(bundle.tensors)
    for i, row in enumerate(bundle.spec.rows):
        if isinstance(row, BottleneckRow) and row.squeezed is not None:
            wanted[f"rows.{i}.project.conv.weight"] = wanted[f"rows.{i}.project.conv.weight"] * GATE
    return wanted


def assert_same(tensors: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert set(tensors) == set(wanted)
    assert [name for name in wanted if not np.array_equal(tensors[name], wanted[name])] == []


@pytest.mark.parametrize("base", list(MODELS))
def test_a_checkpoint_comes_back_with_its_table_and_its_numbers(base: str, tmp_path) -> None:
    bundle = made(base)
    write_checkpoint(tmp_path / "model.ckpt-7", {**variables(bundle), "global_step": np.int64(7)})
    imported = read_slim(tmp_path / "model.ckpt-7")
    assert imported.spec.rows == bundle.spec.rows
    assert imported.spec.name == f"{base}_{MODELS[base][1]:g}_224"
    assert find(imported.spec.name).rows == imported.spec.rows
    assert_same(imported.tensors, expected(bundle))


@pytest.mark.parametrize(("base", "momentum"), [("mobilenet_v1", 0.0003), ("mobilenet_v3_small", 0.003)])
def test_slims_conventions_come_along_and_the_background_class_goes(base: str, momentum: float, tmp_path) -> None:
    write_checkpoint(tmp_path / "model.ckpt", variables(made(base, classes=1001)))
    bundle = import_weights(tmp_path / "model.ckpt")
    assert bundle.spec.padding == "same"
    assert (bundle.spec.norm.eps, bundle.spec.norm.momentum) == (1e-3, momentum)
    assert bundle.preprocess.mean == bundle.preprocess.std == (0.5, 0.5, 0.5)
    assert (bundle.preprocess.resolution, bundle.preprocess.crop_fraction) == (224, 0.875)
    assert len(bundle.labels) == 1000
    assert bundle.labels[0] == "tench"
    assert bundle.history[0]["dropped"] == "background"


def test_moving_averages_are_preferred_and_what_an_optimizer_keeps_is_left_out(v1: Bundle, tmp_path) -> None:
    content: dict[str, np.ndarray] = {}
    for name, array in variables(v1).items():
        content[name] = array + 1
        content[f"{name}/ExponentialMovingAverage"] = array
        for slot in ("RMSProp", "RMSProp_1", "Momentum"):
            content[f"{name}/{slot}"] = array + 2
    del content["MobilenetV1/Conv2d_0/BatchNorm/beta/ExponentialMovingAverage"]
    content["MobilenetV1/Conv2d_0/BatchNorm/beta"] = variables(v1)["MobilenetV1/Conv2d_0/BatchNorm/beta"]
    write_checkpoint(tmp_path / "model.ckpt", content)
    imported = read_slim(tmp_path / "model.ckpt")
    assert_same(imported.tensors, v1.tensors)
    assert imported.told["averages"] == "moving averages for 136 of 137 variables"


def test_a_checkpoint_of_averages_alone_is_read(v1: Bundle, tmp_path) -> None:
    shadows = {f"{name}/ExponentialMovingAverage": array for name, array in variables(v1).items()}
    write_checkpoint(tmp_path / "model.ckpt", shadows)
    assert_same(read_slim(tmp_path / "model.ckpt").tensors, v1.tensors)


def test_ranges_of_training_for_8_bits_are_left_out_and_told(v1: Bundle, tmp_path) -> None:
    ranges = {
        "MobilenetV1/MobilenetV1/Conv2d_0/act_quant/max": np.float32(6),
        "MobilenetV1/Conv2d_0/weights_quant/min": np.float32(-1),
        "MobilenetV1/Logits/Conv2d_1c_1x1/weights_quant/max/ExponentialMovingAverage": np.float32(1),
    }
    write_checkpoint(tmp_path / "model.ckpt", {**variables(v1), **ranges})
    imported = read_slim(tmp_path / "model.ckpt")
    assert_same(imported.tensors, v1.tensors)
    assert "8 bits" in imported.told["quantisation"]


def test_without_logits_the_backbone_comes_and_the_classifier_is_called_untrained(v1: Bundle, tmp_path) -> None:
    body = {name: array for name, array in variables(v1).items() if "/Logits/" not in name}
    write_checkpoint(tmp_path / "model.ckpt", body)
    imported = read_slim(tmp_path / "model.ckpt")
    assert "none in the file" in imported.told["classifier"]
    assert imported.spec.head.classes == 2
    rows = {name: array for name, array in imported.tensors.items() if name.startswith("rows.")}
    assert_same(rows, {name: array for name, array in v1.tensors.items() if name.startswith("rows.")})


def test_a_pruned_network_comes_with_its_own_widths(tmp_path) -> None:
    spec: ArchSpec = compose("mobilenet_v1", alpha=0.25, resolution=32, classes=3)
    rows = list(spec.rows)
    rows[4] = msgspec.structs.replace(rows[4], out=37)
    pruned = settled_bundle(msgspec.structs.replace(spec, rows=tuple(rows)))
    write_checkpoint(tmp_path / "model.ckpt", variables(pruned))
    imported = read_slim(tmp_path / "model.ckpt")
    assert imported.spec.rows == tuple(rows)
    assert_same(imported.tensors, pruned.tensors)


@pytest.mark.parametrize(
    ("name", "resolution"),
    [
        ("mobilenet_v1_0.25_128.ckpt", 128),
        ("v3-small_192_1.0_float/ema/model-388500", 192),
        ("mobilenet_v2_1.4_224/model.ckpt-160", 224),
        ("run_7/model.ckpt-100", 224),
    ],
)
def test_the_resolution_is_that_of_the_name_and_the_history_says_so(name: str, resolution: int, v1, tmp_path) -> None:
    write_checkpoint(tmp_path / name, variables(v1))
    imported = read_slim(tmp_path / name)
    assert imported.spec.resolution == imported.preprocess.resolution == resolution
    assert ("by the name" in imported.told["resolution"]) is (name != "run_7/model.ckpt-100")


@pytest.mark.parametrize("given", ["", ".index", ".data-00001-of-00002", ".meta", "folder"])
def test_a_checkpoint_is_found_by_its_prefix_any_of_its_files_or_its_folder(given: str, v1: Bundle, tmp_path) -> None:
    write_checkpoint(tmp_path / "model.ckpt-7", variables(v1), shards=2)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n', encoding="utf-8")
    (tmp_path / "model.ckpt-7.meta").touch()
    path = tmp_path if given == "folder" else tmp_path / f"model.ckpt-7{given}"
    assert is_slim(path)
    assert_same(import_weights(path).tensors, v1.tensors)


def archive(path: Path, folder: Path, prefix: str = "") -> Path:
    with tarfile.open(path, "w:gz") as made:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                made.add(file, f"{prefix}{file.relative_to(folder)}")
    return path


def test_an_archive_as_published_is_read_without_unpacking(v1: Bundle, tmp_path) -> None:
    files = tmp_path / "files"
    write_checkpoint(files / "model.ckpt", variables(v1))
    (files / "model_frozen.pb").write_bytes(b"graph")
    path = archive(tmp_path / "mobilenet_v1_0.25_160.tgz", files, prefix="../")
    before = set(tmp_path.parent.iterdir()) | set(tmp_path.rglob("*"))
    assert is_slim(path)
    bundle = import_weights(path)
    assert_same(bundle.tensors, v1.tensors)
    assert bundle.preprocess.resolution == 160
    assert set(tmp_path.parent.iterdir()) | set(tmp_path.rglob("*")) == before


def test_of_v3s_two_checkpoints_the_averaged_one_is_taken(tmp_path) -> None:
    bundle = made("mobilenet_v3_small")
    whole = variables(bundle)
    write_checkpoint(tmp_path / "files/v3-small_224_0.35_float/ema/model-5", whole)
    write_checkpoint(tmp_path / "files/v3-small_224_0.35_float/pristine/model-5", {n: a + 1 for n, a in whole.items()})
    path = archive(tmp_path / "v3.tar.gz", tmp_path / "files")
    assert_same(read_slim(path).tensors, expected(bundle))


def test_several_checkpoints_or_none_are_refused_with_their_names(v1: Bundle, tmp_path) -> None:
    for step in (7, 9):
        write_checkpoint(tmp_path / f"files/model.ckpt-{step}", variables(v1))
    for path in (tmp_path / "files", archive(tmp_path / "two.tgz", tmp_path / "files")):
        with pytest.raises(FileFormatError, match=r"2 checkpoints: model.ckpt-7, model.ckpt-9"):
            read_slim(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match="0 checkpoints"):
        read_slim(archive(tmp_path / "none.tgz", tmp_path / "empty"))
    assert not is_slim(tmp_path / "empty")


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_archives_that_are_cut_off_are_refused(keep: int, v1: Bundle, tmp_path) -> None:
    write_checkpoint(tmp_path / "files/model.ckpt", variables(v1))
    path = archive(tmp_path / "net.tgz", tmp_path / "files")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileFormatError):
        read_slim(path)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenets.weights.slim_files.MOST_BYTES", 100_000)
    with tarfile.open(tmp_path / "bomb.tgz", "w:gz") as made:
        member = tarfile.TarInfo("model.ckpt.index")
        member.size = 10_000_000
        made.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(FileFormatError, match="more than 100000 bytes"):
        read_slim(tmp_path / "bomb.tgz")


def test_the_old_format_of_one_file_is_told_apart(tmp_path) -> None:
    (tmp_path / "model.ckpt").write_bytes(table({b"": b"", b"name": b"value"}))
    assert is_slim(tmp_path / "model.ckpt")
    with pytest.raises(FileFormatError, match=r"before 1.0.*write_version=2"):
        import_weights(tmp_path / "model.ckpt")


def test_a_checkpoint_of_another_network_is_refused_with_what_it_holds(tmp_path) -> None:
    write_checkpoint(tmp_path / "model.ckpt", {"resnet_v1_50/conv1/weights": np.zeros((7, 7, 3, 64), np.float32)})
    with pytest.raises(FileFormatError, match=r"resnet_v1_50/conv1/weights.*MobilenetV1"):
        read_slim(tmp_path / "model.ckpt")


def test_misfits_are_told_by_slims_own_names_and_shapes(v1: Bundle, tmp_path) -> None:
    content = variables(v1)
    del content["MobilenetV1/Conv2d_3_pointwise/weights"]
    content["MobilenetV1/Conv2d_5_depthwise/depthwise_weights"] = np.zeros((3, 3, 64, 2), np.float32)
    content["MobilenetV1/Extra/weights"] = np.zeros((1, 1, 4, 4), np.float32)
    write_checkpoint(tmp_path / "model.ckpt", content)
    with pytest.raises(FileFormatError) as caught:
        read_slim(tmp_path / "model.ckpt")
    for part in (
        "3 tensors",
        "Conv2d_3_pointwise/weights (1, 1, 32, 32) is missing",
        "Conv2d_5_depthwise/depthwise_weights is (3, 3, 64, 2), the table wants (3, 3, 64, 1)",
        "Extra/weights (1, 1, 4, 4) has no place",
    ):
        assert part in str(caught.value)


def test_a_block_that_is_no_table_is_no_checkpoint(tmp_path) -> None:
    (tmp_path / "model.ckpt").write_bytes(block([(b"", b"")]))
    assert not is_slim(tmp_path / "model.ckpt")
