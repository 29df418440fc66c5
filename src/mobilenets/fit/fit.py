"""`fit`: labelled images and a budget in, the best MobileNet that keeps it out, with proof. The whole line."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..arch import ArchSpec, find, with_classes
from ..bundle import Bundle, read_bundle
from ..data import Dataset, Pixels, ScanSummary, SplitName, Store, prepared, store
from ..errors import BudgetError, GateError, UsageError
from ..files import digest_of
from ..progress import say
from ..records import Environment, Precision, Preprocess, only_classifiers, read_record, to_json
from ..train import CrossEntropy, EvalPixels, MakeObjective, Outcome, Recipe, train
from ..train.choose import native_side, preprocess_for, recipe_for, store_side
from ..train.elastic import elastic as elastic_objective
from .candidates import ALPHAS, Option, options
from .deliver import Delivery, deliver
from .latency import LatencyTable
from .plan import candidate_of, final_seconds, make_plan, no_candidate, static_status, timed_status
from .records import Budget, Candidate, FitReport, LatencyEstimate, RoundResult, TrainingRow
from .report import REPORT_NAME, write_report
from .speed import training_speeds
from .state import Clock, Plan, State, open_state, save_state
from .together import each_of, widest_of

__all__ = ["fit"]

MEASURING_SHARE = 0.25  # of the time, at most, before anything is trained
PACKAGES = ("mobilenets", "torch", "onnxruntime", "onnx", "numpy", "pillow")


def fit(
    dataset: Dataset,
    budget: Budget,
    *,
    out: Path,
    seconds: float = 1800.0,
    families: Sequence[str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    resolutions: Sequence[int] | None = None,
    precisions: Sequence[Precision] = ("fp32",),
    recipe: Recipe | None = None,
    device: str = "auto",
    command: str = "",
    latencies: LatencyTable | None = None,
    elastic: bool = False,
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
        alphas: width multipliers.
        resolutions: input sides in pixels; None: those that suit the images.
        precisions: that compete. int8 is made of the winner in any case, and delivered if it keeps its promises.
        recipe: how to train; its epochs or seconds are replaced by what the plan gives.
        device: to train on.
        command: what the user typed, for the report.
        latencies: where latencies come from; None: measured here with `budget.threads`.
        elastic: train the networks at the edge of the budget, of the most promising family, all at once
            (`train.elastic`) instead of one by one; the best of them then goes on alone.

    Raises:
        BudgetError: nothing keeps the budget; names the nearest network and what it would take.
        GateError: no export answered like its network.
        UsageError: `out` holds another fit, or a choice cannot be.
    """
    begun = recipe or Recipe(seconds=seconds)
    only_classifiers(dataset.task, what="fit")
    run = _Fit(dataset, budget, out, seconds=seconds, recipe=begun, device=device, elastic=elastic)
    asked: list[object] = [list(families or []), list(alphas), list(resolutions or []), list(precisions)]
    asked += ["elastic"] if elastic else []
    run.open(asked)
    if run.state.finished:
        say(f"this fit is finished; its report is {out / 'report.html'}")
        return read_record(out / REPORT_NAME, FitReport, what="report of a fit")
    side = native_side(dataset)
    choices = options(
        classes=len(dataset.labels),
        native_side=side,
        families=families,
        alphas=alphas,
        resolutions=resolutions,
        precisions=precisions,
    )
    run.consider(choices, latencies or LatencyTable(threads=budget.threads))
    run.search(side)
    return run.finish(side, command=command)


class _Fit:
    """One fit; `fit` is its only user."""

    def __init__(
        self, dataset: Dataset, budget: Budget, out: Path, *, seconds: float, recipe: Recipe, device: str, elastic: bool
    ) -> None:
        self.dataset, self.budget, self.out = dataset, budget, out
        self.asked_seconds, self.device, self.elastic = seconds, device, elastic
        self.recipe = recipe_for(recipe, dataset)
        self.state = State(identity="")
        self.clock = Clock(0.0)
        self._pixels: dict[tuple[SplitName, int], Pixels] = {}
        self._stores: dict[int, Store] = {}
        self._told = 0  # problems with images

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

    def consider(self, choices: Sequence[Option], table: LatencyTable) -> None:
        """Costs, latencies, and the plan.

        Raises:
            BudgetError: nothing keeps the budget.
        """
        if self.state.plan is not None:
            return
        statuses = {option: static_status(option, self.budget) for option in choices}
        small_enough = [option for option, status in statuses.items() if status is None]
        estimates: dict[Option, LatencyEstimate] = {}
        if self.budget.latency_ms is not None and small_enough:
            say(f"timing networks on this machine: {len(small_enough)} of {len(choices)} keep the budget so far")
            share = MEASURING_SHARE * max(0.0, self.asked_seconds - self.clock.seconds)
            estimates = table.estimate(small_enough, limit_ms=self.budget.latency_ms, seconds=share)
            statuses |= {option: timed_status(estimates[option], self.budget) for option in small_enough}
        places = {option: place for place, option in enumerate(choices)}
        speeds: dict[Option, float] = {}
        while True:
            fitting = [option for option in choices if statuses[option] is None]
            candidates = tuple(candidate_of(o, latency=estimates.get(o), status=statuses[o]) for o in choices)
            if not fitting:
                self.keep(candidates=candidates, latency_note=table.note())
                raise no_candidate(candidates, self.budget)
            speeds = speeds or training_speeds(fitting, self.recipe, device=self.device)
            plan = make_plan(
                fitting,
                places,
                speeds,
                train_images=len(self.dataset.split("train")),
                seconds=self.asked_seconds - self.clock.seconds,
                asked=self.asked_seconds,
                elastic=self.elastic,
            )
            # A prediction may bring nobody into training: who enters is measured first.
            guessed = [choices[place] for place in plan.entrants if _predicted(candidates[place])]
            if not guessed:
                break
            for option in guessed:
                estimates[option] = table.confirm(option)
                statuses[option] = timed_status(estimates[option], self.budget)
        self.keep(candidates=candidates, latency_note=table.note(), plan=plan)
        say(f"{len(fitting)} networks keep the budget; training {len(plan.entrants)} of them first")

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
            last = self._run(spec, spec, side, seconds=seconds, folder=folder, objective=objective).last
            prepare = functools.partial(self._prepared, "val")
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
        seconds = final_seconds(plan, spent=self.clock.seconds, asked=self.asked_seconds)
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
                delivery = self._deliver(bundle, side)
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
        candidate = self.state.candidates[place]
        spec = with_classes(find(candidate.name), len(self.dataset.labels))
        start = self._taught(place, before=stage) or spec  # it goes on from what its rounds have taught it
        return self._run(start, spec, side, seconds=seconds, folder=self._folder(place, stage))

    def _run(
        self,
        start: ArchSpec | Bundle,
        spec: ArchSpec,
        side: int | None,
        *,
        seconds: float,
        folder: Path,
        objective: MakeObjective = CrossEntropy,
    ) -> Outcome:
        preprocess = preprocess_for(spec, native_side=side)
        validation, stored = self._prepared("val", preprocess), self._stored(spec, preprocess, side)
        self._tell_problems()
        outcome = train(
            start,
            stored,
            EvalPixels(validation.images, validation.targets),
            msgspec.structs.replace(self.recipe, seconds=seconds, epochs=None),
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

    def _deliver(self, bundle: Bundle, side: int | None) -> Delivery:
        preprocess = preprocess_for(bundle.spec, native_side=side)
        return deliver(
            bundle,
            self.dataset,
            self.budget,
            out=self.out,
            validation=self._prepared("val", preprocess),
            test=self._prepared("test", preprocess) if "test" in self.dataset.splits else None,
        )

    def _prepared(self, split: SplitName, preprocess: Preprocess) -> Pixels:
        key = (split, preprocess.resolution)
        if key not in self._pixels:
            self._pixels[key] = prepared(self.dataset, split, preprocess)
        return self._pixels[key]

    def _stored(self, spec: ArchSpec, preprocess: Preprocess, side: int | None) -> Store:
        kept = store_side(spec, native_side=side)
        if kept not in self._stores:
            self._stores[kept] = store(self.dataset, "train", side=kept, channels=preprocess.channels)
        return self._stores[kept]

    def _summary(self) -> ScanSummary:
        """What was found in the images, on opening and on decoding."""
        caches: list[Pixels | Store] = [*self._pixels.values(), *self._stores.values()]
        return self.dataset.summary.with_problems(p for cache in caches for p in cache.problems)

    def _tell_problems(self) -> None:
        summary = self._summary()
        if len(summary.problems) > self._told:
            self._told = len(summary.problems)
            say(summary.describe())

    def _report(
        self, chosen: int, refusals: dict[int, str], delivery: Delivery, outcome: Outcome, *, command: str
    ) -> FitReport:
        summary = self._summary()
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
            recipe=msgspec.json.decode(msgspec.json.encode(self.recipe)),
            mistakes=delivery.mistakes,
            latency_note=self.state.latency_note,
            environment=Environment.capture(packages=PACKAGES),
        )


def _predicted(candidate: Candidate) -> bool:
    return candidate.latency is not None and candidate.latency.how == "predicted"
