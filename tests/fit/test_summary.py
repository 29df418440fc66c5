from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mobilenets.fit.records import Budget, FitReport
from mobilenets.fit.summary import summary_text
from mobilenets.metrics import wilson_interval


def load_sample() -> ModuleType:
    """tests/fit/sample_report.py; test folders are not packages, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("sample_report", Path(__file__).with_name("sample_report.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sample = load_sample()
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def report() -> FitReport:
    made: FitReport = sample.make_report()
    return made


def test_the_summary_says_what_was_chosen_and_what_was_measured_of_it(report: FitReport) -> None:
    lines = summary_text(report, folder=Path("out")).splitlines()
    first = report.delivered[0]
    assert lines[0] == f"{report.chosen} fits"
    for number in (
        f"{first.latency.median_ms:.2f} ms of 1.50 ms (95 % interval",
        f"{100 * first.accuracy.top1:.1f} % on 10,000 test images",
        f"{first.size_mb:.1f} MB",
        "3 of 3 passed on 10,000 test images",
        "mobilenets predict out/fp32 IMAGE",
        *report.not_delivered,
    ):
        assert any(number in line for line in lines)


def test_the_summary_has_at_most_twelve_lines_whatever_there_is_to_tell(report: FitReport) -> None:
    many = replace(report, delivered=report.delivered * 5, not_delivered=("int8:\n too\nslow",) * 5)
    text = summary_text(many, folder=Path("out"))
    assert len(text.splitlines()) <= 12
    assert text.endswith("\n")


def test_a_network_that_answers_no_better_than_one_answer_for_all_is_told(report: FitReport) -> None:
    first = report.delivered[0]
    classes = len(report.labels)
    always = tuple(tuple(50 * (said == 2) for said in range(classes)) for _ in range(classes))
    n = 50 * classes
    low, high = wilson_interval(50, n)
    accuracy = replace(first.accuracy, n=n, top1=50 / n, top1_low=low, top1_high=high, confusion=always)
    text = summary_text(replace(report, delivered=(replace(first, accuracy=accuracy),)), folder=Path("out"))
    assert text.splitlines()[0] == f"{report.chosen} fits, but is not shown to have learned anything"
    assert f"always answering '{report.labels[0]}' would get {100 / classes:.1f} %: give it more time" in text
    assert "always answering" not in summary_text(report, folder=Path("out"))


def test_images_that_chose_the_model_are_not_called_held_out(report: FitReport) -> None:
    accuracy = sample.make_accuracy(labels=report.labels, n=500, seed=0, split="val")
    text = summary_text(
        replace(report, delivered=(replace(report.delivered[0], accuracy=accuracy),)), folder=Path("out")
    )
    assert "500 validation images, which also chose the model" in text


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (Budget(size_mb=20.0), "MB of 20.0 MB"),
        (Budget(mult_adds_m=80.0), "M of 80.0 M mult-adds"),
        (Budget(latency_ms=1.0), "does not keep to the budget"),
    ],
)
def test_what_is_told_follows_the_limits_that_were_set(report: FitReport, budget: Budget, wanted: str) -> None:
    assert wanted in summary_text(replace(report, budget=budget), folder=Path("out"))


def test_a_path_with_a_space_can_be_pasted_into_a_shell(report: FitReport) -> None:
    text = summary_text(replace(report, delivered=(replace(report.delivered[0], path="my model"),)), folder=Path("out"))
    assert "mobilenets predict 'out/my model' IMAGE" in text


def test_nothing_delivered_is_said_with_the_reason(report: FitReport) -> None:
    text = summary_text(replace(report, delivered=()), folder=Path("out"))
    assert "nothing was delivered" in text
    assert report.not_delivered[0] in text


def test_control_characters_of_names_do_not_reach_the_terminal(report: FitReport) -> None:
    assert "\x1b" not in summary_text(replace(report, not_delivered=("\x1b[2J",), chosen="\x1b[2J"), folder=Path("out"))
