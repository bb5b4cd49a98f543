"""`kata list`: the katas, what held so far, and the next step."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import progress
from harness.commands import finding
from harness.kata import Kata
from harness.verdicts import Lacking, Verdict

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.behaviour import Behaviour


DONE = "done"


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = commands.add_parser("list", help="the katas, and how far you are", description=__doc__)
    listing.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    own = finding.here()
    shown = katas.catalogue() | own
    width = max(map(len, shown), default=0)
    for name, kata in sorted(shown.items()):
        held, following = standing(kata, own)
        print(f"{name:<{width}}  {kata.title}, {kata.hours} hours; {held}")
        print(f"{'':<{width}}  {kata.summary}")
        print(f"{'':<{width}}  next: {following}")
    return 0


def standing(kata: Kata, own: dict[str, Kata]) -> tuple[str, str]:
    """What held so far, and what comes next; `own` are the katas that the user has started."""
    from harness.collecting import declared

    try:
        behaviours = declared(kata)
    except Lacking as problem:
        return "not ready", str(problem)
    begun = kata.name in own and not kata.untouched
    verdicts = progress.verdicts(kata.folder, kata.name) if begun else {}
    following = _next(kata, behaviours, verdicts) if kata.name in own else f"kata start {kata.name}"
    return _held(behaviours, verdicts), following


def is_done(kata: Kata, own: dict[str, Kata]) -> bool:
    """Every behaviour held the last time it was tried."""
    return standing(kata, own)[1] == DONE


def _held(behaviours: list[Behaviour], verdicts: dict[str, str]) -> str:
    held = [each for each in behaviours if verdicts.get(each.id) == Verdict.HOLDS]
    points, most = sum(each.points for each in held), sum(each.points for each in behaviours)
    balance = f"{len(held)} of {len(behaviours)} behaviours hold, {points} of {most} points"
    return f"stages {_stages(behaviours, verdicts)}, {balance}" if verdicts else balance


def _stages(behaviours: list[Behaviour], verdicts: dict[str, str]) -> str:
    """A mark for each stage: it is done, something of it does not hold, or the rest was never tried."""
    marks = []
    for stage in sorted({each.stage for each in behaviours}):
        known = {verdicts.get(each.id, "") for each in behaviours if each.stage == stage}
        marks.append("✓" if known == {Verdict.HOLDS} else "✗" if known - {Verdict.HOLDS, ""} else "·")
    return "".join(marks)


def _next(kata: Kata, behaviours: list[Behaviour], verdicts: dict[str, str]) -> str:
    """The first behaviour that was tried and did not hold; else a run."""
    unheld = [each for each in behaviours if verdicts.get(each.id) != Verdict.HOLDS]
    if not unheld:
        return DONE
    tried = [each for each in unheld if each.id in verdicts]
    return f"{tried[0].id}. {tried[0].sentence}" if tried else f"pytest {finding.shown(kata.folder)}"
