from __future__ import annotations

import base64
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mobilenets.fit.page import page
from mobilenets.fit.records import Budget, FitReport
from mobilenets.fit.view.matrix import confused_pairs

VOID = {"br", "col", "img", "link", "meta", "wbr"}
HOSTILE = '<script>alert("1")</script>'


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


class Document(HTMLParser):
    """What a page holds: its elements, its text, and whether every element is closed where it should be."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        assert len({key for key, _ in attrs}) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def rendered(report: FitReport, thumbnails: dict[str, bytes] | None = None) -> Document:
    return Document(page(report, thumbnails=sample.make_thumbnails(report) if thumbnails is None else thumbnails))


def variants() -> dict[str, FitReport]:
    usual = sample.make_report()
    fp32 = usual.delivered[0]
    two, hundred = ("no", "yes"), [f"class {i}" for i in range(100)]
    on_val = replace(fp32, accuracy=sample.make_accuracy(labels=usual.labels, n=500, seed=1, split="val"))
    perfect = replace(fp32, accuracy=sample.make_accuracy(labels=usual.labels, n=500, seed=1, perfect=True))
    int8 = replace(fp32, path="int8", precision="int8", gates=sample.make_gates(int8=True))
    nan = [replace(row, train_loss=float("nan"), eval_loss=float("inf")) for row in usual.training]
    long = tuple(f"{'a very long name of a class indeed ' * 12}{i}" for i in range(10))
    return {
        "usual": usual,
        "two classes": sample.make_report(labels=two, n=100),
        "thirty classes": sample.make_report(labels=hundred[:30]),
        "a hundred classes": sample.make_report(labels=hundred),
        "five hundred classes": sample.make_report(labels=[f"class {i}" for i in range(500)]),
        "one candidate": replace(usual, candidates=tuple(c for c in usual.candidates if c.status == "chosen")),
        "none trained": replace(usual, candidates=tuple(replace(c, rounds=()) for c in usual.candidates)),
        "no mistakes": replace(usual, mistakes=(), delivered=(perfect,)),
        "no test split": replace(usual, delivered=(on_val,), images={"train": 900, "val": 500}),
        "only a size budget": replace(usual, budget=Budget(size_mb=20.0)),
        "only a mult-adds budget": replace(usual, budget=Budget(mult_adds_m=80.0)),
        "int8 too": replace(usual, delivered=(int8, fp32), not_delivered=()),
        "nothing delivered": replace(usual, delivered=()),
        "no training rows": replace(usual, training=()),
        "one training row": replace(usual, training=usual.training[:1]),
        "losses that are not numbers": replace(usual, training=tuple(nan)),
        "hostile labels": sample.make_report(labels=(HOSTILE, '" onload="x', "a&b", "\x00\ud800\u202e", "'")),
        "long names": sample.make_report(labels=long),
    }


VARIANTS = variants()


@pytest.fixture(scope="module")
def usual() -> FitReport:
    return VARIANTS["usual"]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_page_asks_the_network_for_nothing(name: str) -> None:
    markup = page(VARIANTS[name], thumbnails=sample.make_thumbnails(VARIANTS[name]))
    document = Document(markup)
    for attribute in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
        assert all(value.startswith(("data:", "#")) for value in document.values(attribute))
    assert not re.search(r"https?:", markup)
    assert not re.search(r"@import|@font-face|url\((?!#)", markup)
    policy = next(meta["content"] for meta in document.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", VARIANTS)
def test_every_element_is_closed_every_id_is_there_once_and_every_link_leads_somewhere(name: str) -> None:
    document = rendered(VARIANTS[name])
    ids = Counter(document.values("id"))
    assert max(ids.values()) == 1
    links = [value for value in document.values("href") if value.startswith("#")]
    hatches = [value[4:-1] for value in document.values("fill") if value.startswith("url(")]
    assert {link[1:] for link in links + hatches} | set(document.values("aria-labelledby")) <= set(ids)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_number_of_a_picture_is_nan_or_infinite(name: str) -> None:
    document = rendered(VARIANTS[name])
    for attribute in ("x", "y", "x1", "y1", "cx", "cy", "d", "points", "viewBox", "width", "height"):
        assert not any(re.search(r"nan|inf", value) for value in document.values(attribute))
    assert all(float(value) >= 0 for value in document.values("width") if value.replace(".", "").lstrip("-").isdigit())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_page_can_be_used_by_ear_and_keyboard(name: str) -> None:
    document = rendered(VARIANTS[name])
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(document.all("caption")) == len(document.all("table"))
    assert all(image["alt"] for image in document.all("img"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in document.all("svg"))
    assert all("scope" in head for head in document.all("th"))


def test_every_number_of_the_choice_is_on_the_page(usual: FitReport) -> None:
    text = rendered(usual).text
    first = usual.delivered[0]
    (choice,) = (c for c in usual.candidates if c.status == "chosen")
    latency, accuracy = first.latency, first.accuracy
    for number in (
        f"{latency.median_ms:.2f} ms of 1.50 ms",
        f"95 % interval {latency.low_ms:.2f} to {latency.high_ms:.2f} ms",
        "3,318 runs in 21 rounds, 1 thread",
        "onnxruntime 1.20.1",
        f"{100 * accuracy.top1:.1f} % on 10,000 test images",
        f"95 % interval {100 * accuracy.top1_low:.1f} to {100 * accuracy.top1_high:.1f} %",
        f"{first.size_mb:.1f} MB",
        f"{choice.mult_adds / 1e6:.1f} M",
        f"{choice.parameters:,}",
        "mobilenets predict fp32 IMAGE",
        "mobilenets bench fp32",
        usual.command,
        usual.latency_note,
        usual.data_digest,
        usual.environment.cpu,
        "9 min 41 s",
        *usual.problems,
        *usual.not_delivered,
    ):
        assert number in text


def test_every_candidate_stands_in_a_table_with_its_fate_and_the_reason(usual: FitReport) -> None:
    text = rendered(usual).text
    for candidate in usual.candidates:
        assert f"{candidate.status} {candidate.why}" in text
        assert candidate.name in text.replace("_ ", "_")


def test_every_candidate_with_a_latency_is_drawn_once_for_desks_and_once_for_telephones(usual: FitReport) -> None:
    drawn = Counter(link["href"] for link in rendered(usual).all("a"))
    assert set(drawn.values()) == {2}
    assert len(drawn) == len([c for c in usual.candidates if c.latency is not None])


def test_every_count_of_the_confusion_matrix_is_on_the_page(usual: FitReport) -> None:
    words = Counter(rendered(usual).words)
    for n, times in Counter(n for row in usual.delivered[0].accuracy.confusion for n in row).items():
        assert words[str(n)] >= times


def test_every_gate_is_shown_against_its_limit() -> None:
    report = VARIANTS["int8 too"]
    document = rendered(report)
    gates = [gate for delivered in report.delivered for gate in delivered.gates]
    assert document.text.count("\u2713 passed") == len(gates)
    assert {gate.name for gate in gates} <= set(document.values("title"))
    assert "1.42 at least 1 21 rounds timed in turn" in document.text
    assert "on 10,000 test images as int8." in document.text
    failed = replace(gates[0], value=float("nan"))
    broken = replace(report.delivered[0], gates=(failed,))
    assert "\u2717 failed" in rendered(replace(report, delivered=(broken,))).text


def test_labels_and_file_names_cannot_become_markup(usual: FitReport) -> None:
    image = 'a"><img src=x onerror=alert(1)>.png'
    mistake = replace(usual.mistakes[0], image=image, truth=HOSTILE, said=HOSTILE)
    report = replace(
        usual,
        labels=(HOSTILE, *usual.labels[1:]),
        mistakes=(mistake,),
        command=HOSTILE,
        data=HOSTILE,
        problems=(HOSTILE,),
        not_delivered=(HOSTILE,),
        chosen=HOSTILE,
        recipe={HOSTILE: HOSTILE},
    )
    document = rendered(report)
    assert len(document.all("script")) == 1
    assert len(document.all("img")) == 1
    assert not any(key.startswith("on") for _, attributes in document.elements for key in attributes)
    assert HOSTILE in document.text
    assert image in document.values("title")


def test_a_name_that_no_encoding_holds_can_still_be_written() -> None:
    assert "\ufffd" in page(VARIANTS["hostile labels"], thumbnails={}).encode().decode()


def test_mistakes_are_shown_as_pictures_inside_the_page(usual: FitReport) -> None:
    thumbnails = sample.make_thumbnails(usual)
    images = rendered(usual, thumbnails).all("img")
    assert [image["src"].split(",")[1] for image in images] == [
        base64.b64encode(thumbnails[mistake.image]).decode() for mistake in usual.mistakes
    ]
    assert {image["src"].split(";")[0] for image in images} == {"data:image/png", "data:image/jpeg"}


def test_a_mistake_without_a_picture_keeps_its_caption(usual: FitReport) -> None:
    document = rendered(usual, {usual.mistakes[0].image: b"<svg onload=alert(1)>"})
    assert document.all("img") == []
    assert document.text.count("no picture") == len(usual.mistakes)
    assert "said automobile , 99.5 %" in document.text


def test_a_choice_whose_interval_passes_the_limit_does_not_fit(usual: FitReport) -> None:
    latency = sample.make_latency("fp32", median=1.47, seed=0)
    report = replace(usual, delivered=(replace(usual.delivered[0], latency=latency),))
    assert "does not keep to the budget 1.43 ms to 1.52 ms of 1.50 ms" in rendered(report).text


def test_images_that_chose_the_model_are_named_as_such() -> None:
    text = rendered(VARIANTS["no test split"]).text
    assert "validation images" in text
    assert "these images also chose the model" in text


def test_many_classes_get_a_table_of_the_most_confused_pairs() -> None:
    report = VARIANTS["a hundred classes"]
    text = rendered(report).text
    assert "The 20 most confused pairs." in text
    for truth, said, n in confused_pairs(report.delivered[0].accuracy, most=20):
        assert f"class {truth} class {said} {n} 99" in text or f"class {truth} class {said} {n} 100" in text
    assert "Without a single image in the test images: class 99 ." in text


def test_a_page_stays_below_a_megabyte_with_five_hundred_classes() -> None:
    assert len(page(VARIANTS["five hundred classes"], thumbnails={})) < 1_000_000


def test_the_same_report_gives_the_same_page(usual: FitReport) -> None:
    assert page(usual, thumbnails={}) == page(sample.make_report(), thumbnails={})


def test_rendering_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import importlib.util, sys, types\n"
        "from pathlib import Path\n"
        "import mobilenets\n"
        "package = types.ModuleType('mobilenets.fit')\n"  # the package itself trains, and may import what it likes
        "package.__path__ = [str(Path(mobilenets.__file__).parent / 'fit')]\n"
        "sys.modules['mobilenets.fit'] = package\n"
        "import mobilenets.fit.page, mobilenets.fit.summary\n"
        "print([name for name in ('torch', 'torchvision', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
