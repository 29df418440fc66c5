from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_diagnose_tells_and_writes_a_page(trained: Path, colours: Path, tmp_path: Path, run: Run) -> None:
    code, out, err = run("diagnose", trained / "best", colours, "-o", tmp_path / "why")
    assert code == 0, err
    assert "tiny on colours, val: 6 images" in out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'why' / 'diagnosis.html'}"
    assert (tmp_path / "why" / "diagnosis.html").read_text().startswith("<!doctype html>")
    content = json.loads((tmp_path / "why" / "diagnosis.json").read_text())
    assert len(content["measured"]["curve"]) == len((trained / "results.csv").read_text().splitlines()) - 1


def test_diagnose_gives_json(trained: Path, colours: Path, run: Run) -> None:
    code, out, _ = run("diagnose", trained / "last", colours, "--split", "test", "--json")
    assert code == 0
    content = json.loads(out)
    assert content["measured"]["accuracy"]["split"] == "test"
    assert {"measured", "findings"} == set(content)


def test_a_folder_that_is_no_bundle_is_refused(colours: Path, tmp_path: Path, run: Run) -> None:
    code, _, err = run("diagnose", tmp_path, colours)
    assert code == 2
    assert "bundle" in err
