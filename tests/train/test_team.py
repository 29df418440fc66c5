"""Two processes that train together, by gloo on this machine, against one alone."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mobilenets.bundle import read_bundle
from mobilenets.train.team import ALONE, Team, join_team
from train.processes import started

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from making import settled_bundle
from mobilenets.train import loop
from mobilenets.train.team import join_team
from train import test_loop
loop.EVAL_SHARE = 1e9  # a row after each epoch
team, out = join_team(), Path({out!r})
curves = {{}}
for name, changes in {runs!r}.items():
    outcome = test_loop.run(out / name, start=settled_bundle(test_loop.spec()), **changes)
    curves[name] = [[r.train_loss, r.eval_loss, r.eval_top1] for r in outcome.rows]
    print(json.dumps([team.rank, name, outcome.last.digest, len(outcome.rows)]), flush=True)
if team.leads:
    (out / "curves.json").write_text(json.dumps(curves))
team.leave()
"""
COMMON = {"epochs": 6.0, "rotate": 5.0, "label_smoothing": 0.1}
RUNS = {
    # Frozen rows have norms in evaluation mode: nothing depends on which images stand in a batch together.
    "frozen": {**COMMON, "freeze": "backbone", "lr": 0.3, "dropout": 0.0},
    "whole": {**COMMON, "optimizer": "sgd", "lr": 0.1, "dropout": 0.0},
    "settled": {**COMMON, "recalibrate": 2, "class_weights": "inverse", "epochs": 2.0},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[str]]]:
    made = {}
    for world in (1, 2):
        out = tmp_path_factory.mktemp(f"world{world}")
        code = SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out), runs=RUNS)
        made[world] = out, started(code, world=world, cwd=out)
    return made


def curve(runs: dict[int, tuple[Path, list[str]]], world: int, name: str) -> np.ndarray:
    return np.array(json.loads((runs[world][0] / "curves.json").read_text())[name])


def test_two_processes_have_the_loss_curve_of_one_at_the_same_global_batch(runs) -> None:
    one, two = curve(runs, 1, "frozen"), curve(runs, 2, "frozen")
    np.testing.assert_allclose(two[:, :2], one[:, :2], rtol=2e-4)
    assert one[-1, 0] < 0.97 * one[0, 0]  # it learns, so the gradients matter


def test_with_norms_of_their_own_images_the_curves_stay_near_each_other(runs) -> None:
    one, two = curve(runs, 1, "whole"), curve(runs, 2, "whole")
    assert np.abs(two[:, 0] - one[:, 0]).max() < 0.1  # parts of 16 images instead of 32
    assert not np.array_equal(one[:, 0], two[:, 0])


@pytest.mark.parametrize("name", RUNS)
def test_all_processes_end_with_the_same_bits_and_the_first_one_has_written_them(runs, name: str) -> None:
    out, told = runs[2]
    ends = [json.loads(line) for lines in told for line in lines.splitlines()]
    digests = {digest for _, run, digest, _ in ends if run == name}
    assert digests == {read_bundle(out / name / "last").digest}
    assert {rank for rank, run, *_ in ends if run == name} == {0, 1}


LABELLED = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import msgspec, torch
torch.set_num_threads(1)
from making import settled_bundle
from mobilenets.train import loop
from mobilenets.train.run import train_run
from mobilenets.train.team import join_team
from train import test_loop, test_multilabel as labelled
loop.EVAL_SHARE = 1e9
team, out = join_team(), Path({out!r})
recipe = msgspec.structs.replace(labelled.QUICK, class_weights="inverse", freeze="backbone", dropout=0.0, epochs=3.0)
start = settled_bundle(test_loop.spec())
outcome = train_run(start, labelled.things_of(), recipe, out=out / "run", device="cpu")
curve = [[row.train_loss, row.eval_loss, row.eval_map] for row in outcome.rows]
print(json.dumps([outcome.last.digest, curve]), flush=True)
team.leave()
"""


@pytest.mark.slow  # three processes that import torch
def test_two_processes_learn_independent_labels_as_one_does(tmp_path: Path) -> None:
    curves = {}
    for world in (1, 2):
        code = LABELLED.format(tests=str(Path(__file__).parents[1]), out=str(tmp_path / f"{world}"))
        told = [json.loads(said) for said in started(code, world=world, cwd=tmp_path)]
        assert {digest for digest, _ in told} == {read_bundle(tmp_path / f"{world}" / "run" / "last").digest}
        assert all(rows == told[0][1] for _, rows in told)
        curves[world] = np.array(told[0][1], float)
    # Weights of rare labels are counted over all images, and the average precision over all validation images.
    assert np.isfinite(curves[1]).all()
    np.testing.assert_allclose(curves[2], curves[1], rtol=1e-3)
    assert curves[1][-1, 0] < 0.99 * curves[1][0, 0]


PARTING = """
import atexit
import torch, torch.distributed as dist
atexit.register(lambda: print("still there" if dist.is_initialized() else "parted", flush=True))
from mobilenets.train.team import join_team
assert join_team().mean(torch.ones(2)).tolist() == [1.0, 1.0]
"""


def test_a_process_that_ends_without_leaving_its_team_parts_from_it_before_python_ends(tmp_path: Path) -> None:
    assert started(PARTING, world=2, cwd=tmp_path) == ["parted\n"] * 2


@pytest.mark.slow  # three processes that import torch
def test_torchrun_trains_in_one_folder_and_speaks_once(tiny_run: ModuleType, tmp_path: Path) -> None:
    data = tiny_run.make_folder(tmp_path / "colours")
    tiny_run.write_spec(tmp_path / "tiny.json")
    train = ["mobilenets", "train", "tiny.json", str(data), "--epochs", "3", "--batch-size", "16", "--name", "rose"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MOBILENETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *train], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation top-1") == 1
    assert done.stderr.count("60 images of 3 classes") == 1
    assert [path.name for path in (tmp_path / "runs" / "train").iterdir()] == ["rose"]
    with (tmp_path / "runs" / "train" / "rose" / "results.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)][-1] == "9"


def test_without_torchrun_a_process_is_a_team_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    team = join_team()
    assert (team.rank, team.world, team.leads) == (0, 1, True)
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(team.mean(values), values)
    assert team.agree(2.5, stop=True) == (2.5, True)
    assert team.share_text("here") == "here"
    assert team.share_texts("here") == ("here",)
    assert team == ALONE


def test_rows_are_shared_out_without_gaps() -> None:
    rows = np.concatenate([Team(rank=rank, world=3).own_rows(10) for rank in range(3)])
    assert sorted(rows.tolist()) == list(range(10))
