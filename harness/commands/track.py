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
    known, own = tracks.tracks(), finding.here()
    shown = katas.catalogue() | own
    width = max(map(len, known), default=0)
    for name, track in known.items():
        done = sum(step.kata in shown and is_done(shown[step.kata], own) for step in track.steps)
        print(f"{name:<{width}}  {track.title}, {done} of {len(track.steps)} katas done, {hours(track)} hours")
        print(f"{'':<{width}}  {track.summary}")
        print(f"{'':<{width}}  {' > '.join(step.kata for step in track.steps)}")
    return 0


def hours(track: Track) -> str:
    """The hours of all katas of a track that exist, from the least to the most."""
    known = katas.catalogue()
    spans = [known[step.kata].hours.split("-") for step in track.steps if step.kata in known]
    least, most = sum(int(span[0]) for span in spans), sum(int(span[-1]) for span in spans)
    return f"{least}-{most}"


def _show(track: Track) -> None:
    own = finding.here()
    shown = katas.catalogue() | own
    print(f"{track.title}, {hours(track)} hours\n{track.summary}")
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
    return f"{name} ({'done' if name in shown and is_done(shown[name], own) else 'not done yet'})"


def _tell(word: str, text: str) -> None:
    first, others = f"   {word:<12}  ", " " * 17
    print(textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False))
