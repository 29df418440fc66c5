from __future__ import annotations

import csv
import json
from pathlib import Path

from click.testing import CliRunner

from mobilenets.cli.bench import command
from mobilenets.errors import FileFormatError
from mobilenets.records import Report, from_json


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
