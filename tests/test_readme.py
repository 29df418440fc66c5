"""What README tells a person to type is understood, and what it says comes out does."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from mobilenets.cli.main import VERBS
from mobilenets.train.recipes import RECIPES, named_recipe, read_recipe

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for path in TEXTS for block in blocks(path.read_text(), "console") for line in block.splitlines()]
    return [line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("mobilenets ")])
def test_a_command_is_understood(line: str) -> None:
    _, verb, *arguments = shlex.split(line, comments=True)
    module, _ = VERBS[verb]
    command = importlib.import_module(f"mobilenets.cli.{module}").command
    command.make_context(verb, arguments)


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("scripts/")])
def test_a_script_is_there_and_can_be_run(line: str) -> None:
    script = ROOT / line.split()[0]
    assert script.stat().st_mode & 0o111


def run_and_compare(snippets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In order, in one namespace; what is to be printed is a comment behind the call, or comments below it."""
    assert snippets
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, "snippet", "exec"), names)
        beside = re.findall(r"^(?:# |.*\)  # )(.*)$", snippet, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == beside


def test_the_snippets_about_the_papers_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    run_and_compare(blocks((ROOT / "docs" / "papers.md").read_text(), "python"), capsys)


def test_the_recipes_told_of_are_those_of_the_package_and_a_file_like_that_is_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    lines = re.findall(r"^\| \[(\w+)\].*?\|(.*)\|$", text, re.MULTILINE)
    assert {name for name, _ in lines} == set(RECIPES)
    for name, cells in lines:
        recipe = named_recipe(name)
        more = [field for field in ("randaugment", "cutout", "erase", "mixup", "cutmix") if getattr(recipe, field)]
        told = [recipe.optimizer, f"{recipe.epochs:g}", recipe.schedule, f"{recipe.weight_decay:g}", ", ".join(more)]
        assert [cell.strip() for cell in cells.split("|")] == told
    (own,) = blocks(text, "yaml")
    (tmp_path / "mine.yaml").write_text(own)
    assert read_recipe(tmp_path / "mine.yaml").epochs == 120


@pytest.mark.parametrize("about", ["cost(spec)", "backbone.channels"])
def test_a_library_snippet_prints_what_it_says(about: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_and_compare([block for block in blocks((ROOT / "README.md").read_text(), "python") if about in block], capsys)


def test_the_field_snippet_names_what_the_field_has() -> None:
    (snippet,) = [block for block in blocks((ROOT / "README.md").read_text(), "python") if "open_artifact" in block]
    compile(snippet, "README.md", "exec")
    runtime = importlib.import_module("mobilenets.runtime")
    (names,) = re.findall(r"from mobilenets.runtime import (.*)", snippet)
    assert all(hasattr(runtime, name.strip()) for name in names.split(","))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_benchmark_is_listed_and_every_one_that_a_text_names_is_there() -> None:
    folder = ROOT / "benchmarks"
    scripts = {path.name: path.read_text() for path in folder.glob("*.py")}
    run = {name for name, text in scripts.items() if "__main__" in text}
    texts = [path.read_text() for path in [*TEXTS, folder / "README.md"]]
    named = {name for text in texts for name in re.findall(r"benchmarks/(\w+\.py)", text)}
    assert named <= run
    listed = set(re.findall(r"benchmarks/(\w+\.py)", (folder / "README.md").read_text()))
    others = {name: "".join(text for other, text in scripts.items() if other != name) for name in run}
    workers = {name for name in run if re.search(rf"\b{name[:-3]}(\.py| import)\b", others[name])}
    assert run == listed | workers
