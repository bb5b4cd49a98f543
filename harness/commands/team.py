"""`kata team`: who of a team keeps which promises, and what each could learn next."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.story.plain import visible
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.team.standing import Standing

EPILOG = """\
RESULTS is a folder that `kata grade` wrote, or somebody's .progress.json or folder of katas (named by that folder;
NAME=PATH gives another name). What is named last counts."""


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    team = commands.add_parser("team", help="where a team stands", description=__doc__, epilog=EPILOG)
    team.add_argument("results", metavar="RESULTS", nargs="+", help="results, or progress")
    team.add_argument("--html", metavar="PAGE", type=Path, help="write a page instead of lines")
    team.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.team.members import members
    from harness.team.standing import standing

    stands = standing(members(options.results))
    if not options.html:
        _tell(stands)
        return 0
    from harness.team.page import page

    try:
        options.html.write_text(page(stands), encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{options.html} can't be written ({error.strerror}); name another file by --html") from None
    print(f"the page is {options.html}")
    return 0


def _tell(stands: Standing) -> None:
    for note in stands.notes:
        print(f"note: {visible(note)}")
    for line in stands.lines:
        print(visible(line.name))
        for kata, cell in zip(stands.katas, line.cells, strict=True):
            if cell.stages:
                stages = ", ".join(f"{share.of} {share.held}/{share.asked}" for share in cell.stages)
                print(f"  {kata.name}: {cell.whole.held} of {cell.whole.asked} behaviours hold ({stages})")
        for step in line.following:
            print(f"  next: {step.kata}. {step.promise or step.teaches}")
