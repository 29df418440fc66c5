from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mobilenets.arch import find, verify, with_width
from mobilenets.arch.figures import draw, points
from mobilenets.errors import UsageError

Run = Callable[..., tuple[int, str, str]]


def test_verify_counts_page_by_page_and_ends_well(run: Run) -> None:
    code, out, _ = run("verify")
    lines = out.splitlines()
    counts = Counter(check.verdict for check in verify())
    assert code == 0
    assert any(line.startswith("V1 Table 6: 8 numbers, 8 match") for line in lines)
    assert any(line.startswith("V2 Table 2: 11 rows, 11 match") for line in lines)
    assert lines[-1] == (
        f"{counts.total()} numbers: {counts['equal']} equal, {counts['prints as']} prints as,"
        f" {counts['erratum']} erratum, 0 mismatch"
    )


def test_every_erratum_is_told_with_its_reason(run: Run) -> None:
    out = run("verify")[1]
    errata = [check for check in verify() if check.verdict == "erratum"]
    assert sum(line.startswith("  erratum ") for line in out.splitlines()) == len(errata)
    assert all(check.about.erratum and check.about.erratum in out for check in errata)
    assert "stride 2 (ours: 1)" in out
    assert "SE yes (ours: no)" in out


def test_all_shows_every_number(run: Run) -> None:
    lines = run("verify", "--all")[1].splitlines()
    assert sum(line.startswith(("  equal ", "  prints as ", "  erratum ")) for line in lines) == len(verify())


def test_json_has_every_check_with_its_verdict(run: Run) -> None:
    content = json.loads(run("verify", "--json")[1])
    assert len(content["checks"]) == len(verify()) == sum(content["counts"].values())
    first = next(check for check in content["checks"] if check["table"] == "V1 Table 6")
    assert first["metric"] == "mult_adds"
    assert first["about"]["printed"] == "569"
    assert first["computed"] == 568740352
    assert (first["verdict"], first["source"]) == ("prints as", "arXiv:1704.04861 Table 6")


def test_a_mismatch_ends_with_1_and_says_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mobilenets.arch.published_networks import resolve

    wrong = with_width(find("mobilenet_v2"), 1.1)
    monkeypatch.setattr(
        "mobilenets.arch.recount.resolve", lambda name: wrong if name == "mobilenet_v2" else resolve(name)
    )
    code, out, err = run("verify")
    assert code == 1
    assert "do not agree" in err
    assert any(line.startswith("  mismatch   mobilenet_v2 ") for line in out.splitlines())
    assert "0 mismatch" not in out


def test_plots_are_pictures(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("verify", "--plot", tmp_path / "figures")
    assert code == 0
    files = sorted((tmp_path / "figures").iterdir())
    assert [file.name for file in files] == ["front.png", "v1_figure_4.png", "v1_figure_5.png"]
    for file in files:
        assert f"drawn: {file}" in out
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) >= 500
            colours = picture.convert("RGB").getcolors(maxcolors=picture.width * picture.height)
            assert colours is not None
            assert len(colours) > 50  # something is drawn


def test_one_file_holds_all_three(run: Run, tmp_path: Path) -> None:
    assert run("verify", "--json", "--plot", tmp_path / "all.png")[0] == 0
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.width > 3 * picture.height


def test_without_a_place_pictures_go_to_runs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("verify", "--plot")
    assert (tmp_path / "runs" / "verify" / "front.png").is_file()


def test_another_type_of_picture_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("verify", "--plot", tmp_path / "front.jpg")
    assert code == 2
    assert "front.png" in err
    with pytest.raises(UsageError, match="v1_figure_4"):
        draw("figure 6")


def test_without_matplotlib_the_extra_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run("verify", "--plot", tmp_path)
    assert code == 2
    assert "mobilenets[train]" in err


def test_figures_show_all_16_networks_of_v1_and_every_family() -> None:
    known = points()
    v1 = [point for point in known if point.family == "mobilenet_v1"]
    assert {(p.alpha, p.resolution) for p in v1} == {
        (alpha, side) for alpha in (0.25, 0.5, 0.75, 1.0) for side in (128, 160, 192, 224)
    }
    assert len({point.family for point in known}) == 7
    large = next(point for point in known if point.model == "mobilenet_v1")
    assert (large.mult_adds, large.parameters, large.top1) == (568740352, 4231976, 70.9)
