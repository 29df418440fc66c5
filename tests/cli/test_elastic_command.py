"""`mobilenets elastic` and `mobilenets slice`, as they are typed."""

import json
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mobilenets.arch import ArchSpec, BottleneckRow, ClassifierHead, ConvRow, Norm
from mobilenets.bundle import read_bundle
from mobilenets.cli.main import main
from mobilenets.files import write_json

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", "2", "--batch-size", "16", "--set", "precision=fp32", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of widths that can be halved, as the JSON file that --arch may be."""
    spec = ArchSpec(
        name="mine",
        paper="none",
        rows=(ConvRow(out=16, stride=2), BottleneckRow(out=16, expanded=32), ConvRow(out=32, kernel=1)),
        head=ClassifierHead(classes=3),
        norm=Norm(eps=1e-5, momentum=0.1),
        resolution=16,
    )
    path = tmp_path_factory.mktemp("table") / "mine.json"
    write_json(path, spec.to_json())
    return path


@pytest.fixture(scope="session")
def elastic(table: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished elastic run."""
    out = tmp_path_factory.mktemp("elastic") / "run"
    words = ["elastic", str(colours), "--arch", str(table), "--widths", "0.5,0.75,1.0", "--resolutions", "12,16"]
    with pytest.raises(SystemExit) as stop:
        main([*words, *QUICK, "-o", str(out)])
    assert stop.value.code == 0
    return out


def test_a_run_leaves_bundles_grid_and_picture(elastic: Path) -> None:
    assert {"best", "last", "grid.csv", "grid.json", "front.png", "results.csv", "args.yaml"} <= {
        path.name for path in elastic.iterdir()
    }
    told = read_bundle(elastic / "best").history[-1]["elastic"]
    assert (told["narrowest"], told["inner"], told["widest"], told["resolutions"]) == (0.5, [0.75], 1.0, [12, 16])
    grid = json.loads((elastic / "grid.json").read_text())
    assert [(p["alpha"], p["resolution"]) for p in grid] == [(a, r) for a in (0.5, 0.75, 1.0) for r in (12, 16)]


def test_a_slice_is_what_every_other_verb_takes(elastic: Path, colours: Path, run: Run) -> None:
    words = ("--alpha", "0.6", "--resolution", "12", "--data", colours, "--device", "cpu")
    code, out, _ = run("slice", elastic / "best", *words, "-o", "narrow")
    assert code == 0
    assert out.splitlines()[-1] == f"next: mobilenets val narrow {colours}"
    bundle = read_bundle(Path("narrow"))
    assert bundle.spec.name == "mine_0.6_12"
    assert [step["step"] for step in bundle.history] == ["train", "slice"]
    assert json.loads(run("val", "narrow", colours, "--json")[1])["n"] > 0
    assert run("train", "narrow", colours, *QUICK, "-o", "on")[0] == 0
    facts = json.loads(run("slice", elastic / "best", *words, "--json")[1])
    assert facts["bundle"] == "runs/slice/mine_0.6_12"
    assert facts["digest"] == bundle.digest
    assert facts["mult_adds"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--alpha", "0.6"], "--data is not given; training images: the activations"),
        (["--alpha", "0.25", "--data", "DATA"], "0.5 to 1, for which it was trained"),
        (["--alpha", "0.5", "--resolution", "20", "--data", "DATA"], "12 to 16 pixels"),
        (["--alpha", "0.5", "--data", "digits"], "classes that the model lacks"),
        (["--alpha", "0.5", "--data", "DATA", "-o", "."], "holds something already"),
        (["--data", "DATA"], "--alpha"),
    ],
)
def test_a_slice_that_cannot_be_is_told_and_leaves_nothing(
    words: list[str], told: str, elastic: Path, colours: Path, run: Run
) -> None:
    Path("here").touch()
    code, _, err = run("slice", elastic / "best", *[str(colours) if w == "DATA" else w for w in words])
    assert code == 2
    assert told in err.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["here"]


def test_an_elastic_network_with_a_teacher_is_sliced_like_any_other(
    table: Path, trained: Path, colours: Path, run: Run
) -> None:
    taught = ("--teacher", trained / "best", "--temperature", "3", "--teacher-weight", "0.5")
    code, _, err = run("elastic", colours, "--arch", table, "--widths", "0.5,1.0", *taught, *QUICK, "-o", "wide")
    assert code == 0, err
    told = read_bundle(Path("wide/best")).history[-1]["teacher"]
    assert (told["digest"], told["temperature"], told["weight"]) == (read_bundle(trained / "best").digest, 3.0, 0.5)
    words = ("--alpha", "0.5", "--data", colours, "--device", "cpu")
    assert run("slice", "wide/best", *words, "-o", "narrow")[0] == 0


def test_a_bundle_of_one_width_is_not_sliced(trained: Path, colours: Path, run: Run) -> None:
    code, _, err = run("slice", trained / "best", "--alpha", "0.5", "--data", colours)
    assert code == 2
    assert "is not elastic: its history is train" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--widths", "0.5"], "a range like 0.25..1.0"),
        (["--widths", "0.5..0.75"], "the policy's widest is 0.75"),
        (["--widths", "0.01..1"], "from 0.1 to 2.0"),
        (["--resolutions", "a"], "write pixels with commas"),
        (["--policy", "smallest=1.2"], "above 0 and at most 1"),
        (["--policy", "share=1"], "share"),
        (["--epochs", "1", "--time", "1m"], "give one"),
        (["--lr", "1", "--set", "lr=2"], "repeats an option"),
        (["--resume"], "there is no run"),
        (["-o", "a", "--name", "b"], "give one"),
        (["--temperature", "2"], "are about a --teacher"),
        (["--teacher", "nobody"], "the teacher nobody is no bundle"),
        (["--teacher", "TRAINED", "--match", "2"], "each width has maps of another number of channels"),
    ],
)
def test_bad_use_is_told_and_leaves_no_run_behind(
    words: list[str], told: str, table: Path, trained: Path, colours: Path, run: Run
) -> None:
    given = [str(trained / "best") if word == "TRAINED" else word for word in words]
    code, _, err = run("elastic", colours, "--arch", table, *given)
    assert code == 2
    assert told in err.splitlines()[-1]
    assert not list(Path("runs/elastic").glob("*"))


def test_a_stopped_run_goes_on_by_its_last_line(
    table: Path, colours: Path, run: Run, ctrl_c_at: Callable[..., AbstractContextManager[None]]
) -> None:
    words = ("elastic", colours, "--arch", table, "--widths", "0.5..1.0", "--policy", "largest=0.75", *QUICK)
    whole = json.loads(run(*words, "-o", "whole", "--json")[1])
    with ctrl_c_at(4):
        code, out, _ = run(*words, "--name", "rose")
    assert code == 130
    _, _, again = out.splitlines()[-1].partition("To go on: mobilenets ")
    code, out, err = run(*shlex.split(again))
    assert code == 0
    assert "going on from step 5" in err
    assert read_bundle(Path("runs/elastic/rose/last")).digest == read_bundle(Path("whole/last")).digest
    assert json.loads(Path("runs/elastic/rose/grid.json").read_text()) == whole["grid"]
    assert out.splitlines()[-1].startswith("next: mobilenets slice runs/elastic/rose/best --alpha 0.5 --data")
