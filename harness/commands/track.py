"""`kata track`: katas in an order that has reasons, and how far you are."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import track as tracks
from harness.commands import finding
from harness.commands.catalogue import is_done, standing
from harness.kata import Kata
from harness.track import Track

if TYPE_CHECKING:
    from argparse import _SubParsersAction

WIDTH = 100


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    track = commands.add_parser("track", help="katas in a good order", description=__doc__)
    track.add_argument("name", metavar="NAME", nargs="?", help="a track; without one, all are listed")
    track.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.name:
        _show(tracks.find(options.name))
        return 0
    own = finding.here()
    for track in tracks.tracks().values():
        _list(track, own)
    return 0


def _list(track: Track, own: dict[str, Kata]) -> None:
    shown = katas.catalogue() | own
    here = existing(track, shown)
    done = sum(is_done(kata, own) for kata in here)
    told = [f"{done} of {len(here)} katas done, {hours(here)}"] if here else []
    if coming := len(track.steps) - len(here):
        told.append(f"{coming} still to come (in parentheses)")
    print(f"{track.name}: {'; '.join(told)}")
    print(textwrap.fill(track.summary, WIDTH, initial_indent="   ", subsequent_indent="   "))
    names = " > ".join(step.kata if step.kata in shown else f"({step.kata})" for step in track.steps)
    print(textwrap.fill(names, WIDTH, initial_indent="   ", subsequent_indent="   "))


def existing(track: Track, shown: dict[str, Kata]) -> list[Kata]:
    """The katas of a track that are not still to come."""
    return [shown[step.kata] for step in track.steps if step.kata in shown]


def hours(here: list[Kata]) -> str:
    """The hours of all these katas, from the least to the most."""
    spans = [kata.hours.split("-") for kata in here]
    least, most = sum(int(span[0]) for span in spans), sum(int(span[-1]) for span in spans)
    return f"{least}-{most} hours"


def _show(track: Track) -> None:
    own = finding.here()
    shown = katas.catalogue() | own
    here = existing(track, shown)
    print(track.title + (f", {hours(here)}" if here else "") + f"\n{track.summary}")
    for number, step in enumerate(track.steps, 1):
        kata = shown.get(step.kata)
        print(f"\n{number}. {step.kata}" + (f": {kata.title}, {kata.hours} hours" if kata else " (still to come)"))
        _tell("teaches", step.teaches)
        _tell("here because", step.because)
        if step.after:
            _tell("builds on", ", ".join(_prerequisite(name, shown, own) for name in step.after))
        if kata:
            held, following = standing(kata, own)
            _tell("so far", held)
            _tell("next", following)


def _prerequisite(name: str, shown: dict[str, Kata], own: dict[str, Kata]) -> str:
    if name not in shown:
        return f"{name} (still to come)"
    return f"{name} ({'done' if is_done(shown[name], own) else 'not done yet'})"


def _tell(word: str, text: str) -> None:
    first, others = f"   {word:<12}  ", " " * 17
    print(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False))
