from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from mobilenets.cli.bench import command
from mobilenets.cli.engines import ENGINE_HELP
from mobilenets.errors import FileFormatError, UnknownNameError, UsageError
from mobilenets.records import Report, from_json
from mobilenets.runtime import ENGINES, is_installed


def test_json_is_a_whole_report_and_csv_a_file(tiny_artifact: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "speed.csv"
    arguments = [str(tiny_artifact), "--threads", "1", "--seconds", "0.2", "--json", "--csv", str(target)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    report = from_json(json.loads(done.stdout), Report, what="output")
    assert report.value(str(tiny_artifact), "latency_ms") > 0
    with target.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["model"], row["threads"]) == (str(tiny_artifact), "1")


def test_the_table_compares_two_artifacts(tiny_artifact: Path) -> None:
    arguments = [str(tiny_artifact), str(tiny_artifact), "--seconds", "0.1"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert f"{tiny_artifact} (2) / {tiny_artifact} = " in done.stdout


def test_a_missing_artifact_is_left_to_the_root_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, [str(tmp_path / "absent")])
    assert isinstance(done.exception, FileFormatError)


def test_engines_are_named_behind_an_at_sign_or_all_of_them_by_one_option(tiny_artifact: Path) -> None:
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed")
    wanted = [f"{tiny_artifact}@onnxruntime", f"{tiny_artifact}@openvino"]
    for arguments in (wanted, [str(tiny_artifact), "--engine", "all"]):
        done = CliRunner().invoke(command, [*arguments, "--seconds", "0.1", "--json"], catch_exceptions=False)
        report = from_json(json.loads(done.stdout), Report, what="output")
        assert list(report.protocol["engines"]) == wanted


def test_a_folder_may_have_an_at_sign_in_its_name(tiny_artifact: Path) -> None:
    folder = tiny_artifact.rename(tiny_artifact.with_name("me@home"))
    done = CliRunner().invoke(command, [str(folder), "--seconds", "0.1"], catch_exceptions=False)
    assert done.stdout.splitlines()[1].startswith(f"{folder} ")


def test_an_engine_that_does_not_exist_is_named_with_those_that_do(tiny_artifact: Path) -> None:
    done = CliRunner().invoke(command, [f"{tiny_artifact}@openvin"])
    assert isinstance(done.exception, UnknownNameError)
    assert "openvino" in str(done.exception)


def test_the_help_of_engine_lists_the_table() -> None:
    assert all(name in ENGINE_HELP for name in ENGINES)


def test_from_files_to_labels_is_an_option_and_no_files_are_bad_use(tiny_artifact: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48)).save(photos / "a.png")
    arguments = [str(tiny_artifact), "--seconds", "0.1", "--end-to-end", str(photos)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "from image files to labels" in done.stdout
    (photos / "a.png").unlink()
    assert isinstance(CliRunner().invoke(command, arguments).exception, UsageError)
