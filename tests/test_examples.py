"""The examples run as their first lines say."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from making import bundle_of, patches

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *words: str | Path, folder: Path) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, words)]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_says_how_it_is_called_and_is_tested_here(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    assert f"python examples/{path.name} " in text.split('"""')[1]
    assert re.search(rf'run\(\s*"{path.name}"', Path(__file__).read_text())


def test_a_table_of_ones_own_is_counted_trained_and_answers_without_torch(tmp_path: Path) -> None:
    told = run("own_table.py", "--epochs", "2", "--out", tmp_path / "out", folder=tmp_path)
    assert [int(n) for n in re.findall(r"(\d+) parameters", told)] == [60070, 18962]
    (share,) = re.findall(r"([\d.]+) % of 500 test digits", told)
    assert float(share) > 60
    assert (tmp_path / "out" / "table.json").exists()


def test_the_nearest_image_to_an_image_is_itself(tmp_path: Path) -> None:
    bundle_of("mobilenet_v2").write(tmp_path / "bundle")
    for number, pixels in enumerate(patches(6, 40)):
        Image.fromarray(np.asarray(pixels)).save(tmp_path / f"{number}.png")
    told = run("similar_images.py", "bundle", "3.png", ".", "--top", "2", folder=tmp_path).splitlines()
    assert len(told) == 2
    assert re.fullmatch(r"1\.000  3\.png", told[0])
    assert float(told[1].split()[0]) < 1


@pytest.mark.slow
def test_a_fit_from_python_tells_what_was_chosen_and_what_is_hard(tmp_path: Path) -> None:
    told = run(
        "fit_in_python.py", "digits", "--latency-ms", "2", "--minutes", "1", "--out", tmp_path / "out", folder=tmp_path
    )
    assert "accuracy" in told
    assert len(re.findall(r"^  \d: [\d.]+ %$", told, re.MULTILINE)) == 3
