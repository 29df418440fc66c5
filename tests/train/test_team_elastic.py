"""An elastic training by two processes, by gloo on this machine: what they learn, and who measures and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from mobilenets.bundle import read_bundle
from mobilenets.compress.elastic import measure_grid
from mobilenets.data import Dataset, open_dataset
from mobilenets.files import write_json
from mobilenets.records import Preprocess
from mobilenets.tasks import Targets
from mobilenets.train import Batch, EvalPixels, MakeObjective, Outcome, Recipe, Setting, loop, train
from mobilenets.train.elastic import Elastic, elastic
from mobilenets.train.elastic_policy import ElasticPolicy
from train.processes import started
from train.test_elastic import LABELS, SIDE, Pictures, table

pytestmark = pytest.mark.slow  # processes that import torch, as `test_team.py` has them for every day
POLICY = ElasticPolicy(narrowest=0.25, resolutions=(12, 16), largest=0.75)
RECIPE = Recipe(epochs=6.0, batch_size=24, lr=0.2, precision="fp32", crop_padding=0.1)
SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from mobilenets.compress import elastic
from mobilenets.data import open_dataset
from mobilenets.train import Recipe, loop
from mobilenets.train.team import join_team
from train import test_team_elastic as here
loop.EVAL_SHARE = 1e9  # a row after each epoch
team, out = join_team(), Path({out!r})
texts = team.share_texts("in" * team.rank)
outcome = here.run(out / "curve")
sliced, written = [], []
slice_bundle, write_json = elastic.slice_bundle, elastic.write_json
def slicing(bundle, *, alpha, resolution, **others):
    sliced.append([alpha, resolution])
    return slice_bundle(bundle, alpha=alpha, resolution=resolution, **others)
def writing(path, content):
    written.append(path.name)
    write_json(path, content)
elastic.slice_bundle, elastic.write_json = slicing, writing
made = elastic.train_elastic(
    here.table(), open_dataset(Path({data!r})), Recipe(epochs=2.0, batch_size=16, lr=0.5, precision="fp32"),
    elastic.policy_for((0.25, 0.5, 1.0), (12, 16)), out=out / "grid", device="cpu",
)
print(json.dumps(dict(
    rank=team.rank, curve=[row.train_loss for row in outcome.rows], digest=outcome.last.digest, sliced=sliced,
    written=written, grid=[[p.alpha, p.resolution, p.top1] for p in made.grid], texts=texts,
)), flush=True)
team.leave()
"""


def run(out: Path, *, objective: MakeObjective | None = None) -> Outcome:
    pictures = Pictures()
    # Lighter ones are of later classes, so that there is something to learn.
    pictures.uniform = pictures.uniform // 3 + 60 * pictures.targets.astype(np.uint8)[:, None, None, None]
    return train(
        table(),
        pictures,
        EvalPixels(pictures.uniform[:12], pictures.targets[:12]),
        RECIPE,
        labels=LABELS,
        preprocess=Preprocess(resolution=SIDE),
        out=out,
        device="cpu",
        objective=objective or elastic(POLICY),
    )


def in_halves(setting: Setting) -> Elastic:
    """What two processes do, one after the other: each half of a batch by itself, and the mean of the gradients."""
    objective = Elastic(setting, POLICY)
    learn = objective.learn

    def learn_halves(batch: Batch, *, step: int) -> Tensor:
        half = len(batch.images) // 2
        losses = []
        for part in (slice(0, half), slice(half, None)):
            targets = Targets(batch.targets.classes[part])
            losses.append(learn(Batch(batch.images[part], targets, batch.which[part], batch.done), step=step))
        for parameter in setting.network.parameters():
            assert parameter.grad is not None
            parameter.grad /= 2
        return torch.stack(losses).mean()

    objective.learn = learn_halves
    return objective


@pytest.fixture(scope="module")
def data(tiny_run: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make_folder(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The folder of two processes, and what each has told."""
    out = tmp_path_factory.mktemp("two")
    code = SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out), data=str(data))
    return out, [json.loads(told.splitlines()[-1]) for told in started(code, world=2, cwd=out)]


def curve(out: Path, monkeypatch: pytest.MonkeyPatch, objective: MakeObjective | None = None) -> list[float]:
    monkeypatch.setattr(loop, "EVAL_SHARE", 1e9)
    return [row.train_loss for row in run(out, objective=objective).rows]


def test_two_processes_learn_what_one_learns_from_both_halves_of_each_batch(
    two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (first, second) = two
    assert first["curve"] == second["curve"]
    assert first["digest"] == second["digest"]
    halves = curve(tmp_path, monkeypatch, in_halves)
    np.testing.assert_allclose(first["curve"], halves, rtol=2e-4)
    assert halves[-1] < 0.97 * halves[0]  # it learns, so the gradients matter


def test_with_norms_and_widths_of_their_own_images_the_curve_stays_near_that_of_whole_batches(
    two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, (first, _) = two
    whole = curve(tmp_path, monkeypatch)
    assert np.abs(np.array(first["curve"]) - whole).max() < 0.2  # parts of 12 images instead of 24
    assert first["curve"] != whole


def test_the_grid_is_shared_out_and_written_once_and_is_what_one_process_measures(two, data: Path) -> None:
    out, told = two
    points = [[alpha, side] for alpha in (0.25, 0.5, 1.0) for side in (12, 16)]
    assert [len(one["sliced"]) for one in told] == [3, 3]
    assert sorted(told[0]["sliced"] + told[1]["sliced"]) == points
    assert [one["written"] for one in told] == [["grid.json"], []]
    assert told[0]["grid"] == told[1]["grid"]
    dataset: Dataset = open_dataset(data)
    best = read_bundle(out / "grid" / "best")
    alone = measure_grid(best, dataset, device="cpu")
    assert [[p.alpha, p.resolution, p.top1] for p in alone] == told[0]["grid"]
    assert [[p["alpha"], p["resolution"]] for p in json.loads((out / "grid" / "grid.json").read_text())] == points
    assert len((out / "grid" / "grid.csv").read_text().splitlines()) == 1 + len(points)
    assert (out / "grid" / "front.png").is_file()


def test_torchrun_trains_all_widths_in_one_folder_and_speaks_once(data: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "wide.json", table().to_json())
    words = ["elastic", str(data), "--arch", "wide.json", "--widths", "0.5,1.0", "--resolutions", "12,16", "--probe"]
    words += ["--epochs", "2", "--batch-size", "16", "--name", "rose"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mobilenets"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MOBILENETS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", *torchrun, *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation top-1") == 1
    assert done.stderr.count("60 images of 3 classes") == 1
    assert done.stderr.count("probe: steps of") == 1
    assert [path.name for path in (tmp_path / "runs" / "elastic").iterdir()] == ["rose"]
    grid = json.loads((tmp_path / "runs" / "elastic" / "rose" / "grid.json").read_text())
    assert [(p["alpha"], p["resolution"]) for p in grid] == [(a, r) for a in (0.5, 1.0) for r in (12, 16)]
    lines = [line for line in done.stdout.splitlines() if " M  " in line]
    assert len(lines) == len(grid)


def test_texts_of_any_length_reach_every_process(two) -> None:
    assert [one["texts"] for one in two[1]] == [["", "in"]] * 2
