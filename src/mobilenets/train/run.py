"""A training run from a data set to a folder: what `mobilenets train` does.

out/  args.yaml  results.csv  classes.csv  curves.png  confusion.png  samples.png  best/  last/  checkpoint.safetensors
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from ..arch import ArchSpec
from ..bundle import Bundle
from ..data import Dataset, prepared, store
from ..errors import UsageError
from ..files import write_text
from ..progress import say
from ..records import Environment, Preprocess
from .choose import adapted, explain_choice, native_side, preprocess_for, recipe_for, spec_for, store_side
from .judge import EvalPixels
from .loop import Resume, train
from .machine import pick_device
from .objective import CrossEntropy, MakeObjective
from .outcome import Outcome
from .recipe import Recipe
from .results import results_csv, write_results
from .team import join_team
from .transfer import frozen_rows
from .way import AS_IT_IS, Tuning

__all__ = ["train_run"]

PACKAGES = ("mobilenets", "torch", "numpy", "pillow")


def train_run(
    start: str | ArchSpec | Bundle,
    dataset: Dataset,
    recipe: Recipe,
    *,
    out: Path,
    alpha: float | None = None,
    resolution: int | None = None,
    device: str = "auto",
    resume: Resume = "never",
    keep_mirror: bool = False,
    command: str = "",
    objective: MakeObjective = CrossEntropy,
    tuning: Tuning = AS_IT_IS,
) -> Outcome:
    """Train on a data set and leave everything about it in `out`.

    What is decided from the images (resolution, strides, no mirroring of digits and letters) is said on standard
    error. `results.csv` is written after each validation, pictures at the end. Under `torchrun` every process calls
    this alike, with a folder that all see; the first one writes.

    Args:
        start: a model's name, the path of a spec's `.json`, a table, or a bundle to go on from. Of a bundle everything
            is kept, but for the classifier where the labels or the task are others.
        dataset: with "train" and "val"; "test" is not looked at.
        recipe: how.
        out: the run's folder.
        alpha: width multiplier; None: the start's.
        resolution: input side in pixels; None: the name's, else the images' where they are small, else the table's.
        device: "auto", "cpu", "cuda", ...
        resume: go on from the checkpoint in `out`: never, if there is one, or it must be there.
        keep_mirror: mirror as the recipe says, also where the data set says that mirrored images are others.
        command: what a person typed, for `args.yaml`.
        objective: makes what is learned from a batch.
        tuning: what is tried for speed before the first step.

    Raises:
        UsageError: what is asked for does not go together, or there is nothing to resume.
        DataError: images that cannot be used.
        CheckError: the loss is no longer a number.
    """
    side = native_side(dataset)
    pick_device(device)  # a wrong one is told before anything is decoded or written
    begin, preprocess = _begin(start, dataset, alpha=alpha, resolution=resolution, side=side)
    spec = begin.spec if isinstance(begin, Bundle) else begin
    frozen_rows(spec, recipe.freeze)  # likewise
    followed = recipe if keep_mirror else recipe_for(recipe, dataset)
    if followed != recipe:
        say(f"mirroring is off: in {dataset.name} a mirrored image is not of its class; mirror=true keeps it on")
    team = join_team()
    with team.leader_first():
        kept = store(dataset, "train", side=store_side(spec, native_side=side), channels=spec.channels)
        validation = prepared(dataset, "val", preprocess)
    if found := (*kept.problems, *validation.problems):
        say(dataset.summary.with_problems(found).describe())
    if team.leads and (resume == "never" or (resume == "if_there" and not (out / "args.yaml").exists())):
        _write_args(out, begin, dataset, followed, device=device, command=command)
    outcome = train(
        begin,
        kept,
        EvalPixels(images=validation.images, targets=validation.targets),
        followed,
        labels=dataset.labels,
        task=dataset.task,
        preprocess=preprocess,
        out=out,
        data_digest=dataset.digest,
        device=device,
        resume=resume,
        objective=objective,
        tuning=tuning,
        on_row=lambda rows: write_text(out / "results.csv", results_csv(rows)),
    )
    # An interrupted run validates once more, and a finished one that is resumed not at all.
    if team.leads:
        write_text(out / "results.csv", results_csv(outcome.rows))
        write_results(out, outcome, validation, device=device)
    return outcome


def _begin(
    start: str | ArchSpec | Bundle, dataset: Dataset, *, alpha: float | None, resolution: int | None, side: int | None
) -> tuple[ArchSpec | Bundle, Preprocess]:
    """What training starts from, with the classes of the data, and how its images are prepared."""
    classes = len(dataset.labels)
    if isinstance(start, Bundle):
        if alpha is not None:
            raise UsageError(
                f"alpha is {alpha:g} for a bundle of {start.spec.name}",
                wanted="the width its weights have",
                do="leave alpha away, or start from a name",
            )
        bundle = adapted(start, dataset, resolution=resolution)
        say(f"going on from a bundle of {start.spec.name} at {bundle.spec.resolution} pixels")
        if bundle.labels != start.labels or bundle.task != start.task:
            what = "classes are" if bundle.task == start.task else "classes are for another task, or"
            say(f"its {len(start.labels)} {what} others: the classifier begins anew with {classes}")
        return bundle, bundle.preprocess
    spec = spec_for(start, alpha=alpha, resolution=resolution, native_side=side, classes=classes)
    say(explain_choice(start, spec, native_side=side))
    return spec, preprocess_for(spec, native_side=side)


def _write_args(
    out: Path, begin: ArchSpec | Bundle, dataset: Dataset, recipe: Recipe, *, device: str, command: str
) -> None:
    """Everything that was decided, for a person, before the first step."""
    spec = begin.spec if isinstance(begin, Bundle) else begin
    content = {
        "command": command,
        "model": spec.name,
        "spec_digest": spec.digest,
        "bundle_digest": begin.digest if isinstance(begin, Bundle) else None,
        "resolution": spec.resolution,
        "channels": spec.channels,
        "task": dataset.task,
        "classes": len(dataset.labels),
        "data": dataset.summary.source,
        "data_digest": dataset.digest,
        "images": {split: len(images) for split, images in dataset.splits.items()},
        "device": device,
        "recipe": msgspec.to_builtins(recipe),
        "environment": msgspec.to_builtins(Environment.capture(packages=PACKAGES)),
    }
    write_text(out / "args.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
