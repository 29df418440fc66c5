from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mobilenets.errors import FileFormatError
from mobilenets.weights.torch_files import read_checkpoint


def state(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        "conv.weight": torch.linspace(-2, 2, 24).reshape(2, 3, 2, 2).to(dtype),
        "bn.running_mean": torch.tensor([0.5, 0.25], dtype=dtype),
        "bn.num_batches_tracked": torch.tensor(9),
    }


def check(file: Path, *, tolerance: float = 0.0) -> None:
    read = read_checkpoint(file)
    assert set(read.tensors) == {"conv.weight", "bn.running_mean"}
    assert {array.dtype for array in read.tensors.values()} == {np.dtype(np.float32)}
    wanted = state()["conv.weight"].numpy()
    np.testing.assert_allclose(read.tensors["conv.weight"], wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_layouts_of_torch_save_are_read(suffix: str, zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save(OrderedDict(state()), file, _use_new_zipfile_serialization=zipped)
    check(file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(state(dtype), tmp_path / "weights.pth")
    save_file(state(dtype), str(tmp_path / "weights.safetensors"))
    check(tmp_path / "weights.pth", tolerance=0.01)
    check(tmp_path / "weights.safetensors", tolerance=0.01)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_and_prefixes_are_taken_off(key: str, prefix: str, tmp_path: Path) -> None:
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state().items()}
    torch.save({"epoch": 3, key: wrapped, "optimizer": {"state": {}, "lr": 0.1}}, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth")
    assert read_checkpoint(tmp_path / "weights.pth").told["within"] == key


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
def test_averaged_weights_come_before_the_last_ones(averaged: str, tmp_path: Path) -> None:
    last = {name: tensor + 1 for name, tensor in state().items()}
    kept = {"n_averaged": torch.tensor(4), **{f"module.{name}": tensor for name, tensor in state().items()}}
    torch.save({"state_dict": last, "model": last, averaged: kept}, tmp_path / "weights.pth")
    check(tmp_path / "weights.pth")


def test_a_snapshot_folder_prefers_the_safe_file_and_brings_its_configs(tmp_path: Path) -> None:
    save_file(state(), str(tmp_path / "model.safetensors"))
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read")
    (tmp_path / "config.json").write_text('{"architecture": "x"}', encoding="utf-8")
    read = read_checkpoint(tmp_path)
    assert read.config == {"architecture": "x"}
    assert read.preprocessor is None
    check(tmp_path)
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"config\.json holds no object"):
        read_checkpoint(tmp_path)


def test_a_file_of_another_name_does_not_take_the_config_beside_it_for_its_own(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text('{"architecture": "x"}', encoding="utf-8")
    assert read_checkpoint(tmp_path / "mine.pth").config is None


class Touch:
    """Unpickled carelessly, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.touch, (self.target,))


class System:
    """Unpickled carelessly, this runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        import os

        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("kind", [Touch, System])
@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused_before_it_runs(kind: type, layout: str, tmp_path: Path) -> None:
    target, file = tmp_path / "harm", tmp_path / "weights.pth"
    content = {"state_dict": state(), "note": kind(target)}
    if layout == "pickle":
        file.write_bytes(pickle.dumps(content["note"], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(FileFormatError) as caught:
        read_checkpoint(file)
    assert not target.exists()
    assert "holds more than tensors" in str(caught.value)
    assert "save model.state_dict() alone" in str(caught.value)


def test_a_whole_pickled_model_is_refused_and_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "model.pth")
    with pytest.raises(FileFormatError, match=r"Python object \(torch\.nn\.modules"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_torchscript_program_is_refused_and_named(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; files of it are around all the same
        torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)).save(str(tmp_path / "model.pt"))
    with pytest.raises(FileFormatError, match="TorchScript"):
        read_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("left", [0, 1, 100, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_refused(suffix: str, left: float, tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(state(), whole)
    else:
        save_file(state(), str(whole))
    content = whole.read_bytes()
    cut.write_bytes(content[: left if isinstance(left, int) else int(len(content) * left)])
    with pytest.raises(FileFormatError, match="cut"):
        read_checkpoint(cut)


@pytest.mark.parametrize("content", [b"PK\x03\x04 not a zip", b"<html>404</html>", b"\x80\x02}q\x00.", bytes(4096)])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(FileFormatError):
        read_checkpoint(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(3)],
        torch.zeros(3),
        {},
        {"epoch": 3, "lr": 0.1},
        {"weight": torch.zeros(3).to_sparse()},
        {"weight": torch.zeros(3, dtype=torch.complex64)},
        {"weight": torch.zeros(3, device="meta")},
    ],
    ids=["list", "tensor", "empty", "numbers", "sparse", "complex", "meta"],
)
def test_content_that_is_no_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(FileFormatError, match="tensors"):
        read_checkpoint(tmp_path / "weights.pth")


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        torch.save({"weight": quantised}, tmp_path / "weights.pth")
        with pytest.raises(FileFormatError, match=r"qint8|more than tensors"):
            read_checkpoint(tmp_path / "weights.pth")


def test_a_folder_without_weights_says_which_names_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"model\.safetensors or pytorch_model\.bin"):
        read_checkpoint(tmp_path)
