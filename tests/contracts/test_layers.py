"""The structure is tested too: which package may import which, what is public, what stays light."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobilenets
from mobilenets.runtime import ENGINES

ROOT = Path(mobilenets.__file__).parent

# Each package with the packages of ours that it may import. Lower ones know nothing of higher ones.
BASE = {"errors", "files", "records", "processor", "progress", "metrics", "images", "imagenet"}
ALLOWED = {
    "errors": set(),
    "progress": set(),
    "files": {"errors"},
    "processor": set(),
    "records": {"errors", "files", "processor"},
    "metrics": {"errors"},
    "images": {"errors", "records"},
    "imagenet": set(),
    "arch": {"errors", "files"},
    "bundle": {"errors", "files", "records", "arch"},
    "runs": {"errors", "files"},
    "nets": {"errors", "processor", "arch"},
    "data": {"errors", "files", "records", "progress", "images"},
    "tasks": {"errors", "metrics", "nets"},
    "weights": {"errors", "files", "records", "progress", "imagenet", "arch", "bundle", "nets"},
    "runtime": {"errors", "files", "records", "processor", "metrics", "images", "imagenet", "data"},
    "bench": {"errors", "files", "records", "progress", "runtime"},
    "profiling": {"errors", "records", "arch", "runtime", "bench"},
    "train": BASE | {"arch", "bundle", "nets", "data", "tasks", "runtime", "runs"},
    "compress": BASE | {"arch", "bundle", "nets", "data", "tasks", "train", "runtime"},
    "export": BASE | {"arch", "bundle", "nets", "data", "train", "runtime", "bench"},
    "fit": BASE | {"arch", "bundle", "weights", "nets", "data", "train", "compress", "export", "runtime", "bench"},
    # The account of a compression needs what is exported and how fast it is; `compress` itself stays Bundle -> Bundle.
    "ledger": BASE | {"arch", "bundle", "nets", "data", "train", "compress", "export", "runtime", "bench"},
    "diagnose": BASE | {"arch", "bundle", "nets", "data", "tasks", "train", "runtime", "fit"},
    # Reads files, not bundles.
    "doctor": {"errors", "records", "metrics", "imagenet", "arch", "data", "runtime", "profiling"},
    "peers": {"errors", "records", "images", "arch", "bench", "runtime"},
}
FIELD = (
    *("errors", "files", "records", "processor", "progress", "metrics", "images", "imagenet"),
    *("arch", "runtime", "bench", "profiling", "doctor"),
)
NOT_ON_IMPORT = {"torch", "torchvision", "onnxruntime", "openvino", "ai_edge_litert", "executorch", "onnx", "timm"}
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(ROOT)], prefix="mobilenets.")
    if not info.name.endswith(("worker", "__main__"))  # importing these runs them
)


def _package_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Packages of ours that a file imports, anywhere in it; what is under TYPE_CHECKING counts as well."""
    inside = path.relative_to(ROOT.parent).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level:
            # the module itself is one level, so level 1 in a file is its package
            base = inside[: len(inside) - node.level]
            names = [".".join((*base, *(node.module or "").split("."), alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = [part for part in name.split(".") if part]
            if parts[0] == "mobilenets" and len(parts) > 1:
                found.add(parts[1])
    return found - {"__version__"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path) -> None:
    package = _package_of(path)
    if package in ("__init__", "__main__", "cli"):
        return  # the top may use everything
    assert package in ALLOWED, f"say in ALLOWED what {package} may import"
    assert _imports(path) - {package} <= ALLOWED[package]


def test_the_arrows_have_no_circle() -> None:
    seen: list[str] = []
    waiting = dict(ALLOWED)
    while waiting:
        free = [name for name, needs in waiting.items() if needs <= set(seen)]
        assert free, f"a circle among {sorted(waiting)}"
        for name in free:
            seen.append(name)
            del waiting[name]


def test_only_engines_that_are_torch_name_it_in_the_field() -> None:
    """They say so in the table, and are imported when such a file is opened; on a board none is."""
    homes = {entry.home.partition(":")[0] for entry in ENGINES.values() if entry.needs_torch}
    naming = {path.stem for path in (ROOT / "runtime").rglob("*.py") if _names_torch(path)}
    assert naming == homes
    for path in (ROOT / "runtime").rglob("*.py"):
        imported = {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not {home for home in homes for module in imported if module and module.endswith(home)}, path


def _names_torch(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if {name.split(".")[0] for name in names} & {"torch", "torchvision"}:
            return True
    return False


@pytest.mark.parametrize("package", [name for name in FIELD if (ROOT / name).is_dir() and name != "runtime"])
def test_the_field_names_no_torch(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not _names_torch(path), path


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_those_of_all(name: str) -> None:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert name.rsplit(".", 1)[-1] in ("cli", "mobilenets"), f"{name} has no __all__"
        return
    assert len(set(listed)) == len(listed)
    assert [n for n in listed if not hasattr(module, n)] == []


def _modules_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return {name.split(".")[0] for name in printed.stdout.split()}


@pytest.mark.parametrize("module", [f"mobilenets.{name}" for name in FIELD])
def test_importing_the_field_brings_neither_torch_nor_an_engine(module: str) -> None:
    assert not _modules_after(f"import {module}") & NOT_ON_IMPORT


def test_importing_arch_brings_no_numpy() -> None:
    assert not _modules_after("import mobilenets.arch") & {"numpy", "torch", "PIL"}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_below_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_there_is_no_pickle_and_no_unsafe_load() -> None:
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import pickle" not in text, path
        assert "torch.load(" not in text or "weights_only=True" in text, path


def test_only_the_command_line_exits() -> None:
    for path in ROOT.rglob("*.py"):
        if _package_of(path) not in ("cli", "__main__") and "worker" not in path.name:
            assert "sys.exit(" not in path.read_text(encoding="utf-8"), path
