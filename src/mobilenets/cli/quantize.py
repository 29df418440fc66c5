"""`mobilenets quantize`: int8 that is as right as float32 and faster, or no file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .artifacts import gate_images_of, is_fp32_of, replaceable
from .params import SETTING, typed_again
from .training import DEVICE, SELF, fine_tuning, left_only_full, lesson_of, run_folder, teacher_of, teacher_options

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..data import Dataset
    from ..export import Calibrate, Quantized
    from ..export.training import Int8Scores
    from ..records import Artifact
    from ..train import Distillation, MakeObjective, Recipe

__all__ = ["command"]

QAT_LR = 0.02  # for a batch of 256: what is learned are roundings, by a network that knows its task


@click.command(name="quantize", short_help="Make an int8 file that is as right as float32, and faster.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the artifact.")
@click.option(
    "--calibration",
    type=click.Choice(("auto", "minmax", "percentile", "entropy")),
    default="auto",
    show_default=True,
    help="How ranges are found; auto tries ways on images held back.",
)
@click.option("--threads", type=int, metavar="N", help="For measuring speed.  [default: the cores, at most 4]")
@click.option("--qat", "epochs", type=float, metavar="E", help="Train so long through int8's roundings before.")
@click.option("--recipe", metavar="R", help="Of --qat: v1, v2, v3, v4, short, or a file of YAML.  [default: short]")
@click.option("--lr", type=float, help=f"Its rate for a batch of 256.  [default: the recipe's; {QAT_LR}]")
@click.option("--set", "settings", type=SETTING, multiple=True, metavar="KEY=VALUE", help="One field of the recipe.")
@teacher_options("a bundle, timm:NAME, torchvision:NAME, or self for BUNDLE as it is")
@DEVICE
@click.option("--name", metavar="NAME", help="Of the training below runs/quantize/.  [default: MODEL-DATA]")
@click.option("--resume", is_flag=True, help="Go on with the newest training of that name.")
@click.option("--json", "as_json", is_flag=True, help="The record, gates and trials as one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    bundle: Path,
    data: str,
    out: Path | None,
    calibration: Calibrate,
    threads: int | None,
    epochs: float | None,
    recipe: str | None,
    lr: float | None,
    settings: tuple[tuple[str, str], ...],
    teacher: str | None,
    temperature: float | None,
    teacher_weight: float | None,
    match: str | None,
    device: str,
    name: str | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Make an int8 file that is as right as float32, and faster.

    BUNDLE is a folder that `mobilenets train` or `mobilenets import` wrote. Training images of DATA tell the ranges of
    numbers; validation images are answered by the network and by the file, and both files are timed in turn. If int8
    loses more than a point of accuracy, or is not faster, there is no file, and the exit code is 1.

    \b
    Try what there is to try, keep the best:
        mobilenets quantize runs/train/mobilenet_v3_small-flowers/best flowers/ -o rose-int8

    \b
    One way, without trials:
        mobilenets quantize runs/train/mobilenet_v2-flowers/best flowers/ --calibration minmax

    \b
    Where int8 loses too much, with training that rounds as the file does (works with a teacher):
        mobilenets quantize runs/train/mobilenet_v3_small-flowers/best flowers/ --qat 5 --teacher self

    --qat leaves an ordinary bundle in runs/quantize/NAME/best, with the ranges in its history: every later export as
    int8 takes them. Its int8 is also held against BUNDLE's own float32. Once stopped (Ctrl-C keeps everything), the
    same command with --resume goes on.

    The file is ONNX, for ONNX Runtime. The float32 artifact it was measured against stays beside it (here: rose-fp32).
    Without -o, the folder is runs/export/NAME-int8.
    """
    from ..bundle import read_bundle
    from ..data import open_dataset
    from ..records import only_classifiers
    from ..runs import new_run_folder, run_name

    lesson = lesson_of(teacher, temperature=temperature, weight=teacher_weight, match=match)
    if epochs is None:
        _only_for_qat(recipe=recipe, lr=lr, set=settings, teacher=teacher, name=name, resume=resume)
    elif calibration != "auto":
        raise click.UsageError("--qat trains the ranges, and --calibration finds others; give one")
    folder = None if out is None else replaceable(out)
    read = read_bundle(bundle)
    only_classifiers(read.task, what="quantize")
    dataset = open_dataset(data)
    scores = trained = None
    if epochs is not None:
        trained = run_folder("quantize", name or run_name(read.spec.name, dataset.name), out=None, resume=resume)
        made = _trained(
            read,
            dataset,
            _recipe(recipe, dict(settings), epochs=epochs, lr=lr),
            lesson,
            folder=trained,
            device=device,
            resume=resume,
            keep_mirror="mirror" in dict(settings),
            again=_again(context, out=out, name=name),
        )
        if made is None:
            context.exit(130)
        read, scores = made
    images = gate_images_of(read, dataset)
    folder = folder or new_run_folder("export", run_name(read.spec.name, "int8"))
    beside = folder.with_name(folder.name.removesuffix("-int8") + "-fp32")
    with left_only_full(folder):  # a refused one leaves no empty folder behind
        from ..export import export, export_int8
        from ..export.images import calibration_images
        from ..progress import say

        if not is_fp32_of(read, beside, format_="onnx"):
            export(read, replaceable(beside), images=images)
            say(f"float32 for comparison: {beside}")
        artifact, quantized = export_int8(
            read,
            folder,
            images=images,
            calibration_images=calibration_images(dataset, read.preprocess),
            calibration=calibration,
            faster_than=beside,
            threads=threads,
        )
    if as_json:
        content = _content(folder, beside, artifact, quantized, scores=scores, trained=trained)
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
        return
    from ..export import describe

    click.echo(f"{folder}: {artifact.file}, int8, {artifact.size_mb:.3f} MB; it passed")
    click.echo(describe(artifact))
    click.echo(f"made by: {quantized.kept.described()}")
    if scores is not None and trained is not None:
        click.echo(scores.described())
        click.echo(f"trained for int8: {trained / 'best'}")
    click.echo(f"beside it, as float32: {beside}")
    click.echo(f"next: {shlex.join(['mobilenets', 'bench', str(beside), str(folder)])}")


def _only_for_qat(**given: object) -> None:
    if named := [option for option, value in given.items() if value not in (None, (), False)]:
        raise click.UsageError(f"--{named[0]} is about training; give --qat EPOCHS with it")


def _recipe(name: str | None, settings: dict[str, str], *, epochs: float, lr: float | None) -> Recipe:
    """The usual recipe at a low rate, unless one was named; in float32, for bfloat16 has no more digits than a byte."""
    precise = settings if "precision" in settings else {**settings, "precision": "fp32"}
    return fine_tuning(name, precise, epochs=epochs, lr=lr, usual=QAT_LR)


def _again(context: click.Context, *, out: Path | None, name: str | None) -> str:
    """What to type to go on with the training: -o names the artifact here, and not the run."""
    more = [*([] if out is None else ["-o", str(out)]), *([] if name is None else ["--name", name])]
    return shlex.join([*shlex.split(typed_again(context)), *more])


def _trained(
    bundle: Bundle,
    dataset: Dataset,
    recipe: Recipe,
    lesson: tuple[str, Distillation] | None,
    *,
    folder: Path,
    device: str,
    resume: bool,
    keep_mirror: bool,
    again: str,
) -> tuple[Bundle, Int8Scores] | None:
    """The bundle trained for int8, and what it scores; None where it was interrupted."""
    from ..export.training import check_scores, train_for_int8
    from ..train import CrossEntropy, check_teacher, distil

    with left_only_full(folder):
        objective: MakeObjective = CrossEntropy
        if lesson is not None:
            teacher = bundle if lesson[0] == SELF else teacher_of(lesson[0])
            check_teacher(teacher, dataset.labels, lesson[1])
            objective = distil(teacher, lesson[1])
        outcome, scores = train_for_int8(
            bundle,
            dataset,
            recipe,
            out=folder,
            objective=objective,
            device=device,
            resume="must" if resume else "never",
            keep_mirror=keep_mirror,
            command=again,
        )
    if scores is None:
        click.echo(f"stopped; nothing is lost. To go on: {again} --resume", err=True)
        return None
    check_scores(scores)
    return outcome.best, scores


def _content(
    folder: Path,
    beside: Path,
    artifact: Artifact,
    quantized: Quantized,
    *,
    scores: Int8Scores | None,
    trained: Path | None,
) -> dict[str, object]:
    from ..records import to_json

    qat = {} if scores is None else {"qat": {"bundle": str(trained and trained / "best"), **to_json(scores)}}
    return {
        "artifact": str(folder),
        "fp32": str(beside),
        **to_json(artifact),
        "gates": [{**to_json(gate), "passed": gate.passed} for gate in artifact.gates],
        "kept": to_json(quantized.kept),
        "trials": [to_json(trial) for trial in quantized.trials],
        **qat,
    }
