"""`fit`: labelled images and a budget in, the best MobileNet that keeps it out, with proof. The whole line."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..arch import ArchSpec, find, with_classes
from ..bundle import Bundle, read_bundle
from ..data import Dataset
from ..errors import BudgetError, GateError, UsageError
from ..files import digest_of
from ..progress import say
from ..records import Environment, Precision, only_classifiers, read_record, to_json
from ..train import WEIGHTS_LR, CrossEntropy, EvalPixels, MakeObjective, Outcome, Recipe, train
from ..train.choose import adapted, native_side, preprocess_for, recipe_for
from ..train.elastic import elastic as elastic_objective
from .candidates import ALPHAS, Option, options
from .decoded import Decoded
from .deliver import Delivery, deliver
from .device import DeviceTable
from .latency import LatencyTable
from .plan import final_seconds, judging_seconds, no_candidate
from .records import Budget, FitReport, RoundResult, TrainingRow
from .report import REPORT_NAME, write_report
from .starts import Starts, Weights
from .state import Clock, Plan, State, open_state, save_state
from .together import each_of, widest_of
from .weigh import weigh

__all__ = ["fit"]

PACKAGES = ("mobilenets", "torch", "onnxruntime", "onnx", "numpy", "pillow")


def fit(
    dataset: Dataset,
    budget: Budget,
    *,
    out: Path,
    seconds: float = 1800.0,
    families: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    recipe: Recipe | None = None,
    device: str = "auto",
    command: str = "",
    latencies: LatencyTable | DeviceTable | None = None,
    elastic: bool = False,
    weights: Weights = "none",
) -> FitReport:
    """Find, train, export and prove the best network within a budget.

    Candidates are families x alphas x resolutions x precisions. Their costs are counted, their latencies measured on
    this machine before anything is trained; those that keep the budget are trained by successive halving, and the
    winner for the rest of the time. It is exported, held against the parity gate, and measured again.

    Interrupted at any moment, the same call goes on where it was.

    Args:
        dataset: labelled images. Without a test split, final numbers are on "val" and the report says so.
        budget: what to keep; latency is for one image on this machine.
        out: the folder of the fit: `report.html`, `report.json`, artifacts by precision, the bundle, the runs.
        seconds: for everything.
        families: rows of the catalogue, or `mobilenet_v4_fused`; None: those that suit the images.
        alphas: width multipliers; None: `candidates.ALPHAS`, or all that there are weights of.
        resolutions: input sides in pixels; None: those that suit the images.
        precisions: that compete. int8 is made of the winner in any case, and delivered if it keeps its promises.
        recipe: how to train; its epochs or seconds are replaced by what the plan gives.
        device: to train on.
        command: what the user typed, for the report.
        latencies: where latencies come from: another device, say; None: measured here with `budget.threads`.
        elastic: train the networks at the edge of the budget, of the most promising family, all at once
            (`train.elastic`) instead of one by one; the best of them then goes on alone.
        weights: what candidates begin from: "none"; "published"; bundles, checkpoints and names, as
            `weights.trained_weights` takes them; or "auto": published ones for photos, where they can be had.

    Raises:
        BudgetError: nothing keeps the budget; names the nearest network and what it would take.
        GateError: no export answered like its network.
        UsageError: `out` holds another fit, a choice cannot be, or weights cannot be had.
    """
    begun = recipe or Recipe(seconds=seconds)
    only_classifiers(dataset.task, what="fit")
    if elastic and weights not in ("none", "auto"):
        raise UsageError(
            "an elastic fit from trained weights",
            wanted="one elastic training, or weights that networks begin from",
            do="leave out --elastic or --weights",
        )
    starts, table = Starts(weights), latencies or LatencyTable(threads=budget.threads)
    run = _Fit(dataset, budget, out, seconds=seconds, recipe=begun, device=device, starts=starts, table=table)
    asked: list[object] = [list(families or []), list(alphas or ALPHAS), list(resolutions or []), list(precisions)]
    asked += [*(["elastic"] if elastic else []), *starts.identity, *table.identity]
    run.open(asked)
    if run.state.finished:
        say(f"this fit is finished; its report is {out / 'report.html'}")
        return read_record(out / REPORT_NAME, FitReport, what="report of a fit")
    side = native_side(dataset)
    if run.state.plan is None:
        choose = functools.partial(
            options,
            classes=len(dataset.labels),
            native_side=side,
            families=families,
            alphas=alphas,
            resolutions=resolutions,
            precisions=precisions,
        )
        there = starts.had(families, alphas, unasked=side is None and not elastic)
        try:
            run.consider(choose(starts=there), elastic=elastic)
        except BudgetError as error:
            if not there or table.device is not None:  # a kit holds those with weights and no others
                raise
            say(f"of the networks with weights {error.got}; trying those without")
            run.consider(choose())
    run.search(side)
    return run.finish(side, command=command)


class _Fit:
    """One fit; `fit` is its only user."""

    def __init__(
        self,
        dataset: Dataset,
        budget: Budget,
        out: Path,
        *,
        seconds: float,
        recipe: Recipe,
        device: str,
        starts: Starts,
        table: LatencyTable | DeviceTable,
    ) -> None:
        self.dataset, self.budget, self.out = dataset, budget, out
        self.asked_seconds, self.device, self.table = seconds, device, table
        self.recipe, self.starts = recipe_for(recipe, dataset), starts
        self.state = State(identity="")
        self.clock = Clock(0.0)
        self.images = Decoded(dataset)

    def open(self, asked: list[object]) -> None:
        """Begin, or go on with what the folder holds."""
        if not 1 <= self.asked_seconds < float("inf"):
            raise UsageError(f"the time is {self.asked_seconds} s", wanted="at least 1 s", do="give --time 20m, say")
        about = [self.dataset.digest, to_json(self.budget), asked, self.asked_seconds, self.recipe.digest]
        self.out.mkdir(parents=True, exist_ok=True)
        self.state = open_state(self.out, identity=digest_of(about))
        self.clock = Clock(self.state.seconds)
        if self.state.seconds:
            say(f"going on with the fit in {self.out}, after {self.state.seconds:.0f} s")

    def keep(self, **changes: object) -> None:
        """Change the state, on disk too."""
        self.state = msgspec.structs.replace(self.state, seconds=self.clock.seconds, **changes)
        save_state(self.out, self.state)

    def consider(self, choices: Sequence[Option], *, elastic: bool = False) -> None:
        """Costs, latencies, and the plan.

        Raises:
            BudgetError: nothing keeps the budget.
        """
        left = self.asked_seconds - self.clock.seconds
        candidates, plan = weigh(
            choices,
            self.budget,
            self.table,
            self.recipe,
            device=self.device,
            train_images=len(self.dataset.split("train")),
            deadline=time.monotonic() + left,
            asked=self.asked_seconds,
            elastic=elastic,
        )
        self.keep(candidates=candidates, latency_note=self.table.note(), plan=plan)
        if plan is None:
            raise no_candidate(candidates, self.budget)
        fitting = sum(candidate.status == "fits, not tried" for candidate in candidates)
        say(f"{fitting} networks keep the budget; training {len(plan.entrants)} of them first")

    def search(self, side: int | None) -> None:
        """Find the winner, as the plan says."""
        if self._plan().together:
            self._train_together(side)
        else:
            self._halve(side)

    def _train_together(self, side: int | None) -> None:
        """The one round of an elastic training, and each network out of it."""
        plan = self._plan()
        entrants = [self.state.candidates[place] for place in plan.entrants]
        seconds = sum(count * each for count, each in plan.rounds)
        if not self.state.results:
            spec, policy = widest_of(entrants, classes=len(self.dataset.labels))
            say(f"round 1: {len(entrants)} widths and resolutions of {spec.name} at once, for {seconds:.0f} s")
            folder, objective = self.out / "runs" / f"{spec.name}-elastic", elastic_objective(policy)
            recipe = msgspec.structs.replace(self.recipe, seconds=seconds, epochs=None)
            last = self._run(spec, side, recipe, folder=folder, objective=objective).last
            prepare = functools.partial(self.images.prepared, "val")
            results: list[tuple[int, RoundResult]] = []
            each = each_of(last, entrants, self.dataset, validation=prepare, device=self.device)
            for place, (sliced, top1) in zip(plan.entrants, each, strict=True):
                sliced.write(self._folder(place, "round1") / "last")  # where a round of its own would have left it
                results.append((place, RoundResult(round=1, seconds=seconds, top1=top1)))
            self.keep(results=tuple(results))
        if self.state.winner is None:
            self._decide(self.state.standing(2)[0])

    def _halve(self, side: int | None) -> None:
        """The rounds of successive halving."""
        plan = self._plan()
        for number, (_, seconds) in enumerate(plan.rounds, start=1):
            for place in self.state.standing(number):
                if any(c == place and r.round == number for c, r in self.state.results):
                    continue
                say(f"round {number}: {self.state.candidates[place].name} for {seconds:.0f} s")
                outcome = self._train(place, side, seconds=seconds, stage=f"round{number}")
                result = RoundResult(round=number, seconds=seconds, top1=outcome.top1)
                self.keep(results=(*self.state.results, (place, result)))
        if self.state.winner is None:
            self._decide(self.state.standing(len(plan.rounds) + 1)[0])

    def _decide(self, winner: int) -> None:
        """Who is trained for all the time that is left."""
        plan = self._plan()
        latency = None if self.table.device is not None else self.state.candidates[winner].latency
        judged = self.dataset.splits.get("test", self.dataset.split("val"))
        judging = judging_seconds(latency, images=len(judged))
        seconds = final_seconds(plan, spent=self.clock.seconds, asked=self.asked_seconds, judging=judging)
        self.keep(winner=winner, plan=msgspec.structs.replace(plan, final_seconds=seconds))

    def finish(self, side: int | None, *, command: str) -> FitReport:
        """Train the winner, export, prove, report; the next best where a gate or the final measurement refuses.

        Raises:
            BudgetError, GateError: everybody was refused; the last one's reason.
        """
        plan = self._plan()
        winner = self.state.winner
        assert winner is not None  # search() has run
        name = self.state.candidates[winner].name
        say(f"training {name} for {plan.final_seconds:.0f} s")
        outcome = self._train(winner, side, seconds=plan.final_seconds, stage="final")
        others = [place for place in self.state.standing(len(plan.rounds) or 1) if place != winner]
        refusals: dict[int, str] = {}
        for place in [winner, *others]:
            bundle = outcome.best if place == winner else self._taught(place)
            if bundle is None:
                continue
            try:
                delivery = self._deliver(bundle, place)
            except (BudgetError, GateError) as error:
                refusals[place] = error.got
                say(f"{self.state.candidates[place].name} is out: {error.got}")
                last = error
                continue
            report = self._report(place, refusals, delivery, outcome, command=command)
            write_report(self.out, report, dataset=self.dataset)
            bundle.write(self.out / "bundle")
            self.keep(finished=True)
            return report
        raise last

    def _plan(self) -> Plan:
        assert self.state.plan is not None  # consider() has run
        return self.state.plan

    def _train(self, place: int, side: int | None, *, seconds: float, stage: str) -> Outcome:
        # It goes on from what its rounds have taught it.
        start = self._taught(place, before=stage) or self._begun(place)
        recipe = msgspec.structs.replace(self._recipe(place), seconds=seconds, epochs=None)
        return self._run(start, side, recipe, folder=self._folder(place, stage))

    def _begun(self, place: int) -> ArchSpec | Bundle:
        """What a candidate is before its first round."""
        candidate = self.state.candidates[place]
        if candidate.start is None:
            return with_classes(find(candidate.name), len(self.dataset.labels))
        return adapted(self.starts.bundle(candidate.start), self.dataset, resolution=candidate.resolution)

    def _recipe(self, place: int) -> Recipe:
        """The recipe for a candidate: a lower rate where it begins from weights."""
        if self.state.candidates[place].start is None:
            return self.recipe
        return msgspec.structs.replace(self.recipe, lr=min(self.recipe.lr, WEIGHTS_LR))

    def _run(
        self,
        start: ArchSpec | Bundle,
        side: int | None,
        recipe: Recipe,
        *,
        folder: Path,
        objective: MakeObjective = CrossEntropy,
    ) -> Outcome:
        spec = start.spec if isinstance(start, Bundle) else start
        preprocess = start.preprocess if isinstance(start, Bundle) else preprocess_for(spec, native_side=side)
        validation, stored = self.images.prepared("val", preprocess), self.images.stored(spec, native_side=side)
        self.images.tell_problems()
        outcome = train(
            start,
            stored,
            EvalPixels(validation.images, validation.targets),
            recipe,
            labels=self.dataset.labels,
            preprocess=preprocess,
            out=folder,
            data_digest=self.dataset.digest,
            device=self.device,
            resume="if_there",
            objective=objective,
            on_row=lambda _rows: self.keep(),
        )
        self.keep()
        if not outcome.finished:
            say("stopped; the work is kept, and the same command goes on from here")
            raise KeyboardInterrupt
        return outcome

    def _folder(self, place: int, stage: str) -> Path:
        return self.out / "runs" / f"{self.state.candidates[place].name}-{stage}"

    def _taught(self, place: int, *, before: str = "") -> Bundle | None:
        """What the last round that a candidate has finished made of it."""
        for number in reversed(range(1, len(self._plan().rounds) + 1)):
            done = any(c == place and r.round == number for c, r in self.state.results)
            if done and f"round{number}" != before:
                return read_bundle(self._folder(place, f"round{number}") / "last")
        return None

    def _deliver(self, bundle: Bundle, place: int) -> Delivery:
        return deliver(
            bundle,
            self.dataset,
            self.budget,
            out=self.out,
            validation=self.images.prepared("val", bundle.preprocess),
            test=self.images.prepared("test", bundle.preprocess) if "test" in self.dataset.splits else None,
            elsewhere=self.table.delivered(self.state.candidates[place].name),
        )

    def _report(
        self, chosen: int, refusals: dict[int, str], delivery: Delivery, outcome: Outcome, *, command: str
    ) -> FitReport:
        summary = self.images.summary
        return FitReport(
            command=command,
            data=self.dataset.name,
            data_digest=self.dataset.digest,
            labels=self.dataset.labels,
            images={split: summary.total(split) for split in summary.counts},
            problems=tuple(f"{p.path}: {p.kind} ({p.action})" for p in summary.problems) + summary.notes,
            budget=self.budget,
            asked_seconds=self.asked_seconds,
            took_seconds=self.clock.seconds,
            candidates=self.state.fates(chosen, refusals),
            chosen=self.state.candidates[chosen].name,
            delivered=delivery.delivered,
            not_delivered=delivery.not_delivered,
            training=tuple(
                TrainingRow(
                    seconds=row.seconds,
                    epoch=row.epoch,
                    train_loss=row.train_loss,
                    eval_loss=row.eval_loss,
                    eval_top1=row.goal,
                    lr=row.lr,
                )
                for row in outcome.rows
            ),
            training_seconds=outcome.rows[-1].seconds,
            recipe=msgspec.json.decode(msgspec.json.encode(self._recipe(chosen))),
            mistakes=delivery.mistakes,
            latency_note=self.state.latency_note,
            device=self.table.device,
            environment=Environment.capture(packages=PACKAGES),
        )
