"""`kata hint`: the next hint for a behaviour, or for the first one that was broken in the last run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import progress
from harness.commands import finding
from harness.kata import Kata, suggestion
from harness.verdicts import Unusable, Verdict

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.behaviour import Behaviour

UNMET = {Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT}


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    hint = commands.add_parser("hint", help="the next hint, franker than the last", description=__doc__)
    hint.add_argument("name", metavar="NAME", help="a kata of `kata list`")
    hint.add_argument("behaviour", metavar="BEHAVIOUR", nargs="?", help="a behaviour (the first broken one)")
    hint.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    for line in following(finding.find(options.name), options.behaviour):
        print(line)
    return 0


def following(kata: Kata, behaviour: str | None = None) -> list[str]:
    """The next hint for a behaviour, by default the first broken one, in lines. Raises Unusable."""
    from harness.collecting import declared

    known = {each.id: each for each in declared(kata)}
    chosen = named(behaviour, known) if behaviour else _first_broken(kata, known)
    return [f"{chosen.id}: {chosen.sentence}", *_next_hint(kata.folder, kata.name, chosen)]


def named(name: str, known: dict[str, Behaviour]) -> Behaviour:
    """The behaviour of that name. Raises Unusable with the nearest name when there is none."""
    name = name.removeprefix("test_")
    if name not in known:
        raise Unusable(f"there is no behaviour `{name}`{suggestion(name, known)}; a run of pytest shows all of them")
    return known[name]


def _first_broken(kata: Kata, known: dict[str, Behaviour]) -> Behaviour:
    verdicts = progress.verdicts(kata.folder, kata.name)
    where = finding.shown(kata.folder)
    if kata.untouched:
        raise Unusable(f"{where} holds the skeleton as it came. {kata.start}")
    if not verdicts:
        raise Unusable(f"there was no run of `{kata.name}` yet; run `pytest {where}`, or name a behaviour")
    broken = (each for name, each in known.items() if verdicts.get(name) in UNMET)
    if chosen := next(broken, None):
        return chosen
    raise Unusable(f"nothing was broken in the last run of `{kata.name}`; name a behaviour, or run `pytest {where}`")


def _next_hint(folder: Path, kata: str, chosen: Behaviour) -> list[str]:
    source = f"{chosen.source}" + (f" ({chosen.source.url})" if chosen.source.url else "")
    if not chosen.hints:
        return [f"There is no hint for this one; the rule stands in {source}."]
    most = len(chosen.hints)
    number, new = progress.take_hint(folder, kata, chosen.id, most)
    again = [] if new else [f"These were all the hints; here is the last again. The rule stands in {source}."]
    return [*again, f"hint {number} of {most}: {chosen.hints[number - 1]}"]
