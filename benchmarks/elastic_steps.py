"""What an elastic training costs against one training for each width: single steps of all of them, in turn.

python benchmarks/elastic_steps.py CIFAR_FOLDER [--arch MODEL] [--widths W] [--set F=V] [--policy F=V] [--turns N] ...

Trainings that are made hours apart on a shared machine compare badly. Here one process holds a network of each width,
and one that is elastic; each makes a step with the same batch, then the next one does. Processor time is compared. An
inner width is drawn in each elastic step, so the mean over the turns is the cost of a step. The ratio is that of whole
trainings as long as each other, without validations and the grid at the end (of validations the elastic one has as many
as one of the others).
"""

import argparse
import statistics
import time
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from rows import append

from mobilenets.arch import ArchSpec
from mobilenets.arch.narrower import narrower
from mobilenets.compress.elastic import policy_for
from mobilenets.data import open_dataset, store
from mobilenets.nets import Network, build
from mobilenets.train.choose import native_side, preprocess_for, spec_for, store_side
from mobilenets.train.elastic import elastic
from mobilenets.train.elastic_policy import with_policy
from mobilenets.train.learner import Learner
from mobilenets.train.loader import Batches
from mobilenets.train.machine import keep_freed_memory
from mobilenets.train.objective import CrossEntropy
from mobilenets.train.recipes import named_recipe, with_settings
from mobilenets.train.team import Team
from mobilenets.train.way import usual_way

WARM_UP = 2  # turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--arch", default="mobilenet_v3_small_1.0_32_s16")
    parser.add_argument("--widths", default="0.25,0.5,0.75,1.0")
    parser.add_argument("--set", action="append", default=[], help="one field of the recipe, for all")
    parser.add_argument("--policy", action="append", default=[], help="one field of the elastic policy")
    parser.add_argument("--turns", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    policy = with_policy(policy_for(given.widths), dict(field.split("=", 1) for field in given.policy))
    recipe = with_settings(named_recipe("short"), dict(field.split("=", 1) for field in given.set))
    dataset, device = open_dataset(given.cifar), torch.device("cpu")
    side = native_side(dataset)
    widest = spec_for(given.arch, native_side=side, classes=len(dataset.labels))
    preprocess = preprocess_for(widest, native_side=side)
    kept = store(dataset, "train", side=store_side(widest, native_side=side), channels=widest.channels)
    batches, way = Batches(kept, recipe, preprocess), usual_way(recipe, device)
    drawn = list(islice(batches.epoch(0), given.turns))
    learner = partial(
        Learner,
        batches=batches,
        recipe=recipe,
        labels=dataset.labels,
        preprocess=preprocess,
        dtype=way.dtype,
        team=Team(),
        trial=True,
    )
    alphas = (policy.narrowest, *(policy.inner or ()), policy.widest)
    specs = {f"{alpha:g}": narrower(widest, alpha) for alpha in alphas}
    learners = {name: learner(network_of(spec), objective=CrossEntropy) for name, spec in specs.items()}
    learners["elastic"] = learner(network_of(widest), objective=elastic(policy))
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for turn in range(WARM_UP + given.turns):
        for name, one in learners.items():
            begun = time.process_time()
            # At a rate of 0 weights stay; `done`: all widths learn.
            float(one.step(drawn[turn % len(drawn)], step=turn, rate=0.0, done=1.0))
            if turn >= WARM_UP:
                seconds[name].append(time.process_time() - begun)
    mean = {name: statistics.mean(values) for name, values in seconds.items()}
    together = policy.alone * mean[f"{policy.widest:g}"] + (1 - policy.alone) * mean["elastic"]
    append(
        "elastic_steps",
        {
            "arch": widest.name,
            "widths": given.widths,
            "recipe_fields": given.set,
            "policy_fields": given.policy,
            "precision": way.precision,
            "threads": given.threads,
            "turns": given.turns,
            "step_processor_seconds": {name: round(value, 4) for name, value in mean.items()},
            "deviation": {name: round(statistics.stdev(values), 4) for name, values in seconds.items()},
            "ratio_of_trainings": round(together / sum(mean[name] for name in specs), 3),
        },
    )


def network_of(spec: ArchSpec) -> Network:
    torch.manual_seed(0)
    return build(spec).to(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
