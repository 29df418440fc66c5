"""The five extension tables fit together: a new row in one is missed in none of the others."""

import typing

from mobilenets.arch import CATALOG, rows
from mobilenets.export import FORMATS
from mobilenets.export.onnx_graph import EMITTERS
from mobilenets.nets import BUILDERS
from mobilenets.records import Format, Precision, Task
from mobilenets.runtime import DEFAULT_ENGINES, ENGINES
from mobilenets.tasks import TASKS

ROW_TYPES = set(typing.get_args(rows.Row))


def test_every_row_type_has_a_builder_and_an_emitter() -> None:
    assert set(BUILDERS) == ROW_TYPES == set(EMITTERS)


def test_every_row_type_is_used_by_a_catalogue_network() -> None:
    assert {type(row) for make in CATALOG.values() for row in make().rows} == ROW_TYPES


def test_formats_cover_exactly_the_formats_and_precisions_of_the_records() -> None:
    assert {name for name, _ in FORMATS} == set(typing.get_args(Format))
    assert {name for _, name in FORMATS} == set(typing.get_args(Precision))


def test_every_format_has_an_engine() -> None:
    assert set(DEFAULT_ENGINES) == set(typing.get_args(Format))
    assert set(DEFAULT_ENGINES.values()) <= set(ENGINES)


def test_tasks_are_those_of_the_records() -> None:
    assert set(TASKS) == set(typing.get_args(Task))
