"""`mobilenets export --format timm|torchvision|transformers`: the weights by another library's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..weights import Library

__all__ = ["LIBRARIES", "export_weights"]

LIBRARIES: tuple[Library, ...] = ("timm", "torchvision", "transformers")
LOADERS = {
    ".safetensors": ("from safetensors.torch import load_file", "load_file({path!r})"),
    ".pth": ("", "torch.load({path!r}, weights_only=True)"),
}


def export_weights(bundle: Path, *, library: Library, out: Path | None, as_json: bool) -> None:
    """Write the state dict, and print the lines of Python that load it.

    Raises:
        UsageError: the library has no such network, or `out` names no kind of file.
        GateError: the library answers differently.
    """
    from ..bundle import read_bundle
    from ..runs import new_run_folder, run_name
    from ..weights import offer, write_state_dict

    read = read_bundle(bundle)
    offer(read.spec, library=library)  # refuses before a folder is made
    if out is None:
        out = new_run_folder("export", run_name(read.spec.name, library)) / "model.safetensors"
    offered, difference = write_state_dict(read, out, library=library)
    lines = _lines(offered.code, out, library=library)
    if as_json:
        content = {
            "file": str(out),
            "library": library,
            "bundle_digest": read.digest,
            "python": lines,
            "difference": difference,
        }
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    said = (
        f"not checked, for {library} is not installed here"
        if difference is None
        else f"{library} loads it and gives the same logits, to {difference:.1e} of their size"
    )
    click.echo(f"{out}: weights by the names of {library}; {said}")
    click.echo("in Python:")
    for line in lines:
        click.echo(f"  {line}")


def _lines(code: str, file: Path, *, library: Library) -> list[str]:
    """What to type to have the model there."""
    importing, loading = LOADERS[".safetensors" if file.suffix.lower() == ".safetensors" else ".pth"]
    lines = ["from functools import partial"] if "partial(" in code else []
    if "torch." in code.replace("torchvision.", "") or "torch." in loading:
        lines.append("import torch")
    lines += [f"import {library}", *([importing] if importing else [])]
    return [*lines, f"model = {code}", f"model.load_state_dict({loading.format(path=str(file))}, strict=True)"]
