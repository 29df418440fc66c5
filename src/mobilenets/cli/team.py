"""What verbs that train share under `torchrun`: images opened once, one voice, one folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .training import run_folder

if TYPE_CHECKING:
    from ..data import Dataset
    from ..train.team import Team

__all__ = ["folder_of_all", "opened_by_all"]


def opened_by_all(context: click.Context, data: str) -> tuple[Team, Dataset]:
    """The team of this process, and the images; from here on the first process speaks for all.

    Raises:
        MobileNetsError: images that cannot be used.
    """
    from ..data import open_dataset
    from ..train.team import join_team

    team = join_team()
    with team.leader_first():
        dataset = open_dataset(data)
    if not team.leads:
        nowhere = context.with_resource(Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # click closes it
        context.with_resource(contextlib.redirect_stderr(nowhere))
    click.echo(dataset.summary.describe(), err=True)
    return team, dataset


def folder_of_all(team: Team, verb: str, label: str, *, out: Path | None, resume: bool) -> Path:
    """The folder of a run as `training.run_folder` chooses it, chosen once.

    Raises:
        UsageError: a new one is asked for and something is in it, or none to go on with is there.
    """
    folder = run_folder(verb, label, out=out, resume=resume) if team.leads else Path()
    return Path(team.share_text(str(folder)))
