"""Energy is read where Linux tells it; here from a folder that looks like /sys/class/powercap."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mobilenets.bench import Meter, find_meter, measure, report_of, serve, to_csv, to_text


def zone(root: Path, folder: str, name: str, *, microjoules: int, span: int = 1_000_000) -> Path:
    """A zone as the kernel shows it."""
    place = root / folder
    place.mkdir(parents=True)
    for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", span)):
        (place / file).write_text(f"{content}\n")
    return place / "energy_uj"


def meter_of(root: Path) -> Meter:
    found = find_meter(root)
    assert isinstance(found, Meter), found
    return found


def test_packages_and_memory_count_and_parts_of_them_do_not(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl").mkdir()
    counters = [
        zone(tmp_path, "intel-rapl:0", "package-0", microjoules=100),
        zone(tmp_path, "intel-rapl:1", "package-1", microjoules=200),
        zone(tmp_path, "intel-rapl:0:1", "dram", microjoules=300),
    ]
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", microjoules=0),
        zone(tmp_path, "intel-rapl:2", "psys", microjoules=0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", microjoules=0),
    ]
    meter = meter_of(tmp_path)
    before = meter.read()
    for number, counter in enumerate(counters, start=1):
        counter.write_text(str(int(counter.read_text()) + 1000 * number))
    for counter in others:
        counter.write_text("999999")
    assert meter.joules(before, meter.read()) == pytest.approx(0.006)


def test_a_counter_that_begins_anew_has_gone_its_whole_range(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=999_000)
    meter = meter_of(tmp_path)
    before = meter.read()
    counter.write_text("500")
    assert meter.joules(before, meter.read()) == pytest.approx(0.0015)


def test_why_there_is_no_energy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "does not expose it" in str(find_meter(tmp_path / "absent"))
    zone(tmp_path, "intel-rapl:0", "psys", microjoules=1)
    assert "no package" in str(find_meter(tmp_path))
    counter = zone(tmp_path, "intel-rapl:1", "package-0", microjoules=1)
    real = Path.read_text

    def refused(path: Path, **options: str) -> str:  # tests may run as root, who may read everything
        if path == counter:
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    assert str(find_meter(tmp_path)) == f"{counter} can be read by root only"


def test_the_energy_of_the_counted_runs_alone_is_taken(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=0)
    meter = meter_of(tmp_path)

    def once() -> None:
        counter.write_text(str(int(counter.read_text()) + 250))

    latencies, joules = serve._time(once, runs=4, lead=3, meter=meter)
    assert len(latencies) == 4
    assert joules == pytest.approx(0.001)
    assert serve._time(lambda: None, runs=1, lead=0, meter="no")[1] is None
    counter.unlink()
    assert serve._time(lambda: None, runs=1, lead=0, meter=meter)[1] is None


def test_joules_are_per_image_and_a_machine_without_says_so(tiny: ModuleType, tmp_path: Path) -> None:
    latency = measure(tiny.make_artifact(tmp_path / "tiny"), threads=1, batch_size=2, seconds=0.05)
    told = msgspec.structs.replace(latency, joules=0.5, no_energy="")
    report = report_of([told])
    assert report.value(latency.path, "joules_per_image") == pytest.approx(0.25)
    assert f"joules per image, of the whole machine: {latency.path} 0.25" in to_text(report)
    assert "joules_per_image" in to_csv(report).splitlines()[0]
    silent = report_of([msgspec.structs.replace(latency, joules=None, no_energy="this machine does not expose it")])
    assert "energy: this machine does not expose it" in to_text(silent)
    with pytest.raises(KeyError):
        silent.value(latency.path, "joules_per_image")
