import json

import msgspec
import pytest

from mobilenets.arch import CATALOG, ArchSpec, BottleneckRow, compose, cost, find, load_spec, with_output_stride
from mobilenets.errors import FileFormatError, SpecError, UnknownNameError


@pytest.mark.parametrize("base", sorted(CATALOG))
def test_a_spec_survives_json_and_keeps_its_digest(base: str) -> None:
    spec = compose(base, alpha=0.5, resolution=96, classes=7)
    again = ArchSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.digest == spec.digest


def test_the_digest_ignores_the_name_and_sees_everything_else() -> None:
    spec = find("mobilenet_v2")
    assert msgspec.structs.replace(spec, name="other").digest == spec.digest
    assert msgspec.structs.replace(spec, padding="same").digest != spec.digest
    assert msgspec.structs.replace(spec, resolution=225).digest != spec.digest


OLD_DIGEST = "fbd3a1d486158ee9"


def test_fields_that_came_later_leave_the_digest_of_older_networks_alone() -> None:
    # of a bundle written before rows could dilate or do without their shortcut
    assert find("mobilenet_v2").digest == OLD_DIGEST
    spec = with_output_stride(find("mobilenet_v2"), 8)
    assert spec.digest != OLD_DIGEST
    assert ArchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_spec_cannot_be_edited() -> None:
    with pytest.raises(AttributeError):
        find("mobilenet_v2").resolution = 10  # type: ignore[misc]


def test_a_spec_file_loads_by_its_path(tmp_path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(find("mobilenet_v3_small").to_json()))
    assert find(str(file)) == load_spec(file) == find("mobilenet_v3_small")


def test_a_spec_file_that_is_not_json_is_refused(tmp_path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("{")
    with pytest.raises(FileFormatError, match="spec JSON"):
        load_spec(file)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("mobilenet_v1_0.75_192", "mobilenet_v1_0.75_192"),
        ("mobilenet_v2_1.4_224", "mobilenet_v2_1.4_224"),
        ("google/mobilenet_v2_1.0_224", "mobilenet_v2"),
        ("mobilenetv2_035", "mobilenet_v2_0.35_224"),
        ("timm/mobilenetv3_large_075", "mobilenet_v3_large_0.75_224"),
        ("mobilenetv1_100", "mobilenet_v1"),
        ("mobilenet_v2_0.5_32_s8", "mobilenet_v2_0.5_32_s8"),
        ("mobilenetv2_110d", "mobilenetv2_110d"),
        ("timm/mobilenetv4_hybrid_medium", "mobilenet_v4_hybrid_medium"),
        ("mobilenetv4_hybrid_large_075", "mobilenetv4_hybrid_large_075"),
        ("tf_mobilenetv3_small_minimal_100", "tf_mobilenetv3_small_minimal_100"),
        ("torchvision/mobilenet_v3_large", "mobilenet_v3_large"),
        ("mobilenet_v3_small_torchvision_0.75_224", "mobilenet_v3_small_torchvision_0.75_224"),
        ("mobilenet_v1_full_convolutions_0.5_128", "mobilenet_v1_full_convolutions_0.5_128"),
    ],
)
def test_names_of_tf_slim_timm_and_torchvision_resolve(alias: str, name: str) -> None:
    assert find(alias).name == name
    assert find(name) == find(alias)


@pytest.mark.parametrize("name", ["mobilnet_v2", "resnet50", "", "mobilenet_v2_", "mobilenet_v2_0.5_x", "mobilenet_v9"])
def test_an_unknown_name_lists_known_ones(name: str) -> None:
    with pytest.raises(UnknownNameError, match="mobilenet_v"):
        find(name)


def test_a_stride_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(SpecError, match="total stride"):
        find("mobilenet_v2_1.0_32_s5")


def test_peak_activations_are_the_largest_input_and_output_together() -> None:
    # the first strided depthwise layer: 96 channels at 112 pixels in, at 56 pixels out
    assert cost(find("mobilenet_v2")).peak_activations == 96 * 112 * 112 + 96 * 56 * 56


def test_peak_activations_count_the_input_that_waits_for_the_residual() -> None:
    spec = find("mobilenet_v2")
    row = BottleneckRow(out=3, expanded=30)
    alone = msgspec.structs.replace(
        spec, rows=(row,), resolution=10, head=msgspec.structs.replace(spec.head, classes=2)
    )
    assert cost(alone).peak_activations == 100 * (30 + 30 + 3)
    assert (
        cost(msgspec.structs.replace(alone, rows=(msgspec.structs.replace(row, out=4),))).peak_activations == 100 * 60
    )
