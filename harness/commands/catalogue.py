"""`kata list`: the katas, what held so far, and the next step."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import progress
from harness.commands import finding
from harness.kata import Kata
from harness.verdicts import Verdict

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.behaviour import Behaviour


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser("list", help="the katas, and how far you are", description=__doc__)
    listing.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from harness.collecting import declared

    own = finding.here()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("kata", "what you write", "hours", "behaviours", "points", "next"):
        table.add_column(column, no_wrap=column != "what you write")
    for name, kata in (katas.catalogue() | own).items():
        table.add_row(*map(Text, _row(kata, declared(kata), own=name in own)))
    Console(highlight=False).print(table)
    return 0


def _row(kata: Kata, behaviours: list[Behaviour], own: bool) -> tuple[str, ...]:
    verdicts = progress.verdicts(kata.folder, kata.name) if own else {}
    held = [each for each in behaviours if verdicts.get(each.id) == Verdict.HOLDS]
    points = f"{sum(each.points for each in held)}/{sum(each.points for each in behaviours)}"
    what = f"{kata.title}. {kata.summary}"
    return kata.name, what, kata.hours, f"{len(held)}/{len(behaviours)}", points, _next(kata, behaviours, verdicts, own)


def _next(kata: Kata, behaviours: list[Behaviour], verdicts: dict[str, str], own: bool) -> str:
    if not own:
        return f"kata start {kata.name}"
    unheld = [each.id for each in behaviours if verdicts.get(each.id) != Verdict.HOLDS]
    if not unheld:
        return "done"
    known = [name for name in unheld if name in verdicts]
    return known[0] if known else f"pytest {finding.shown(kata.folder)}"
