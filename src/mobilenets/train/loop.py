"""The training loop: start + data + recipe -> Bundle. Stops cleanly, goes on where it was.

What is learned from a batch is an `Objective`; here are the order of the batches, the schedule, the averaged weights,
checkpoints and survival.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arch.spec import ArchSpec
from ..bundle import Bundle, read_bundle
from ..errors import CheckError, UsageError
from ..files import digest_of
from ..nets import Network, build, load_tensors, tensors_of
from ..progress import say
from ..records import Preprocess
from ..tasks import TASKS, Targets
from .checkpoint import Progress, Row, load_checkpoint, read_progress, save_checkpoint
from .forward import forward_all
from .interrupt import stop_on_interrupt
from .loader import Batches, Drawn, TrainPixels, normalise
from .machine import compute_dtype, keep_freed_memory, pick_device
from .objective import Batch, CrossEntropy, MakeObjective, Setting
from .recipe import Recipe
from .update import apply_recipe, average, make_optimizer

__all__ = ["EvalPixels", "Outcome", "Resume", "train"]

Resume = Literal["never", "if_there", "must"]
CHECKPOINT_NAME = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 30.0
EMA_EVERY = 4  # steps; averaging each step costs time and changes nothing that can be measured
EVAL_SHARE = 0.1  # of the time at most goes into validation, the last one apart
LINE_SECONDS = 15.0


@dataclass(frozen=True)
class EvalPixels:
    """Prepared images uint8 (N, R, R, C) with targets int64 (N,)."""

    images: NDArray[np.uint8]
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What training made. `best` scored highest on the validation images, `last` is the end of the schedule."""

    best: Bundle
    last: Bundle
    rows: tuple[Row, ...]
    finished: bool  # False: interrupted; the checkpoint goes on from here

    @property
    def top1(self) -> float:
        """Validation accuracy of `best`, in [0, 1]."""
        return max(row.eval_top1 for row in self.rows) / 100


def train(
    start: ArchSpec | Bundle,
    pixels: TrainPixels,
    validation: EvalPixels,
    recipe: Recipe,
    *,
    labels: tuple[str, ...],
    preprocess: Preprocess,
    out: Path,
    data_digest: str = "",
    device: str = "auto",
    resume: Resume = "never",
    objective: MakeObjective = CrossEntropy,
    on_row: Callable[[tuple[Row, ...]], None] | None = None,
) -> Outcome:
    """Train a classifier.

    Args:
        start: a table (fresh weights) or a bundle (its weights; the classifier is fresh where labels differ).
        pixels: the training images, as decoded.
        validation: prepared images that choose the best weights; never trained on.
        recipe: how.
        labels: class names, in the order of the targets.
        preprocess: what validation was prepared with; gives resolution, mean and std.
        out: the run's folder: `checkpoint.safetensors`, and `best` and `last` as bundles when it ends or is stopped.
        data_digest: names the data, so that a resumed run refuses other data.
        device: "auto", "cpu", "cuda", ...
        resume: go on from the checkpoint in `out`: never, if there is one, or it must be there.
        objective: makes what is learned from a batch.
        on_row: called with all rows after each validation.

    SIGINT stops after the step at hand and keeps everything; the same call with resume goes on.

    Raises:
        UsageError: labels and classes disagree, there is nothing to resume, or what is there is another run.
        CheckError: the loss is no longer a number.
    """
    run = _Run(start, pixels, validation, recipe, labels, preprocess, out, device, objective)
    run.prepare(data_digest, resume=resume)
    with stop_on_interrupt() as stopped:
        run.steps(stopped, on_row)
    return run.outcome()


class _Run:
    """The state of one training; `train` is its only user."""

    def __init__(
        self,
        start: ArchSpec | Bundle,
        pixels: TrainPixels,
        validation: EvalPixels,
        recipe: Recipe,
        labels: tuple[str, ...],
        preprocess: Preprocess,
        out: Path,
        device: str,
        objective: MakeObjective,
    ) -> None:
        self.start, self.recipe, self.validation = start, recipe, validation
        self.labels, self.preprocess, self.out = labels, preprocess, out
        self.spec = start.spec if isinstance(start, Bundle) else start
        if self.spec.head.classes != len(labels):
            raise UsageError(
                f"{self.spec.name} has {self.spec.head.classes} classes, the data {len(labels)}",
                wanted="the same number",
                do="use arch.with_classes on the spec",
            )
        keep_freed_memory()
        self.device = pick_device(device)
        self.dtype = compute_dtype(recipe.precision, self.device)
        self.batches = Batches(pixels, recipe, preprocess)
        self.task = TASKS["classify"]
        torch.manual_seed(recipe.seed)
        network = build(self.spec)
        if isinstance(start, Bundle):
            load_tensors(network, {**tensors_of(network), **_kept(start, labels)})
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        apply_recipe(self.network, recipe)
        self.averaged: Network = copy.deepcopy(self.network) if recipe.ema else self.network
        self.objective = objective(
            Setting(
                network=self.network,
                recipe=recipe,
                labels=labels,
                preprocess=preprocess,
                batches=self.batches,
                device=self.device,
                dtype=self.dtype,
            )
        )
        beside = self.objective.modules
        self.optimizer = make_optimizer(self.network, recipe, beside=beside.values())
        self.learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        # What a checkpoint holds; names of the objective's own modules cannot meet ours.
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.modules |= {"averaged": self.averaged} if self.averaged is not self.network else {}
        self.modules |= {f"objective.{name}": module for name, module in beside.items()}
        self.progress = Progress(identity={})
        self.eval_seconds = 0.0
        self.data_digest = ""
        self.best: Bundle | None = None

    def prepare(self, data_digest: str, *, resume: Resume) -> None:
        """Begin anew or from the checkpoint."""
        path = self.out / CHECKPOINT_NAME
        self.data_digest = data_digest
        identity = {
            "the model": self.spec.digest,
            "the recipe": self.recipe.digest,
            "what it starts from": self.start.digest,
            "the images": data_digest,
            "their labels": digest_of(list(self.labels)),
            "the objective": digest_of(self.objective.identity),
        }
        self.progress = Progress(identity=identity)
        if resume == "never" or (resume == "if_there" and not path.exists()):
            self.out.mkdir(parents=True, exist_ok=True)
            return
        if not path.exists():
            raise UsageError(f"no checkpoint in {self.out}", wanted=CHECKPOINT_NAME, do="train without --resume")
        before = read_progress(path).identity
        if other := [what for what, digest in identity.items() if before.get(what) != digest]:
            raise UsageError(
                f"{path} is of another run: not the same as then: {', '.join(other)}",
                wanted="the same command and the same images as before",
                do="repeat that command, or train into another folder",
            )
        self.progress = load_checkpoint(path, self.modules, self.optimizer)
        best = self.out / "best"
        if best.exists():
            self.best = read_bundle(best)
        say(f"going on from step {self.progress.step}, after {self.progress.seconds:.0f} s of training")

    def steps(self, stopped: threading.Event, on_row: Callable[[tuple[Row, ...]], None] | None) -> None:
        """Train until the recipe's end or `stopped`."""
        before = self.progress.seconds
        began = saved = told = time.monotonic()
        evaluated = self.progress.rows[-1].seconds if self.progress.rows else 0.0
        losses: list[Tensor] = []
        while not self.progress.finished and not stopped.is_set():
            done = False
            for drawn in self.batches.epoch(self.progress.epoch, start=self.progress.batch):
                losses.append(self._step(drawn, self._share()))
                now = time.monotonic()
                self._advance(seconds=before + now - began)
                done = self._share() >= 1.0
                if done or stopped.is_set():
                    break
                if now - told > LINE_SECONDS:
                    told = now
                    self._take(losses)
                    say(self._line())
                if now - saved > CHECKPOINT_SECONDS:
                    self._take(losses)
                    self.save()
                    saved = time.monotonic()
            if stopped.is_set() and not done:
                self._take(losses)
                break
            self._take(losses)
            since = self.progress.seconds - evaluated
            if done or since * EVAL_SHARE >= self.eval_seconds:
                self._evaluate()
                evaluated = before + time.monotonic() - began
                self.progress = msgspec.structs.replace(self.progress, seconds=evaluated, finished=done)
                if on_row is not None:
                    on_row(self.progress.rows)
                self.save()
                saved = time.monotonic()
        if not self.progress.rows or (stopped.is_set() and self.progress.rows[-1].step != self.progress.step):
            self._evaluate()
        self.save()

    def _share(self) -> float:
        """How much of the run is done, in [0, 1]."""
        if self.recipe.epochs is not None:
            return self.progress.step / max(1, round(self.recipe.epochs * self.batches.per_epoch))
        assert self.recipe.seconds is not None  # Recipe holds exactly one of the two
        # The last validation belongs to the time that was asked for.
        return self.progress.seconds / max(1e-6, self.recipe.seconds - min(self.eval_seconds, self.recipe.seconds / 2))

    def _step(self, drawn: Drawn, share: float) -> Tensor:
        step = self.progress.step
        # Random numbers of this step come from its number, so a resumed run draws what it would have drawn.
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)
        rate = self.recipe.lr * self.recipe.batch_size / 256 * self.recipe.rate(min(share, 1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        loss = self.objective.learn(self._batch(drawn), step=step)
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.learned, self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not self.network and step % EMA_EVERY == 0:
            average(self.averaged, self.network, weight=EMA_EVERY / (EMA_EVERY + self.recipe.ema * step))
        return loss

    def _batch(self, drawn: Drawn) -> Batch:
        """On the device, normalised and augmented."""
        pixels = drawn.pixels.to(self.device, non_blocking=True)
        targets = drawn.targets.to(self.device, non_blocking=True)
        images = self.batches.distort(normalise(pixels, self.preprocess), step=self.progress.step)
        return Batch(images, Targets(targets), drawn.which)

    def _advance(self, *, seconds: float) -> None:
        step, epoch, batch = self.progress.step + 1, self.progress.epoch, self.progress.batch + 1
        if batch == self.batches.per_epoch:
            epoch, batch = epoch + 1, 0
        self.progress = msgspec.structs.replace(self.progress, step=step, epoch=epoch, batch=batch, seconds=seconds)

    def _take(self, losses: list[Tensor]) -> None:
        """Move losses from the device into the progress; here the host waits for the device, and nowhere else."""
        if not losses:
            return
        values = torch.stack(losses).float().cpu()
        losses.clear()
        # A sum is not finite if one of its terms is not; activations may hide NaN weights from the loss.
        weights = torch.stack([p.detach().float().sum() for p in self.network.parameters()]).sum().cpu()
        if not bool(torch.isfinite(values).all() and torch.isfinite(weights)):
            raise CheckError(
                f"the loss or a weight is no longer a number near step {self.progress.step}",
                wanted="finite numbers",
                do=f"lower lr (now {self.recipe.lr:g}) or set clip: 1.0; the last checkpoint is from before",
            )
        self.progress = msgspec.structs.replace(
            self.progress,
            loss_sum=self.progress.loss_sum + float(values.sum()),
            loss_count=self.progress.loss_count + len(values),
        )

    def _evaluate(self) -> None:
        began = time.monotonic()
        logits = forward_all(
            self.averaged, self.validation.images, self.preprocess, device=self.device, dtype=torch.float32
        )
        scores = self.task.metrics(logits, self.validation.targets)
        self.eval_seconds = time.monotonic() - began
        row = Row(
            epoch=round(self.progress.step / self.batches.per_epoch, 3),
            train_loss=self.progress.loss_sum / max(1, self.progress.loss_count),
            eval_loss=scores["loss"],
            eval_top1=100 * scores["top1"],
            eval_top5=100 * scores["top5"],
            lr=float(self.optimizer.param_groups[0]["lr"]),
            step=self.progress.step,
            seconds=self.progress.seconds,
        )
        self.progress = msgspec.structs.replace(
            self.progress, rows=(*self.progress.rows, row), loss_sum=0.0, loss_count=0
        )
        say(self._line())
        if scores[self.task.goal] > self.progress.best_top1:
            self.best = self._bundle()
            self.best.write(self.out / "best")
            self.progress = msgspec.structs.replace(
                self.progress, best_top1=scores[self.task.goal], best_step=self.progress.step
            )

    def _bundle(self) -> Bundle:
        row = self.progress.rows[-1]
        told = {
            "recipe": msgspec.to_builtins(self.recipe),
            "start": self.start.digest,
            "data": self.data_digest,
            "measured": msgspec.to_builtins(row),
            "validation_images": len(self.validation.targets),
            "torch": str(torch.__version__),
            "device": str(self.device),
            "compute": str(self.dtype).removeprefix("torch."),
            **self.objective.told,
        }
        history = self.start.history if isinstance(self.start, Bundle) else ()
        return Bundle(
            spec=self.spec,
            task="classify",
            labels=self.labels,
            preprocess=self.preprocess,
            tensors=tensors_of(self.averaged),
            history=(*history, {"step": "train", **told}),
        )

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.out / CHECKPOINT_NAME, self.progress, self.modules, self.optimizer)

    def outcome(self) -> Outcome:
        """The bundles, also written to the run's folder."""
        last = self._bundle()
        last.write(self.out / "last")
        best = last if self.best is None else self.best
        return Outcome(best=best, last=last, rows=self.progress.rows, finished=self.progress.finished)

    def _line(self) -> str:
        p = self.progress
        text = (
            f"{min(100, 100 * self._share()):3.0f} %  {p.seconds:5.0f} s  epoch {p.step / self.batches.per_epoch:6.2f}"
        )
        if p.loss_count:
            text += f"  loss {p.loss_sum / p.loss_count:.3f}"
        return text + (f"  top-1 {p.rows[-1].eval_top1:.2f} %" if p.rows else "")


def _kept(start: Bundle, labels: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """The tensors that carry over: all, or all but the classifier where the labels are others."""
    same = start.labels == labels
    return {name: t for name, t in start.tensors.items() if same or not name.startswith("head.classifier.")}
