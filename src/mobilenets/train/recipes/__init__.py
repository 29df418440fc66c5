"""Recipes that have a name, as YAML in this folder, and recipes from files of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ...errors import RecipeError, UnknownNameError
from ..recipe import Recipe

__all__ = ["RECIPES", "RecipeName", "named_recipe", "read_recipe", "with_settings"]

RecipeName = Literal["v1", "v2", "v3", "v4", "short"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)


def named_recipe(name: str) -> Recipe:
    """One of `RECIPES`: a paper's, or the short-budget one that is the default.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, known=RECIPES)
    file = resources.files(__package__).joinpath(f"{name}.yaml")
    return _parse(file.read_text(encoding="utf-8"), where=f"the recipe {name}")


def read_recipe(path: Path) -> Recipe:
    """A recipe from YAML or JSON.

    Raises:
        RecipeError: unreadable, or not a recipe; names the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"cannot read {path}: {error}",
            wanted=f"a file of YAML or JSON, or one of the names {', '.join(RECIPES)}",
            do="check the path",
        ) from error
    return _parse(text, where=str(path))


def with_settings(recipe: Recipe, settings: dict[str, Any]) -> Recipe:
    """The recipe with some fields replaced, checked like one read from a file.

    Values may be text ("0.5", "true", "0.3,0.6"). Setting `epochs` takes `seconds` away, and the other way round.

    Raises:
        RecipeError: an unknown field, or a value that cannot be.
    """
    given = dict(settings)
    if isinstance(given.get("milestones"), str):
        given["milestones"] = [part.strip() for part in given["milestones"].strip("[]()").split(",")]
    if isinstance(given.get("freeze"), int):  # as YAML reads a number of stages
        given["freeze"] = str(given["freeze"])
    content = {**msgspec.to_builtins(recipe), **given}
    for one, other in (("epochs", "seconds"), ("seconds", "epochs")):
        if given.get(one) is not None and other not in given:
            content[other] = None
    try:
        return msgspec.convert(content, Recipe, strict=False)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, RecipeError):
            raise error.__cause__ from None
        known = ", ".join(Recipe.__struct_fields__)
        raise RecipeError(f"not a recipe: {error}", wanted=f"the fields {known}", do="correct that field") from None


def _parse(text: str, *, where: str) -> Recipe:
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"cannot read {where}: {error}", wanted="YAML or JSON", do="check the file") from error
    if not isinstance(content, dict):
        raise RecipeError(
            f"{where} holds {type(content).__name__}", wanted="fields and values", do="write `epochs: 10`"
        )
    if "epochs" not in content and "seconds" not in content:
        raise RecipeError(f"{where} has neither epochs nor seconds", wanted="one of them", do="add `epochs: 10`")
    return with_settings(Recipe(epochs=1.0), content)
