"""What goes wrong around a run: it is told, and nothing that was saved is lost."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from making import patches
from mobilenets.arch import ArchSpec
from mobilenets.bundle import read_bundle
from mobilenets.errors import DataError, FileFormatError, UsageError
from mobilenets.records import Preprocess
from mobilenets.train import Batch, CrossEntropy, EvalPixels, Outcome, Recipe, Setting, loop, train
from mobilenets.train.checkpoint import read_progress
from mobilenets.train.loop import CHECKPOINT_NAME

SIDE = 16


class Source:
    """Images of another size than the network's, so that each is read by itself."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.all = np.ascontiguousarray(patches(48, SIDE + 4))
        self.uniform = None
        self.targets = np.arange(48, dtype=np.int64) % 3
        self._left = fails_after

    def pixels(self, index: int) -> np.ndarray:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.EIO, "the cache is on a disk that is gone")
        return self.all[index]


class FailingAt:
    """Cross-entropy that raises at one step."""

    def __init__(self, setting: Setting, *, step: int, fail: Callable[[], object]) -> None:
        self._plain, self._at, self._fail = CrossEntropy(setting), step, fail
        self.modules, self.identity, self.told = {}, None, {}
        self.answering, self.eligible = self._plain.answering, self._plain.eligible

    def learn(self, batch: Batch, *, step: int) -> torch.Tensor:
        if step == self._at:
            self._fail()
        return self._plain.learn(batch, step=step)


@pytest.fixture
def spec(tiny_run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ArchSpec:
    """A checkpoint after each step, a validation after each epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "EVAL_SHARE", 1e9)
    made: ArchSpec = tiny_run.tiny_spec()
    return made


def run(out: Path, spec: ArchSpec, **changes) -> Outcome:
    return train(
        spec,
        changes.pop("source", None) or Source(),
        EvalPixels(patches(12, SIDE), np.arange(12) % 3),
        Recipe(epochs=3.0, batch_size=16, lr=0.5, precision="fp32"),
        labels=("a", "b", "c"),
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        **{"data_digest": "patches", **changes},
    )


def goes_on_bit_equal(out: Path, spec: ArchSpec, whole: Path) -> None:
    assert not list(out.rglob(".*"))  # nothing half-written is left
    resumed = run(out, spec, resume="must")
    assert resumed.last.digest == run(whole, spec).last.digest


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("good", [0, 3])
def test_a_disk_that_takes_no_more_is_told_and_the_last_checkpoint_is_whole(
    number: int, good: int, spec: ArchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > good:
            raise OSError(number, os.strerror(number))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match=f"cannot write .*{os.strerror(number)}.*nothing that was there is lost"):
            run(tmp_path / "run", spec)
    if good:
        assert read_progress(tmp_path / "run" / CHECKPOINT_NAME).step == good - 1
        goes_on_bit_equal(tmp_path / "run", spec, tmp_path / "whole")
    else:
        assert not (tmp_path / "run" / CHECKPOINT_NAME).exists()


def test_a_bundle_that_finds_no_room_is_told_and_leaves_the_older_one(
    spec: ArchSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = run(tmp_path / "run", spec).best
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UsageError, match="No space left"):
            best.write(tmp_path / "run" / "best")
    assert read_bundle(tmp_path / "run" / "best").digest == best.digest
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_folder_that_cannot_be_made_is_told_before_the_first_step(spec: ArchSpec, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UsageError, match="cannot write"):
        run(tmp_path / "file" / "run", spec)


def too_much() -> torch.Tensor:
    return torch.empty(2**55)


def no_memory() -> None:
    raise MemoryError


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fail", [too_much, no_memory, on_a_gpu])
def test_memory_that_runs_out_is_told_with_the_batch_size_and_the_run_can_go_on(
    fail: Callable[[], object], spec: ArchSpec, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"not enough memory for batches of 16 images.*--batch-size 8"):
        run(tmp_path / "run", spec, objective=lambda s: FailingAt(s, step=4, fail=fail))
    assert read_progress(tmp_path / "run" / CHECKPOINT_NAME).step == 4
    goes_on_bit_equal(tmp_path / "run", spec, tmp_path / "whole")


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory(spec: ArchSpec, tmp_path: Path) -> None:
    def wrong() -> None:
        torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError, match="size") as caught:
        run(tmp_path, spec, objective=lambda s: FailingAt(s, step=1, fail=wrong))
    assert not isinstance(caught.value, UsageError)


def test_a_loader_that_dies_is_told_and_the_run_goes_on_when_the_images_are_back(
    spec: ArchSpec, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"drawing batch \d of epoch \d failed: OSError: .*disk that is gone"):
        run(tmp_path / "run", spec, source=Source(fails_after=70))
    assert read_progress(tmp_path / "run" / CHECKPOINT_NAME).step >= 2
    goes_on_bit_equal(tmp_path / "run", spec, tmp_path / "whole")


def test_images_that_changed_between_two_runs_are_named(spec: ArchSpec, tmp_path: Path) -> None:
    run(tmp_path, spec)
    with pytest.raises(UsageError, match="not the same as then: the images;"):
        run(tmp_path, spec, resume="must", data_digest="other patches")


@pytest.mark.parametrize("kept", [0, 20, 5000])
def test_a_checkpoint_that_was_cut_short_is_told(kept: int, spec: ArchSpec, tmp_path: Path) -> None:
    run(tmp_path, spec)
    path = tmp_path / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileFormatError, match="remove it and train anew"):
        run(tmp_path, spec, resume="must")
