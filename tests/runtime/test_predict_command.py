from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mobilenets.cli.predict import command
from mobilenets.errors import FileFormatError, UnknownNameError, UsageError
from mobilenets.runtime import is_installed

Picture = Callable[..., Path]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], input=stdin)


def test_json_is_one_object_per_image(tiny_artifact: Path, picture: Picture) -> None:
    done = run(tiny_artifact, picture("a.png", "red"), picture("b.png", "lime"), "--json", "--top-k", 2)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["image"].endswith("a.png")
    assert first["error"] is None
    assert [score["label"] for score in first["top"]] == ["red", "green"]
    assert set(second["top"][0]) == {"label", "index", "probability"}
    assert (second["top"][0]["index"], done.exit_code, done.stderr) == (1, 0, "")


def test_the_table_is_aligned(tiny_artifact: Path, picture: Picture) -> None:
    done = run(tiny_artifact, picture("a.png", "red"), picture("longer.png", "lime"), "--top-k", 1)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert [line.split()[2] for line in lines[1:]] == ["red", "green"]
    starts = [line.index(word) for line, word in zip(lines, ("label", "red", "green"), strict=True)]
    assert len(set(starts)) == 1


def test_some_failures_are_counted_and_the_rest_succeed(tiny_artifact: Path, picture: Picture, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    done = run(tiny_artifact, broken, picture("a.png", "red"), "--json")
    assert done.exit_code == 0
    assert "1 of 2 images could not be read" in done.stderr
    assert json.loads(done.stdout.splitlines()[0])["error"]


def test_when_every_image_fails_the_exit_code_is_2(tiny_artifact: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    done = run(tiny_artifact, broken)
    assert done.exit_code == 2
    assert "error: " in done.stdout


def test_one_image_may_come_through_a_pipe(tiny_artifact: Path, picture: Picture) -> None:
    done = run(tiny_artifact, "-", "--json", stdin=picture("a.png", "blue").read_bytes())
    answer = json.loads(done.stdout)
    assert (answer["image"], answer["top"][0]["label"]) == ("-", "blue")


def test_a_list_of_paths_may_come_through_a_pipe(tiny_artifact: Path, picture: Picture) -> None:
    paths = f"{picture('a.png', 'blue')}\n{picture('b.png', 'red')}\n"
    done = run(tiny_artifact, "-", "--json", stdin=paths.encode())
    assert [json.loads(line)["top"][0]["label"] for line in done.stdout.splitlines()] == ["blue", "red"]


def test_errors_are_left_to_the_root_command(tiny_artifact: Path, picture: Picture, tmp_path: Path) -> None:
    assert isinstance(run(tiny_artifact, tmp_path / "absent.png").exception, UsageError)
    assert isinstance(run(tmp_path / "absent", picture("a.png", "red")).exception, FileFormatError)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_reader_that_has_seen_enough_is_no_error(
    flags: tuple[str, ...], tiny_artifact: Path, picture: Picture, tmp_path: Path
) -> None:
    path = picture("a.png", "red")
    (tmp_path / "many.txt").write_text(f"{path}\n" * 3000)
    code = "from mobilenets.cli.predict import command; command()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_artifact), str(tmp_path / "many.txt"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "auto"])
def test_the_engine_can_be_chosen_and_changes_no_answer(engine: str, tiny_artifact: Path, picture: Picture) -> None:
    done = run(tiny_artifact, picture("a.png", "red"), "--engine", engine, "--threads", 1, "--json")
    assert json.loads(done.stdout)["top"][0]["label"] == "red"
    if engine == "auto":
        assert "onnxruntime" in done.stderr
        assert "openvino" in done.stderr


def test_an_unknown_engine_is_named_with_those_there_are(tiny_artifact: Path, picture: Picture) -> None:
    done = run(tiny_artifact, picture("a.png", "red"), "--engine", "openvin")
    assert isinstance(done.exception, UnknownNameError)
    assert "openvino" in done.exception.near
