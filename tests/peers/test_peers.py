"""Peers are timed like artifacts; here it is tested that they are the networks they are said to be."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from PIL import Image

from making import settled_bundle
from mobilenets.arch import CATALOG, compose, cost
from mobilenets.bench import Worker, measure_all
from mobilenets.cli.bench import command
from mobilenets.errors import UsageError
from mobilenets.export import write_ungated
from mobilenets.peers import Peer, peers_of
from mobilenets.peers.models import create
from mobilenets.records import Artifact
from mobilenets.runtime import read_artifact

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "v3"
    write_ungated(settled_bundle(compose("mobilenet_v3_small", resolution=32, classes=4)), folder)
    return folder


def named(name: str, v3: Path) -> Artifact:
    return msgspec.structs.replace(read_artifact(v3)[0], spec_name=name)


@pytest.mark.parametrize("base", sorted(CATALOG))
def test_every_catalogue_network_has_a_peer_with_as_many_parameters(base: str, v3: Path) -> None:
    spec = compose(base, classes=4)
    entries = peers_of(named(base, v3))
    libraries = {Peer.of_entry(entry.path).library for entry in entries}
    assert libraries == ({"timm", "torchvision"} if base in TORCHVISION else {"timm"})
    for peer in (Peer.of_entry(entry.path) for entry in entries):
        if peer.way == "eager":
            counted = sum(parameter.numel() for parameter in create(peer).parameters())
            assert counted == pytest.approx(cost(spec).parameters, rel=0.02), peer  # biases that norms make needless


TORCHVISION = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")


def test_networks_that_nobody_else_has_have_no_peers(v3: Path) -> None:
    for name in ("pruned", "mobilenet_v2_1.0_32_s4"):
        assert peers_of(named(name, v3)) == ()
    widths = {Peer.of_entry(e.path).library for e in peers_of(named("mobilenet_v2_0.6_224", v3))}
    assert widths == {"torchvision"}  # which takes any width; timm has those of the paper


@pytest.mark.parametrize(
    "way",
    [
        "eager",
        "onnxruntime",
        *(pytest.param(way, marks=pytest.mark.slow) for way in ("channels_last", "bf16", "compile")),
    ],
)
def test_every_way_of_running_a_peer_answers_alike(way: str, v3: Path) -> None:
    for entry in peers_of(read_artifact(v3)[0]):
        peer = Peer.of_entry(entry.path)
        if peer.way == way and peer.library == "timm":
            with Worker(entry, threads=1, batch_size=2) as worker:
                (first, _) = worker.answer()
                assert len(first) == 4
                assert min(worker.time(runs=2)) > 0
                assert worker.opened().facts["resolution"] == 32


def test_a_peer_reads_files_as_well(v3: Path, tmp_path: Path) -> None:
    Image.new("L", (50, 40), 90).save(tmp_path / "grey.png")
    entry = next(e for e in peers_of(read_artifact(v3)[0]) if "torchvision" in e.name and e.name.endswith("eager"))
    (latency,) = measure_all([entry], threads=1, seconds=0.1, images=[tmp_path / "grey.png"])
    assert latency.name == "torchvision mobilenet_v3_small eager"
    assert latency.median_ms > 0


@pytest.mark.slow  # five processes that import torch
def test_bench_puts_peers_beside_the_artifact(v3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenets.peers.models._can", lambda way: way in ("eager", "channels_last"))
    arguments = [str(v3), "--peers", "--seconds", "0.1", "--threads", "1", "--csv", str(tmp_path / "speed.csv")]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert f"timm mobilenetv3_small_100 eager / {v3} = " in done.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "speed.csv").read_text())))
    assert [row["size_mb"] == "" for row in rows] == [False, True, True, True, True]


def test_no_peers_at_all_is_told(v3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenets.peers.models.split_name", lambda _: None)
    assert isinstance(CliRunner().invoke(command, [str(v3), "--peers"]).exception, UsageError)
