from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import pytest

from mobilenets import __version__
from mobilenets.cli import main as root
from mobilenets.errors import GateError

Run = Callable[..., tuple[int, str, str]]

HEAVY = {"torch", "torchvision", "onnx", "onnxruntime", "matplotlib"}
LOADED = """
import json, sys
from mobilenets.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""
WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from mobilenets.cli.main import main
main({arguments!r})
"""


def loaded_by(*arguments: str) -> set[str]:
    code = LOADED.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Puts a verb `try` into the table that does what it is told."""

    def add(action: Callable[[], object]) -> None:
        module = ModuleType("mobilenets.cli.trying")

        @click.option("--json", "as_json", is_flag=True)
        def callback(as_json: bool) -> None:
            action()

        module.command = click.command("try")(callback)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(root, "VERBS", {**root.VERBS, "try": ("trying", "Try.")})

    return add


@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["models", "--json"]])
def test_looking_around_loads_neither_torch_nor_onnxruntime_nor_numpy(arguments: list[str]) -> None:
    assert loaded_by(*arguments).isdisjoint(HEAVY | {"numpy", "PIL", "tqdm"})


def test_counting_a_network_loads_neither_torch_nor_onnxruntime() -> None:
    assert loaded_by("info", "mobilenet_v2", "--per-layer").isdisjoint(HEAVY)


def test_no_verb_loads_anything_heavy_before_it_is_run() -> None:
    code = (
        "import importlib, json, sys; from mobilenets.cli.main import VERBS;"
        "[importlib.import_module('mobilenets.cli.' + module).command for module, _ in VERBS.values()];"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint(HEAVY | {"numpy"})


def test_the_measuring_of_what_is_loaded_sees_what_is_loaded() -> None:
    assert "msgspec" in loaded_by("models")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_verb_with_its_line(arguments: list[str], run: Run) -> None:
    code, out, _ = run(*arguments)
    assert code == 0
    for name, (_, about) in root.VERBS.items():
        assert name in out
        assert about in out


@pytest.mark.parametrize("name", root.VERBS)
def test_every_verb_teaches_by_example_and_answers_in_json(name: str, run: Run) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert out.count(f"mobilenets {name}") >= 3
    assert "--json" in out


@pytest.mark.parametrize("name", root.VERBS)
def test_every_verb_is_a_command_of_its_own_name(name: str) -> None:
    module, _ = root.VERBS[name]
    command = importlib.import_module(f"mobilenets.cli.{module}").command
    assert isinstance(command, click.Command)
    assert command.name == name


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"mobilenets {__version__}\n", "")


def test_an_unknown_verb_is_bad_use_and_near_ones_are_named(run: Run) -> None:
    code, out, err = run("trian")
    assert (code, out) == (2, "")
    assert err == "error: command 'trian' is not known; near it: train; use one of these names\n"


def test_a_wrong_option_is_bad_use_and_points_to_help(run: Run) -> None:
    code, out, err = run("info", "--clases", "3")
    assert (code, out) == (2, "")
    assert err.startswith("error: No such option")
    assert err.endswith("see: mobilenets info --help\n")


def test_a_missing_argument_is_bad_use(run: Run) -> None:
    code, _, err = run("train")
    assert code == 2
    assert "MODEL" in err


def test_an_error_is_one_line_that_says_got_wanted_and_what_to_do(run: Run) -> None:
    code, out, err = run("info", "mobilnet_v2")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: model 'mobilnet_v2' is not known; near it: mobilenet_v2,")


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(["info", "mobilnet_v2", "--json"], "UnknownNameError"), (["info", "--json", "--wrong"], "UsageError")],
)
def test_with_json_an_error_is_an_object_on_standard_output_too(arguments: list[str], kind: str, run: Run) -> None:
    code, out, err = run(*arguments)
    error = json.loads(out)["error"]
    assert code == 2
    assert set(error) == {"kind", "got", "wanted", "do"}
    assert error["kind"] == kind
    assert err.startswith("error: ")


def test_a_failed_check_exits_with_1(run: Run, verb: Callable[..., None]) -> None:
    def refuse() -> None:
        raise GateError("agreement = 0.5", wanted="at least 0.99", do="export as fp32")

    verb(refuse)
    assert run("try") == (1, "", "error: agreement = 0.5; at least 0.99; export as fp32\n")
    _, out, _ = run("try", "--json")
    assert json.loads(out) == {
        "error": {"kind": "GateError", "got": "agreement = 0.5", "wanted": "at least 0.99", "do": "export as fp32"}
    }


def test_a_mistake_of_ours_is_shown_whole_and_never_looks_like_a_failed_check(
    run: Run, verb: Callable[..., None]
) -> None:
    def wrong() -> None:
        raise ZeroDivisionError("never mind")

    verb(wrong)
    code, _, err = run("try")
    assert code == 70
    assert "ZeroDivisionError: never mind" in err
    assert "please report" in err


def test_ctrl_c_exits_with_130_and_one_line(run: Run, verb: Callable[..., None]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    verb(interrupt)
    code, out, err = run("try")
    assert (code, out, err.strip()) == (130, "", "stopped")


def test_a_verb_may_end_with_a_code_of_its_own(run: Run, verb: Callable[..., None]) -> None:
    verb(lambda: click.get_current_context().exit(130))
    assert run("try")[0] == 130


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_where_an_error_comes_from(how: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in run("info", "mobilnet_v2")[2]
    if how == "environment":
        monkeypatch.setenv("MOBILENETS_DEBUG", "1")
    code, _, err = run(*(["--debug"] if how == "option" else []), "info", "mobilnet_v2")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("package", "extra", "verb_arguments"),
    [("torch", "train", ["train", "mobilenet_v2", "digits"]), ("safetensors", "train", ["train", "BUNDLE", "digits"])],
)
def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    package: str, extra: str, verb_arguments: list[str], trained: Path, tmp_path: Path
) -> None:
    arguments = [str(trained / "best") if argument == "BUNDLE" else argument for argument in verb_arguments]
    code = WITHOUT.format(package=package, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: the package {package!r} is not installed; this command needs the extra [{extra}];"
        f' run: pip install "mobilenets[{extra}]"'
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["info", "mobilenet_v2", "--per-layer"]])
def test_a_reader_that_goes_away_is_no_mistake_and_no_failed_check(arguments: list[str]) -> None:
    code = (
        "import os, sys; from mobilenets.cli.main import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
        f"main({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
