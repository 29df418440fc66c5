"""The five extension tables fit together: a new row in one is missed in none of the others."""

import importlib
import tomllib
import typing
from pathlib import Path

from mobilenets.arch import CATALOG, rows
from mobilenets.cli.main import EXTRAS
from mobilenets.export import FORMATS, Limits
from mobilenets.export.gate import JUDGES
from mobilenets.export.onnx_graph import EMITTERS
from mobilenets.export.outside import CONVERTERS
from mobilenets.nets import BUILDERS
from mobilenets.records import Format, Precision, Task
from mobilenets.runtime import DEFAULT_ENGINES, ELSEWHERE, ENGINES
from mobilenets.runtime.predict import READERS
from mobilenets.runtime.validate import VALIDATIONS
from mobilenets.tasks import TASKS
from mobilenets.train.results import RESULTS

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ROW_TYPES = set(typing.get_args(rows.Row))


def test_every_row_type_has_a_builder_and_an_emitter() -> None:
    assert set(BUILDERS) == ROW_TYPES == set(EMITTERS)


def test_every_row_type_is_used_by_a_catalogue_network() -> None:
    assert {type(row) for make in CATALOG.values() for row in make().rows} == ROW_TYPES


def test_formats_cover_exactly_the_formats_and_precisions_of_the_records() -> None:
    assert {name for name, _ in FORMATS} == set(typing.get_args(Format))
    assert {name for _, name in FORMATS} == set(typing.get_args(Precision))


def test_every_format_has_float32_and_every_precision_has_limits() -> None:
    assert {name for name, precision in FORMATS if precision == "fp32"} == set(typing.get_args(Format))
    for precision in typing.get_args(Precision):
        assert Limits.of(precision).logits > 0


def test_every_format_has_an_engine_that_opens_it_or_is_told_to_run_elsewhere() -> None:
    assert {*DEFAULT_ENGINES, *ELSEWHERE} == set(typing.get_args(Format))
    assert not set(DEFAULT_ENGINES) & set(ELSEWHERE)
    assert set(ELSEWHERE) <= set(CONVERTERS)  # whose converter answers before the gate
    for format, engine in DEFAULT_ENGINES.items():
        assert format in ENGINES[engine].formats


def test_every_engine_opens_formats_that_exist_and_its_extra_is_told_of() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for entry in ENGINES.values():
        assert set(entry.formats) <= set(typing.get_args(Format))
        assert entry.extra is None or entry.extra in extras
        if entry.extra is not None:
            assert EXTRAS[entry.package] == entry.extra


def test_every_engine_is_where_the_table_says_and_goes_by_its_name() -> None:
    for name, entry in ENGINES.items():
        module, _, kind = entry.home.partition(":")
        engine = getattr(importlib.import_module(f"mobilenets.runtime.engines.{module}"), kind)
        assert {"name", "version", "threads", "run"} <= set(vars(engine))
        assert engine.name.fget(None) == name


def test_tasks_are_those_of_the_records_and_each_is_read_measured_judged_and_told() -> None:
    for table in (TASKS, READERS, VALIDATIONS, JUDGES, RESULTS):
        assert set(table) == set(typing.get_args(Task))
