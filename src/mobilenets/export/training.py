"""A bundle trained further so that its int8 file is right: what `mobilenets quantize --qat` does before it exports."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from ..bundle import Bundle
from ..data import Dataset, prepared
from ..metrics import top_k_accuracy
from ..progress import say
from ..records import Gate
from ..runtime import open_artifact, run_batches
from ..train import CrossEntropy, MakeObjective, Outcome, Recipe
from ..train.loop import Resume
from ..train.run import train_run
from ..train.validate import check_same_labels, validate_bundle
from .artifact import GATE_BATCH, write_ungated
from .gate import Limits, check
from .images import calibration_images
from .int8 import starting_ranges
from .int8.aware import int8_aware

__all__ = ["Int8Scores", "check_scores", "train_for_int8"]


class Int8Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Top-1 on the validation images, in [0, 1]."""

    float_before: float
    int8_before: float  # quantised after training, as well as that goes
    float_after: float  # of the weights that were trained for int8, in float32
    int8_after: float  # of their twin, which rounds as the file does
    n: int  # images

    def described(self) -> str:
        """In one line."""
        return (
            f"validation top-1: float32 {100 * self.float_before:.2f} %, its int8 {100 * self.int8_before:.2f} %;"
            f" trained for int8 {100 * self.int8_after:.2f} %, those weights in float32 {100 * self.float_after:.2f} %"
            f" ({self.n} images)"
        )


def train_for_int8(
    bundle: Bundle,
    dataset: Dataset,
    recipe: Recipe,
    *,
    out: Path,
    objective: MakeObjective = CrossEntropy,
    device: str = "auto",
    resume: Resume = "never",
    keep_mirror: bool = False,
    command: str = "",
) -> tuple[Outcome, Int8Scores | None]:
    """Train a bundle through the roundings of its int8 file (`int8.aware`), and leave everything about it in `out`.

    What comes out are ordinary bundles of float32 weights; their history holds the ranges, and exporting them as int8
    takes those. Validation, and with it the choice of the best weights, is int8's.

    Args:
        bundle: a trained network of convolutions.
        dataset: with "train" and "val" and the labels of the bundle.
        recipe: how. A low rate does: the network knows its task. bfloat16 blurs the roundings that are to be learned.
            Norms keep their statistics, for ranges belong to them: `recalibrate` is 0 where it is "auto".
        out: the run's folder.
        objective: what is learned: the labels, or a teacher's answers.
        device: "auto", "cpu", "cuda", ...
        resume: go on from the checkpoint in `out`: never, if there is one, or it must be there.
        keep_mirror: mirror as the recipe says, also where the data set says that mirrored images are others.
        command: what a person typed, for `args.yaml`.

    Returns:
        What training made, and the scores; None where it was interrupted.

    Raises:
        UsageError: the data has other labels, or there is nothing to resume.
        SpecError: the network has parts that an int8 file does not compute in bytes.
        DataError: images that cannot be used.
        CheckError: the loss is no longer a number.
    """
    check_same_labels(bundle, dataset)
    images = calibration_images(dataset, bundle.preprocess)
    before = validate_bundle(bundle, dataset, split="val", device=device).top1
    validation = prepared(dataset, "val", bundle.preprocess)
    with tempfile.TemporaryDirectory() as folder:
        write_ungated(bundle, Path(folder) / "int8", precision="int8", calibration=images)
        answered = run_batches(open_artifact(Path(folder) / "int8").engine, validation.images, batch_size=GATE_BATCH)
    int8_before = top_k_accuracy(answered, validation.targets, k=1)
    say(f"before: top-1 {100 * before:.2f} % in float32, {100 * int8_before:.2f} % in int8")
    kept = msgspec.structs.replace(recipe, recalibrate=0) if recipe.recalibrate == "auto" else recipe
    outcome = train_run(
        bundle,
        dataset,
        kept,
        out=out,
        device=device,
        resume=resume,
        keep_mirror=keep_mirror,
        command=command,
        objective=int8_aware(starting_ranges(bundle, images), objective),
    )
    if not outcome.finished:
        return outcome, None
    scores = Int8Scores(
        float_before=before,
        int8_before=int8_before,
        float_after=validate_bundle(outcome.best, dataset, split="val", device=device).top1,
        int8_after=outcome.top1,
        n=len(validation.targets),
    )
    say(scores.described())
    return outcome, scores


def check_scores(scores: Int8Scores) -> None:
    """Whether training for int8 was worth it: against the float32 network that it began with, not its own weights.

    Raises:
        GateError: int8 is a point or more below it.
    """
    drop = Gate(
        name="accuracy_drop_since_before_training",
        value=scores.float_before - scores.int8_after,
        limit=Limits.of("int8").drop,
        passes="at_most",
        n=scores.n,
        on="val",
    )
    check((drop,), what="training for int8")
