"""The training loop: start + data + recipe -> Bundle. Stops cleanly, goes on where it was.

What is learned from a batch is an `Objective`; here are the order of the batches, the schedule, the averaged weights,
checkpoints and survival.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arch.spec import ArchSpec
from ..bundle import Bundle, read_bundle
from ..errors import CheckError, UsageError
from ..files import digest_of
from ..nets import tensors_of
from ..records import Preprocess, Task
from ..tasks import TASKS
from .begin import begin
from .checkpoint import (
    CHECKPOINT_NAME,
    Progress,
    Resume,
    Row,
    check_identity,
    goes_on,
    load_checkpoint,
    row_of,
    save_checkpoint,
)
from .clock import Clock
from .forward import forward_all
from .interrupt import stop_on_interrupt
from .judge import EvalPixels
from .learner import Learner
from .loader import Batches, Drawn, TrainPixels
from .machine import keep_freed_memory, memory_explained, on_threads, pick_device
from .objective import CrossEntropy, MakeObjective
from .outcome import Outcome
from .probe import find_way
from .recipe import Recipe
from .team import join_team
from .way import AS_IT_IS, Tuning, precision_name

__all__ = ["EvalPixels", "Resume", "train"]

CHECKPOINT_SECONDS = 30.0
EVAL_SHARE = 0.1  # of the time at most goes into validation, the last one apart
LINE_SECONDS = 15.0
LOWERED = 0.3  # of the rate, where it made numbers that are none


def train(
    start: ArchSpec | Bundle,
    pixels: TrainPixels,
    validation: EvalPixels,
    recipe: Recipe,
    *,
    labels: tuple[str, ...],
    task: Task = "classify",
    preprocess: Preprocess,
    out: Path,
    data_digest: str = "",
    device: str = "auto",
    resume: Resume = "never",
    objective: MakeObjective = CrossEntropy,
    tuning: Tuning = AS_IT_IS,
    on_row: Callable[[tuple[Row, ...]], None] | None = None,
) -> Outcome:
    """Train a network.

    Args:
        start: a table (fresh weights) or a bundle (its weights; the classifier is fresh where labels or tasks differ).
        pixels: the training images, as decoded.
        validation: prepared images that choose the best weights; never trained on.
        recipe: how.
        labels: class names, in the order of the targets.
        task: what is learned; it decides what targets are.
        preprocess: what validation was prepared with; gives resolution, mean and std.
        out: the run's folder: `checkpoint.safetensors`, and `best` and `last` as bundles when it ends or is stopped.
        data_digest: names the data, so that a resumed run refuses other data.
        device: "auto", "cpu", "cuda", ...
        resume: go on from the checkpoint in `out`: never, if there is one, or it must be there.
        objective: makes what is learned from a batch.
        tuning: what is tried for speed before the first step; the checkpoint keeps what was chosen.
        on_row: called with all rows after each validation.

    SIGINT or SIGTERM stops after the step at hand and keeps everything; the same call with resume goes on.

    Raises:
        UsageError: labels and classes disagree, there is nothing to resume, what is there is another run, it was
            compiled and cannot be here, the folder cannot be written, or memory runs out. Whatever was saved before is
            intact.
        DataError: an image cannot be drawn.
        CheckError: the loss is no longer a number, again after the rate was lowered once.
    """
    with memory_explained(recipe.batch_size), stop_on_interrupt() as stopped:
        run = _Run(start, pixels, validation, recipe, labels, task, preprocess, out, device, objective, tuning, resume)
        with on_threads(run.way.threads):
            run.prepare(data_digest)
            run.steps(stopped, on_row)
            return run.outcome()


class _DivergedError(Exception):
    """A loss, a weight or an answer is no longer a number."""


class _Run:
    """The state of one training; `train` is its only user."""

    def __init__(
        self,
        start: ArchSpec | Bundle,
        pixels: TrainPixels,
        validation: EvalPixels,
        recipe: Recipe,
        labels: tuple[str, ...],
        task: Task,
        preprocess: Preprocess,
        out: Path,
        device: str,
        objective: MakeObjective,
        tuning: Tuning,
        resume: Resume,
    ) -> None:
        self.start, self.recipe, self.validation = start, recipe, validation
        self.labels, self.task, self.preprocess, self.out = labels, task, preprocess, out
        self.spec = start.spec if isinstance(start, Bundle) else start
        if self.spec.head.classes != len(labels):
            raise UsageError(
                f"{self.spec.name} has {self.spec.head.classes} classes, the data {len(labels)}",
                wanted="the same number",
                do="use arch.with_classes on the spec",
            )
        keep_freed_memory()
        self.team = join_team()
        self.device = pick_device(device)
        before = goes_on(out, resume)
        self.batches = Batches(pixels, recipe, preprocess, rank=self.team.rank, world=self.team.world)
        network = begin(
            start, self.batches, labels=labels, task=task, preprocess=preprocess, seed=recipe.seed, device=self.device
        )
        learner = partial(
            Learner,
            batches=self.batches,
            recipe=recipe,
            labels=labels,
            task=task,
            preprocess=preprocess,
            objective=objective,
        )
        self.way = find_way(
            network, learner, recipe, tuning, before=before, device=self.device, batches=self.batches, team=self.team
        )
        self.learner = learner(network, dtype=self.way.dtype, compiled=self.way.compiled, team=self.team)
        self.tuning, self.going_on = tuning, before is not None
        self.stopped, self.stopping = threading.Event(), False
        self.progress = Progress(identity={})
        self.clock = Clock(0.0)
        self.saved = 0.0  # on the clock
        self.eval_seconds = 0.0
        self.data_digest = ""
        self.best: Bundle | None = None

    def prepare(self, data_digest: str) -> None:
        """Begin anew or from the checkpoint."""
        path = self.out / CHECKPOINT_NAME
        self.data_digest = data_digest
        identity = {
            "the model": self.spec.digest,
            "the recipe": self.recipe.digest,
            "what it starts from": self.start.digest,
            "the images": data_digest,
            "their labels": digest_of(list(self.labels)),
            "the objective": digest_of(self.learner.objective.identity),
        }
        if self.task != "classify":  # older checkpoints do not say it
            identity["the task"] = self.task
        if self.tuning.asked:
            identity["what was tried for speed"] = digest_of([self.tuning.probe, self.tuning.compile])
        self.progress = Progress(identity=identity, way=self.way if self.tuning.asked else None)
        if not self.going_on:
            return
        check_identity(path, identity)
        self.progress = load_checkpoint(path, self.learner.modules, self.learner.optimizer)
        best = self.out / "best"
        if self.progress.best_step >= 0 and best.exists():
            self.best = read_bundle(best)
        self.team.say(f"going on from step {self.progress.step}, after {self.progress.seconds:.0f} s of training")

    def steps(self, stopped: threading.Event, on_row: Callable[[tuple[Row, ...]], None] | None) -> None:
        """Train until the recipe's end or `stopped`."""
        self.clock, self.stopped = Clock(self.progress.seconds), stopped
        evaluated = self.progress.rows[-1].seconds if self.progress.rows else 0.0
        if not self.progress.step:
            self.save()  # what a divergence before the first checkpoint goes back to
        while not self.progress.finished and not self.stopping:
            try:
                done = self._rest_of_epoch()
                if self.stopping and not done:
                    break
                if done or (self.progress.seconds - evaluated) * EVAL_SHARE >= self.eval_seconds:
                    self._evaluate()
                    evaluated = self._now()
                    self.progress = msgspec.structs.replace(self.progress, seconds=evaluated, finished=done)
                    if on_row is not None and self.team.leads:
                        on_row(self.progress.rows)
                    self.save()
                elif self._due():
                    self.save()
            except _DivergedError:
                self._roll_back()
        if not self.progress.rows or (self.stopping and self.progress.rows[-1].step != self.progress.step):
            self._evaluate()
        self.save()

    def _rest_of_epoch(self) -> bool:
        """Learn from the batches of this epoch that are left; whether the run is done."""
        losses: list[Tensor] = []
        told = self.progress.seconds
        done = False
        for drawn in self.batches.epoch(self.progress.epoch, start=self.progress.batch):
            losses.append(self._step(drawn))
            self._advance(seconds=self._now())
            done = self._share() >= 1.0
            if done or self.stopping:
                break
            if self.progress.seconds - told > LINE_SECONDS:
                told = self.progress.seconds
                self._take(losses)
                self.team.say(self.progress.describe(share=self._share(), per_epoch=self.batches.per_epoch))
            if self.progress.batch and self._due():  # at the end of an epoch, validation may come first
                self._take(losses)
                self.save()
        self._take(losses)
        return done

    def _now(self) -> float:
        """Seconds of training; here, and nowhere else, a wish to stop is heard: a team does both together."""
        seconds, self.stopping = self.team.agree(self.clock.seconds, stop=self.stopped.is_set())
        return seconds

    def _due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.progress.seconds - self.saved > CHECKPOINT_SECONDS

    def _share(self) -> float:
        """How much of the run is done, in [0, 1]."""
        if self.recipe.epochs is not None:
            return min(1.0, self.progress.step / max(1, round(self.recipe.epochs * self.batches.per_epoch)))
        assert self.recipe.seconds is not None  # Recipe holds exactly one of the two
        # The last validation belongs to the time that was asked for.
        training = self.recipe.seconds - min(self.eval_seconds, self.recipe.seconds / 2)
        return min(1.0, self.progress.seconds / max(1e-6, training))

    def _step(self, drawn: Drawn) -> Tensor:
        step = self.progress.step
        done = self._share()
        factor = self.recipe.rate(done, epoch=step / self.batches.per_epoch)
        rate = self.recipe.peak_lr * factor * self.progress.lowered
        return self.learner.step(drawn, step=step, rate=rate, done=done)

    def _advance(self, *, seconds: float) -> None:
        step, epoch, batch = self.progress.step + 1, self.progress.epoch, self.progress.batch + 1
        if batch == self.batches.per_epoch:
            epoch, batch = epoch + 1, 0
        self.progress = msgspec.structs.replace(self.progress, step=step, epoch=epoch, batch=batch, seconds=seconds)

    def _take(self, losses: list[Tensor]) -> None:
        """Move losses from the device into the progress; here the host waits for the device, and nowhere else."""
        if not losses:
            return
        values = self.team.mean(torch.stack([*losses, self.learner.state_sum()]).float()).cpu()
        losses.clear()
        if not bool(torch.isfinite(values).all()):
            raise _DivergedError
        values = values[:-1]
        self.progress = msgspec.structs.replace(
            self.progress,
            loss_sum=self.progress.loss_sum + float(values.sum()),
            loss_count=self.progress.loss_count + len(values),
        )

    def _roll_back(self) -> None:
        """Go back to the last checkpoint with a lower rate, once.

        Raises:
            CheckError: that was done before.
        """
        step, path = self.progress.step, self.out / CHECKPOINT_NAME
        if self.progress.lowered < 1:
            raise CheckError(
                f"the loss or a weight is no longer a number near step {step}, though the rate was lowered to "
                f"{self.progress.lowered:g} of it at step {self.progress.lowered_at}",
                wanted="finite numbers",
                do=f"lower lr (now {self.recipe.lr:g}), set clip: 1.0 or a longer warmup, or look for odd images; "
                f"{path} is from before",
            )
        before = load_checkpoint(path, self.learner.modules, self.learner.optimizer)
        self.team.say(
            f"the loss or a weight is no longer a number near step {step}: going back to step {before.step} with "
            f"{LOWERED:g} of the rate"
        )
        self.progress = msgspec.structs.replace(before, seconds=self._now(), lowered=LOWERED, lowered_at=before.step)
        self.save()

    def _evaluate(self) -> None:
        began = self._now()
        judged = self.learner.judged(step=self.progress.step)
        logits = self._answers(self.learner.objective.answering(judged))
        if not np.isfinite(logits).all():
            raise _DivergedError
        task = TASKS[self.task]
        scores = task.metrics(logits, self.validation.targets)
        self.eval_seconds = self._now() - began
        lr = max(float(group["lr"]) for group in self.learner.optimizer.param_groups)
        row = row_of(self.progress, scores, per_epoch=self.batches.per_epoch, lr=lr)
        self.progress = msgspec.structs.replace(
            self.progress, rows=(*self.progress.rows, row), loss_sum=0.0, loss_count=0
        )
        self.team.say(self.progress.describe(share=self._share(), per_epoch=self.batches.per_epoch))
        if self.learner.objective.eligible(self._share()) and scores[task.goal] > self.progress.best_top1:
            self.best = self._bundle(judged)
            self._write(self.best, "best")
            self.progress = msgspec.structs.replace(
                self.progress, best_top1=scores[task.goal], best_step=self.progress.step
            )

    def _answers(self, judged: nn.Module) -> NDArray[np.float32]:
        """Logits (N, K) of the validation images; each process works out its share."""
        images = self.validation.images
        rows = self.team.own_rows(len(images))
        part = images if self.team.world == 1 else images[rows]
        own = None
        if len(rows):
            own = forward_all(judged, part, self.preprocess, device=self.device, dtype=torch.float32)
        return self.team.gather_rows(own, count=len(images), width=len(self.labels))

    def _write(self, bundle: Bundle, name: str) -> None:
        if self.team.leads:
            bundle.write(self.out / name)

    def _bundle(self, judged: nn.Module) -> Bundle:
        row = self.progress.rows[-1]
        told = {
            "recipe": msgspec.to_builtins(self.recipe),
            "start": self.start.digest,
            "data": self.data_digest,
            "measured": {name: value for name, value in msgspec.to_builtins(row).items() if value is not None},
            "done": self._share(),
            "validation_images": len(self.validation.targets),
            "torch": str(torch.__version__),
            "device": str(self.device),
            **({"rate_lowered_at": self.progress.lowered_at} if self.progress.lowered < 1 else {}),
            "compute": precision_name(self.way.precision),
            **({} if self.progress.way is None else {"way": msgspec.to_builtins(self.progress.way)}),
            **self.learner.objective.told,
        }
        history = self.start.history if isinstance(self.start, Bundle) else ()
        return Bundle(
            spec=self.spec,
            task=self.task,
            labels=self.labels,
            preprocess=self.preprocess,
            tensors=tensors_of(judged),
            history=(*history, {"step": "train", **told}),
            own=self.learner.own(),
        )

    def save(self) -> None:
        """Write the checkpoint."""
        self.team.average_statistics(self.learner.modules.values())
        if self.team.leads:
            save_checkpoint(self.out / CHECKPOINT_NAME, self.progress, self.learner.modules, self.learner.optimizer)
        self.saved = self._now()

    def outcome(self) -> Outcome:
        """The bundles, also written to the run's folder."""
        last = self._bundle(self.learner.judged(step=self.progress.step))
        self._write(last, "last")
        if self.best is None:  # stopped before any weights were eligible
            self.best = last
            self._write(last, "best")
        return Outcome(best=self.best, last=last, rows=self.progress.rows, finished=self.progress.finished)
