"""Networks of a fit that begin from trained weights: whose, when, and what happens where there are none."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from making import settled_bundle
from mobilenets.arch import CATALOG, facts, find, parts_of
from mobilenets.bundle import Bundle, read_bundle
from mobilenets.data import open_folder
from mobilenets.errors import BudgetError, UsageError
from mobilenets.fit import Budget, FitReport, fit, options, starts, summary_text
from mobilenets.fit.candidates import promise, within_reach
from mobilenets.fit.page import page
from mobilenets.fit.starts import PUBLISHED, Starts
from mobilenets.train import Outcome, train
from mobilenets.weights.published import named, published, weights_of
from mobilenets.weights.timm_models import timm_model

SIDE = 32  # what the networks take here: 16 pixels, enlarged

pytestmark = pytest.mark.usefixtures("short_timings")


@pytest.fixture(scope="module")
def narrow() -> Bundle:
    """A network that knows ten other classes."""
    spec = find("mobilenet_v2_0.25_96")
    return settled_bundle(spec)


@pytest.fixture(scope="module")
def folder(narrow: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "narrow"
    narrow.write(path)
    return path


Begun = list[tuple[object, float]]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    """What each training of a fit begins from, and its rate."""
    seen: Begun = []

    def noted(start: object, *arguments: object, **options: object) -> Outcome:
        seen.append((start, arguments[2].lr))  # type: ignore[attr-defined]
        return train(start, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib.import_module("mobilenets.fit.fit"), "train", noted)
    return seen


def small_fit(photos: Path, out: Path, **changes: object) -> FitReport:
    choice = {"budget": Budget(mult_adds_m=10.0, threads=1), "resolutions": (SIDE,), "seconds": 10.0, **changes}
    return fit(open_folder(photos), out=out, **choice)  # type: ignore[arg-type]


def test_a_fit_goes_on_from_a_persons_own_weights_gently(
    photos: Path, folder: Path, narrow: Bundle, begun: Begun, tmp_path: Path
) -> None:
    report = small_fit(photos, tmp_path, weights=[str(folder)])
    assert {candidate.start for candidate in report.candidates} == {str(folder)}
    first, rate = begun[0]
    assert isinstance(first, Bundle)
    assert first.labels == ("dark", "light")
    assert first.spec.resolution == SIDE
    assert first.preprocess.mean == narrow.preprocess.mean
    assert rate == 0.04
    for name, tensor in narrow.tensors.items():
        if not name.startswith("head.classifier."):
            np.testing.assert_array_equal(first.tensors[name], tensor)
    made = read_bundle(tmp_path / "bundle")
    assert [step["step"] for step in made.history][-2:] == ["adapt", "train"]
    assert made.history[-2]["digest"] == narrow.digest
    assert report.recipe["lr"] == 0.04
    assert f"begun from {folder}" in " ".join(summary_text(report, folder=tmp_path).split())
    assert len(summary_text(report, folder=tmp_path).splitlines()) <= 12
    assert "begun from nothing" not in (tmp_path / "report.html").read_text()
    for other in ("none", "auto"):
        with pytest.raises(UsageError, match="another fit"):
            small_fit(photos, tmp_path, weights=other)
    assert small_fit(photos, tmp_path, weights=[str(folder)]) == report


def test_where_no_network_with_weights_keeps_the_budget_others_are_tried(
    photos: Path, folder: Path, begun: Begun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of what knows photos the smallest takes 6.6 million, at 96 pixels; others see these images at their 16.
    report = small_fit(
        photos,
        tmp_path,
        weights=[str(folder)],
        budget=Budget(mult_adds_m=2.0, threads=1),
        resolutions=None,
        alphas=(0.1, 0.25),
    )
    assert "trying those without" in capsys.readouterr().err
    assert {candidate.start for candidate in report.candidates} == {None}
    assert not any(isinstance(start, Bundle) for start, _ in begun[:1])
    assert begun[0][1] == 0.4
    assert "begun from nothing" in page(report, thumbnails={})


def test_a_budget_that_nobody_keeps_names_the_nearest_network_without_weights(
    photos: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="--mult-adds-m"):
        small_fit(photos, tmp_path, weights=[str(folder)], budget=Budget(mult_adds_m=0.001))


def test_published_weights_are_fetched_for_who_is_trained_and_for_nobody_else(
    photos: Path, tmp_path: Path, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(source: str) -> Bundle:
        fetched.append(source)
        name = named(source)
        assert name is not None
        return settled_bundle(starts.table_of(name))

    monkeypatch.setattr(starts, "hub_answers", lambda _: True)
    monkeypatch.setattr(starts, "trained_weights", fetch)
    report = small_fit(photos, tmp_path, weights="published", families=("mobilenet_v3_small",), resolutions=(SIDE,))
    assert {c.start for c in report.candidates} == {one for one in PUBLISHED if "mobilenetv3_small" in one}
    trained = {c.start for c in report.candidates if c.rounds or c.status == "chosen"}
    assert fetched == sorted(fetched, key=fetched.index)
    assert set(fetched) == trained
    assert len(fetched) == len(trained)
    assert isinstance(begun[0][0], Bundle)


def test_without_a_network_photos_are_learned_from_nothing_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starts, "hub_answers", lambda _: False)
    monkeypatch.setattr(starts, "is_cached", lambda _: False)
    assert Starts("auto").had(None, None, unasked=True) == ()
    assert "cannot be reached" in capsys.readouterr().err
    with pytest.raises(UsageError, match="cannot be reached") as caught:
        Starts("published").had(None, None, unasked=True)
    assert "--weights" in str(caught.value)


def test_without_a_network_what_the_hubs_cache_holds_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starts, "hub_answers", lambda _: False)
    monkeypatch.setattr(starts, "is_cached", lambda repository: repository.startswith("google/"))
    there = Starts("auto").had(("mobilenet_v2",), None, unasked=True)
    assert {(start.family, start.alpha) for start in there} == {("mobilenet_v2", 0.35), ("mobilenet_v2", 0.75)}
    assert f"3 of {len(PUBLISHED)}" in capsys.readouterr().err


def test_thumbnails_ask_nobody_for_weights_unless_they_are_told_to(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> bool:
        raise AssertionError

    monkeypatch.setattr(starts, "hub_answers", refuse)
    with pytest.raises(BudgetError):  # and not the assertion
        small_fit(photos, tmp_path / "small", weights="auto", budget=Budget(mult_adds_m=0.001))
    with pytest.raises(AssertionError):
        small_fit(photos, tmp_path / "told", weights="published", budget=Budget(mult_adds_m=0.001))


@pytest.mark.parametrize("source", PUBLISHED)
def test_every_published_start_is_of_a_family_with_published_accuracies(source: str) -> None:
    name = named(source)
    assert name is not None
    parts = parts_of(name.model)
    assert parts is not None
    assert parts.base in CATALOG
    assert 40 < promise(parts.base, alpha=parts.alpha, rho=1.0) < 90
    if name.library == "timm":
        assert published(name) in weights_of("timm")
        assert timm_model(name.model).family == parts.base
        assert published(name).licence == "apache-2.0"


def test_published_accuracies_are_timms_own(shared_data: Path) -> None:
    rows = json.loads((shared_data.parent / "published" / "timm_results_imagenet.json").read_text())["rows"]
    told = {(row["model"], row["img_size"]): row["top1"] for row in rows}
    checked = 0
    for source, top1 in PUBLISHED.items():
        name = named(source)
        assert name is not None
        if name.library == "timm":
            assert told[f"{name.model}.{name.weights}", 224.0] == top1
            checked += 1
        else:
            model = name.model.removeprefix("google/")
            assert top1 in {fact.value for fact in facts() if (fact.model, fact.metric) == (model, "top1")}
    assert checked == 13


def test_weights_that_are_better_than_their_familys_promise_more() -> None:
    there = starts.Start(source="it", family="mobilenet_v1", alpha=1.0, spec=find("mobilenet_v1"))
    plain, ahead = (options(classes=2, native_side=None, starts=(s,)) for s in (there, replace(there, top1=75.388)))
    assert [o.spec.resolution for o in plain] == [o.spec.resolution for o in ahead]
    assert ahead[0].promise == pytest.approx(75.388)
    assert ahead[-1].promise - plain[-1].promise == pytest.approx(ahead[0].promise - plain[0].promise)


def test_one_network_of_each_family_and_width_is_published() -> None:
    keys = [parts_of(name.model) for source in PUBLISHED if (name := named(source)) is not None]
    assert len({(parts.base, parts.alpha) for parts in keys if parts is not None}) == len(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "family", "alpha"),
    [
        ("mobilenetv3_small_050", "mobilenet_v3_small", 0.5),
        ("timm:tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large_minimalistic", 1.0),
        ("google/mobilenet_v1_0.75_192", "mobilenet_v1", 0.75),
        ("mobilenetv4_conv_small", "mobilenet_v4_conv_small", 1.0),
        ("mobilenet_v2_1.4_224", "mobilenet_v2", 1.4),
    ],
)
def test_a_name_of_any_scheme_says_family_and_width(name: str, family: str, alpha: float) -> None:
    parts = parts_of(name)
    assert parts is not None
    assert (parts.base, parts.alpha) == (family, alpha)


def test_a_name_that_is_no_family_says_none() -> None:
    assert parts_of("efficientnet_b0") is None
    assert parts_of("mobilenetv2_110d") is None  # deeper than its family


def test_two_sets_of_weights_of_one_family_and_width_are_refused(folder: Path, narrow: Bundle, tmp_path: Path) -> None:
    other = replace(narrow, labels=tuple(reversed(narrow.labels)))
    other.write(tmp_path / "other")
    with pytest.raises(UsageError, match=r"mobilenet_v2 of width 0\.25"):
        Starts([str(folder), str(tmp_path / "other")])


def test_weights_of_a_table_of_ones_own_are_refused(tmp_path: Path) -> None:
    settled_bundle(msgspec.structs.replace(find("mobilenet_v1_0.25_96"), name="mine")).write(tmp_path / "own")
    with pytest.raises(UsageError, match="a table of its own"):
        Starts([str(tmp_path / "own")])


def test_an_elastic_fit_from_weights_is_refused(photos: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="elastic"):
        small_fit(photos, tmp_path, weights=[str(folder)], elastic=True)


def test_a_network_with_weights_promises_as_much_after_fewer_epochs() -> None:
    bundle = settled_bundle(find("mobilenet_v2_0.25_96"))
    start = starts.Start(source="it", family="mobilenet_v2", alpha=0.25, spec=bundle.spec)
    with_weights = options(classes=2, native_side=None, starts=(start,), resolutions=(224,))
    without = options(classes=2, native_side=None, families=("mobilenet_v2",), alphas=(0.25,), resolutions=(224,))
    assert with_weights[0].promise == pytest.approx(without[0].promise)
    assert within_reach(with_weights[0], epochs=4.0) == with_weights[0].promise
    assert within_reach(without[0], epochs=4.0) < without[0].promise
    assert with_weights[0].cost == without[0].cost


def test_thumbnails_are_enlarged_fourfold_at_most_for_networks_that_know_photos() -> None:
    spec = find("mobilenet_v2_0.25_96")
    start = starts.Start(source="it", family="mobilenet_v2", alpha=0.25, spec=spec)
    sides = {o.spec.resolution for o in options(classes=2, native_side=32, starts=(start,))}
    assert sides == {128, 96}
    assert {o.spec.resolution for o in options(classes=2, native_side=16, starts=(start,))} == {96}
