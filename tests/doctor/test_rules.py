"""The table of rules as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

import onnx
import pytest

import mobilenets.doctor
from doctored import colour_model
from mobilenets.doctor import RULES, Problem, doctor
from mobilenets.errors import MissingExtraError

PROBLEMS = typing.get_args(Problem)
SOURCES = Path(mobilenets.doctor.__file__).parent
WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision"):
    sys.modules[name] = None
from pathlib import Path
from mobilenets.doctor import doctor
print([finding.problem for finding in doctor(Path(sys.argv[1])).findings])
"""


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_is_named_by_a_rule_and_found_in_a_test(problem: str) -> None:
    rules = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("by_*.py"))
    assert f'problem="{problem}"' in rules
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert re.search(rf'(\["{problem}"\]|"{problem}" in |{{"{problem}"|, "{problem}")', tests) or (
        f'"{problem}"\n' in tests
    )


def test_every_rule_is_in_the_table_once() -> None:
    written = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("by_*.py"))
    rules = re.findall(r"^def (\w+)\(seen: Seen\) -> Finding \| None:", written, flags=re.MULTILINE)
    assert sorted(rule.__name__ for rule in RULES) == sorted(rules)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    onnx.save(colour_model((0.5,) * 3, (0.5,) * 3), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_files_are_looked_at_where_torch_cannot_be_imported(bare: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(bare)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "['labels missing']"), done.stderr


def test_without_the_package_onnx_its_extra_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[export\]"):
        doctor(bare)
