"""What verbs that train have in common: options, where they start, their recipe and teacher, and the run's folder."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .params import DURATION, SETTING

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..train import Distillation, Recipe

__all__ = [
    "DEVICE",
    "FINE_TUNE_LR",
    "FINE_TUNING_OPTIONS",
    "RECIPE_OPTIONS",
    "SELF",
    "TUNING_OPTIONS",
    "fine_tuning",
    "for_weights",
    "go_on",
    "kept_run",
    "left_only_full",
    "lesson_of",
    "one_folder",
    "recipe_of",
    "run_folder",
    "run_options",
    "started_from",
    "teacher_of",
    "teacher_options",
    "together",
    "unused",
]

SELF: Final = "self"  # as --teacher: the network as it was before it was cut
FINE_TUNE_LR: Final = 0.1  # after a cut, for a batch of 256: a quarter of what begins from nothing
EMBEDDINGS: Final = {"embedding": "cosine", "embedding:squared": "squared"}  # words of --match -> distances
F = TypeVar("F", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which --help shows them."""

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


SET: Final = click.option(
    "--set", "settings", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of it; may be repeated."
)
RECIPE: Final = click.option(
    "--recipe", metavar="R", help="v1, v2, v3, v4 (the papers'), short, or a file of YAML.  [default: short]"
)
DEVICE: Final = click.option(
    "--device", default="auto", show_default=True, metavar="D", help="auto, cpu, cuda, cuda:1, mps."
)
RECIPE_OPTIONS: Final = together(
    click.option("--epochs", type=float, metavar="E", help="Passes over the images.  [default: the recipe's, 30]"),
    click.option(
        "--time", "seconds", type=DURATION, metavar="T", help="Instead of --epochs: 90s, 25m, 1.5h, or seconds."
    ),
    click.option("--batch-size", type=int, metavar="N", help="Images per step.  [default: the recipe's, 128]"),
    click.option("--lr", type=float, help="Learning rate for a batch of 256.  [default: 0.4; from weights 0.04]"),
    click.option("--seed", type=int, help="Of weights and every draw; splits stay the same.  [default: 0]"),
    RECIPE,
    SET,
)
FINE_TUNING_OPTIONS: Final = together(
    RECIPE,
    click.option(
        "--lr", type=float, help=f"Learning rate for a batch of 256.  [default: the recipe's; {FINE_TUNE_LR}]"
    ),
    SET,
)

TUNING_OPTIONS: Final = together(
    click.option("--probe", is_flag=True, help="First see, for 20 s, which precision and threads are fastest here."),
    click.option("--compile", "compiled", is_flag=True, help="Use torch.compile if faster; says what it costs."),
)


def teacher_options(who: str) -> Callable[[F], F]:
    """What `lesson_of` reads; `who` says in --help what a teacher may be."""
    return together(
        click.option("--teacher", metavar="T", help=f"Learn from it too: {who}."),
        click.option(
            "--temperature", type=float, metavar="T", help="That softens both networks' answers.  [default: 4]"
        ),
        click.option(
            "--teacher-weight", type=float, metavar="W", help="Of its answers; labels have the rest.  [default: 0.9]"
        ),
        click.option(
            "--match",
            metavar="M",
            help="Match its maps at reductions: 8,16; or its embedding: embedding; or all.  [default: none]",
        ),
    )


def run_options(verb: str, *, named: str = "MODEL-DATA") -> Callable[[F], F]:
    """Where the run of a verb goes, whether it goes on, and how it is told."""
    return together(
        click.option(
            "-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="The run's folder, a new one."
        ),
        click.option("--name", metavar="NAME", help=f"Its name below runs/{verb}/.  [default: {named}]"),
        click.option("--resume", is_flag=True, help="Go on in the folder of -o, or in the newest run of that name."),
        click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON object."),
    )


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


def fine_tuning(
    name: str | None, settings: dict[str, str], *, epochs: float, lr: float | None, usual: float = FINE_TUNE_LR
) -> Recipe:
    """`recipe_of` for a network that knows its task already: the usual recipe at a lower rate, unless one was named.

    Args:
        name: of a recipe, or its file; None: the usual one.
        settings: of --set.
        epochs: of --epochs.
        lr: of --lr.
        usual: the rate where nothing else says one.

    Raises:
        click.UsageError: two options say the same thing.
        RecipeError: no such recipe, or a field that cannot be.
    """
    rate = usual if lr is None and name is None and "lr" not in settings else lr
    return recipe_of(name, settings, {"epochs": epochs, "lr": rate})


def for_weights(
    followed: Recipe, start: str | Bundle, *, name: str | None, settings: dict[str, str], lr: float | None
) -> Recipe:
    """The recipe at a lower rate where training goes on from weights; as it is where somebody said a rate, or a recipe.

    The usual rate would undo in its first steps what they know.

    Args:
        followed: the recipe.
        start: a name, or trained weights.
        name: of a recipe, or its file, as it was typed.
        settings: of --set.
        lr: of --lr.
    """
    if isinstance(start, str) or name is not None or lr is not None or "lr" in settings:
        return followed
    from ..train import WEIGHTS_LR, with_settings

    click.echo(f"it goes on from weights: learning rate {WEIGHTS_LR:g} (--lr changes it)", err=True)
    return with_settings(followed, {"lr": WEIGHTS_LR})


def lesson_of(
    teacher: str | None, *, temperature: float | None, weight: float | None, match: str | None
) -> tuple[str, Distillation] | None:
    """Who teaches, as it was typed, and what is learned from it; None for labels alone.

    Raises:
        click.UsageError: something is said about a teacher that there is not.
        RecipeError: a number that cannot be.
    """
    from ..train import Distillation

    given: dict[str, Any] = {"temperature": temperature, "weight": weight, "features": match}
    given = {key: value for key, value in given.items() if value is not None}
    if teacher is None:
        if given:
            raise click.UsageError("--temperature, --teacher-weight and --match are about a --teacher; give one")
        return None
    if match is not None:
        given |= _matched(match)
    return teacher, Distillation(**given)


def _matched(text: str) -> dict[str, Any]:
    """Fields of a `Distillation` from --match.

    Raises:
        click.BadParameter: it is neither reductions nor an embedding, or says one twice.
    """
    words = text.split(",")
    embeddings = [word for word in words if word in EMBEDDINGS]
    try:
        features = tuple(int(word) for word in words if word not in EMBEDDINGS)
        if len(embeddings) > 1:
            raise ValueError
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: write reductions with commas, such as 8,16, and {' or '.join(EMBEDDINGS)}, at most once",
            param_hint="--match",
        ) from error
    return {"features": features, **({"embedding": EMBEDDINGS[embeddings[0]]} if embeddings else {})}


def teacher_of(name: str) -> Bundle:
    """The bundle of a teacher, read or imported.

    Raises:
        UsageError: no such network, or one that cannot be imported.
    """
    from ..bundle import is_bundle
    from ..errors import UsageError

    if is_bundle(Path(name)) or _names_weights(name) or Path(name).is_file():
        from ..weights import trained_weights

        return trained_weights(name)
    raise UsageError(
        f"the teacher {name} is no bundle",
        wanted="the folder of a bundle, a checkpoint's file, timm:NAME, torchvision:NAME or hf:OWNER/NAME",
        do="give a trained network; mobilenets import brings those of other libraries",
    )


def _names_weights(name: str) -> bool:
    """Whether it is the name of published weights: timm:NAME, torchvision:NAME, hf:OWNER/NAME."""
    return name.startswith(("timm:", "torchvision:", "hf:"))


def started_from(model: str) -> str | Bundle:
    """A name or a table's file as it was typed, or the bundle or checkpoint that is meant, read or imported.

    Raises:
        UsageError: an artifact, which cannot be trained; or weights that cannot be fetched.
        MobileNetsError: no such model, a folder that is no whole bundle, or a checkpoint that is not known.
    """
    from ..arch import find
    from ..bundle import is_bundle, read_bundle
    from ..errors import MobileNetsError, UsageError

    path = Path(model)
    if is_bundle(path) or _names_weights(model) or (path.is_file() and path.suffix not in (".json", ".yaml")):
        from ..weights import trained_weights

        return trained_weights(model)
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


def one_folder(out: Path | None, name: str | None) -> None:
    """Told before anything is read.

    Raises:
        click.UsageError: both say where the run goes.
    """
    if out is not None and name is not None:
        raise click.UsageError("-o and --name both name the folder; give one")


def run_folder(verb: str, label: str, *, out: Path | None, resume: bool) -> Path:
    """The folder of a run: `out`, or one below runs/VERB/; a new one, or that of the run that goes on.

    Raises:
        UsageError: a new one is asked for and something is in it, or none to go on with is there.
    """
    from ..runs import new_run_folder, newest_run_folder

    if resume:
        return out or newest_run_folder(verb, label)
    return unused(out) if out is not None else new_run_folder(verb, label)


@contextlib.contextmanager
def kept_run(folder: Path, again: str, *, sign: str, what: str) -> Iterator[None]:
    """Around what fills a run's folder: one that never began is removed, and Ctrl-C says how to go on.

    Args:
        folder: of the run.
        again: the command, as `params.typed_again` has it.
        sign: the file whose presence means that there is something to go on with.
        what: is kept then, in words.
    """
    with left_only_full(folder):
        try:
            yield
        except KeyboardInterrupt:
            if (folder / sign).is_file():
                click.echo(f"{what} is kept. To go on: {go_on(again, folder)}", err=True)
            raise


@contextlib.contextmanager
def left_only_full(folder: Path) -> Iterator[None]:
    """Around what fills a folder: where it fails, an empty one is removed again."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something is in it, or it was never made
            folder.rmdir()
        raise


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
