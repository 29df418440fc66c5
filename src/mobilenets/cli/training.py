"""What verbs that train have in common: where they start, their recipe, and the folder of the run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .params import is_bundle

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..train import Recipe

__all__ = ["go_on", "recipe_of", "started_from", "unused"]


def recipe_of(name: str | None, settings: dict[str, str], options: dict[str, Any]) -> Recipe:
    """The recipe of that name or file, then --set, then the options of their own.

    Raises:
        click.UsageError: two of them say the same thing.
        RecipeError: no such recipe, or a field that cannot be.
    """
    from ..train import RECIPES, named_recipe, read_recipe, with_settings

    given = {key: value for key, value in options.items() if value is not None}
    if "epochs" in given and "seconds" in given:
        raise click.UsageError("--epochs and --time both say how long; give one")
    if twice := sorted(settings.keys() & given.keys()):
        raise click.UsageError(f"--set {twice[0]} repeats an option; give one of them")
    chosen = "short" if name is None else name
    begun = named_recipe(chosen) if chosen in RECIPES else read_recipe(Path(chosen))
    return with_settings(begun, {**settings, **given})


def started_from(model: str) -> str | Bundle:
    """A name or a table's file as it was typed, or the bundle that is meant.

    Raises:
        UsageError: an artifact, which cannot be trained.
        MobileNetsError: no such model, or a folder that is no whole bundle.
    """
    from ..arch import find
    from ..bundle import read_bundle
    from ..errors import MobileNetsError, UsageError

    path = Path(model)
    if is_bundle(path):
        return read_bundle(path)
    if (path / "artifact.json").is_file() or path.name == "artifact.json":
        raise UsageError(
            f"{model} is an artifact", wanted="a bundle, a name or a table", do="give the bundle it was exported from"
        )
    try:
        find(model)  # a wrong name is told before images are read
    except MobileNetsError:
        if path.is_dir():
            return read_bundle(path)  # says what is missing there
        raise
    return model


def unused(out: Path) -> Path:
    """A folder that is new or empty.

    Raises:
        UsageError: something is in it, or it is a file.
    """
    from ..errors import UsageError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} holds something already", wanted="a new folder", do="name another, or give --resume")
    return out


def go_on(again: str, folder: Path) -> str:
    """What to type to resume in `folder` the command `again` (`params.typed_again`)."""
    return f"{again} --resume -o {shlex.quote(str(folder))}"
