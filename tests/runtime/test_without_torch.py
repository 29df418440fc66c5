from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Python imports a module of this name by itself when it starts, in worker processes too.
SITE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx"):
            raise ImportError(f"{name} is not for the field")

sys.meta_path.insert(0, Refuse())
"""
FIELD = """
import contextlib, io, json, sys
from mobilenets.cli.{verb} import command

out = io.StringIO()
with contextlib.redirect_stdout(out):
    command.main({arguments!r}, standalone_mode=False)
loaded = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "torchvision", "onnx"}})
print(json.dumps([loaded, out.getvalue()]))
"""


def run_without_torch(verb: str, arguments: list[str], *, tmp_path: Path) -> str:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-c", FIELD.format(verb=verb, arguments=arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    loaded, output = json.loads(done.stdout)
    assert loaded == []
    return output


def test_torch_is_really_blocked_in_these_tests(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    done = subprocess.run(
        [sys.executable, "-c", "import torch"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "torch is not for the field" in done.stderr


def test_predict_works_where_torch_cannot_be_imported(
    tiny_artifact: Path, picture: Callable[..., Path], tmp_path: Path
) -> None:
    images = [str(picture("a.png", "red")), str(picture("b.png", "blue"))]
    output = run_without_torch("predict", [str(tiny_artifact), *images, "--json"], tmp_path=tmp_path)
    assert [json.loads(line)["top"][0]["label"] for line in output.splitlines()] == ["red", "blue"]


def test_bench_works_where_torch_cannot_be_imported(tiny_artifact: Path, tmp_path: Path) -> None:
    output = run_without_torch("bench", [str(tiny_artifact), "--seconds", "0.2", "--json"], tmp_path=tmp_path)
    assert json.loads(output)["rows"]
