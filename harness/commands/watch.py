"""`kata watch`: runs a kata again whenever you save, and shows what changed and the first story."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from harness import progress
from harness.commands import finding
from harness.verdicts import Unusable, Verdict

if TYPE_CHECKING:
    from argparse import _SubParsersAction

TOLD_TO_END = 128  # an exit status above it names the signal


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    watch = commands.add_parser(
        "watch",
        help="run a kata again whenever you save",
        description=__doc__,
        epilog="Keys: h the next hint, a run all, f run what failed, o open the page of stories, q quit.",
    )
    watch.add_argument("name", metavar="NAME", help="a kata of `kata list`")
    watch.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.watching import runs
    from harness.watching.page import Page
    from harness.watching.saves import Saves
    from harness.watching.session import HELP, Session
    from harness.watching.terminal import Keys, Screen
    from harness.watching.told import Told

    kata = finding.find(options.name)
    shown, screen = finding.shown(kata.folder), Screen(sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with tempfile.TemporaryDirectory(prefix="kata-watch-") as scratch, Keys(sys.stdin) as keys:
        runs.warm_up(kata.name)
        words = progress.verdicts(kata.folder, kata.name)
        known = {name: Verdict(word) for name, word in words.items() if word in set(Verdict)}
        try:
            saves = Saves(kata.folder)
        except OSError as error:  # on Linux, most likely the limits of inotify
            raise Unusable(f"{shown} can't be watched: {error.strerror or error}; `kata test` runs it once") from None
        page = Page(Path(scratch, "stories.html"))
        session = Session(kata.folder, shown, Path(scratch), screen, keys, saves, page, Told(screen, known))
        screen.line(f"watching {shown}; its page of stories is {page.url}")
        screen.line(
            HELP if keys.on else "keys are off, since standard input is no terminal; Ctrl-C ends it", light=True
        )
        try:
            session.watch()
        finally:
            session.close()
            page.close()
            saves.close()
    return 0


def _end(number: int, frame: object) -> NoReturn:
    """SIGTERM, or the terminal was closed: leave as orderly as after Ctrl-C."""
    sys.exit(TOLD_TO_END + number)
