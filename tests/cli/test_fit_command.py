"""`fit` for another device, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]
NETWORKS = ("--families", "mobilenet_v2", "--alphas", "0.1", "--resolutions", "16")


def test_a_kit_goes_out_and_its_latencies_come_back(run: Run, colours: Path, tmp_path: Path) -> None:
    fit = ("fit", colours, "--latency-ms", "50", "--time", "12s", *NETWORKS)
    code, out, err = run(*fit, "--kit", tmp_path / "kit")
    assert code == 0, err
    assert "2 networks to be timed" in out
    assert "mobilenets bench --kit kit" in out
    code, out, err = run("bench", "--kit", tmp_path / "kit", "--threads", "1", "--seconds", "0.2")
    assert code == 0, err
    assert "2 networks" in out
    file = tmp_path / "kit" / "latencies.json"
    code, _, err = run(*fit, "--latencies", file, "--threads", "2", "-o", tmp_path / "out")
    assert code == 2
    assert "measured with 1" in err
    code, out, err = run(*fit, "--latencies", file, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["budget"]["threads"] == 1
    assert report["device"]["cpu"] == json.loads(file.read_text())["environment"]["cpu"]
    told = {(e["spec_name"], e["precision"]): e["latency"] for e in json.loads(file.read_text())["entries"]}
    for each in report["delivered"]:
        assert each["latency"]["median_ms"] == told[report["chosen"], each["precision"]]["median_ms"]


def test_what_does_not_go_with_a_kit_is_told(run: Run, colours: Path, tmp_path: Path) -> None:
    file = tmp_path / "latencies.json"
    file.write_text("{}")
    code, _, err = run("fit", colours, "--latency-ms", "5", "--latencies", file, "-o", tmp_path / "out")
    assert code == 2
    assert "the fields of DeviceLatencies" in err
    code, _, err = run("fit", colours, "--latency-ms", "5", "--latencies", file, "--kit", tmp_path / "kit")
    assert code == 2
    assert "give one" in err
    code, _, err = run("fit", colours, "--size-mb", "5", "--latencies", file)
    assert code == 2
    assert "give that, too" in err
    code, _, err = run("bench", "--kit", tmp_path, tmp_path)
    assert code == 2
    assert "one folder" in err
    code, _, err = run("bench", "--kit", tmp_path)
    assert code == 2
    assert "holds no folders of artifacts" in err
