"""A watched kata: saves and keys begin runs, a newer save ends the run that is under way."""

from __future__ import annotations

import os
import select
import webbrowser
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from harness import kata as katas
from harness import subjects
from harness.commands import hint
from harness.kata import Kata
from harness.story.plain import visible
from harness.verdicts import Unusable, Verdict
from harness.watching.page import Page
from harness.watching.runs import Run
from harness.watching.saves import Look, Saves, changed, is_binary, look
from harness.watching.terminal import Keys, Screen, has_display
from harness.watching.told import UNMET, Told

HELP = "h hint   a run all   f run failed   o open the page   q quit"
NAMES_SHOWN = 3
EXPECTED = (0, 1)  # exit statuses of pytest: all passed, some failed


@dataclass
class Session:
    """Everything that takes part; `scratch` is a folder for the page and pytest's text."""

    folder: Path
    shown: str  # the folder as the user would type it
    scratch: Path
    screen: Screen
    keys: Keys
    saves: Saves
    page: Page
    told: Told
    run: Run | None = None
    over: bool = False
    _seen: Look = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)  # files that came while a run went on: the program's own
    _problem: str = ""

    def watch(self) -> None:
        """Run until the user has enough."""
        self._seen = look(self.folder)
        self._begin("the first run")
        while not self.over:
            waited: list[Saves | Keys | Connection] = [self.saves]
            waited += [self.keys] if self.keys.on else []
            waited += [self.run.connection] if self.run else []
            ready, _, _ = select.select(waited, [], [])
            if self.saves in ready:
                self.saves.take()
                self._saved()
            if self.keys in ready:
                for key in self.keys.take():
                    self._press(key)
            if self.run and self.run.connection in ready:
                self._take()

    def close(self) -> None:
        """End the run that is under way."""
        if self.run:
            self.run.cancel()
            self.run = None

    # -- saves ------------------------------------------------------------------------------------------------------

    def _saved(self) -> None:
        before, self._seen = self._seen, look(self.folder)
        names = changed(before, self._seen)
        if self.run:
            self._written |= {name for name in names if name not in before}
        else:
            self._written -= set(names)
        names = [name for name in names if name not in self._written and not is_binary(self.folder / name)]
        if names or self._problem:
            self._begin(f"{_few(names)} saved" if names else "")

    # -- runs -------------------------------------------------------------------------------------------------------

    def _begin(self, why: str, behaviours: list[str] | None = None) -> None:
        """Begin a run, of everything or of some behaviours; `why` "": only if what was wrong is mended."""
        problem = self._wrong()
        while problem and self.saves.more_comes():  # in the middle of a save
            self._seen = look(self.folder)
            problem = self._wrong()
        if problem and problem == self._problem:
            return
        mended, self._problem = self._problem, problem
        if not (problem or why or mended):
            return
        if self.run:
            self.run.cancel()
            self.run = None
            self.told.cancelled()
        if problem:
            self.screen.line(f"{problem} (watching on)", red=True)
            return
        self.told.begin(why or f"{self.shown} is whole again")
        self.run = Run(self._arguments(behaviours), self.scratch / "pytest.txt")

    def _wrong(self) -> str:
        """Why there is nothing to run just now, in one sentence, or ""."""
        if not self.folder.is_dir():
            return f"{self.shown} is gone"
        try:
            subjects.solution(self._kata())
        except Unusable as problem:
            return str(problem).replace(str(self.folder), self.shown)
        except OSError as error:
            return f"{self.shown} can't be read: {error.strerror or error}"
        return ""

    def _kata(self) -> Kata:
        return katas.read(self.folder / "kata.toml")

    def _arguments(self, behaviours: list[str] | None) -> list[str]:
        file = os.path.relpath(self.folder / "kata.toml")
        wanted = [f"{file}::test_{name}" for name in behaviours] if behaviours else [os.path.relpath(self.folder)]
        return [*wanted, "-p", "no:cacheprovider", "-q", f"--story={self.page.file}"]

    def _take(self) -> None:
        assert self.run is not None
        results = self.run.take()
        if results is not None:
            for result in results:
                self.told.mark(result)
            return
        ended, self.run = self.run, None
        self.told.end()
        if not self.told.results or ended.status not in EXPECTED:
            self.screen.line(f"pytest ended with status {ended.status}; its last lines:", red=True)
            for line in ended.last_words():
                self.screen.line(f"  {visible(line)}")
        self.page.reload()
        if self.keys.on:
            self.screen.line()
            self.screen.line(HELP, light=True)

    # -- keys -------------------------------------------------------------------------------------------------------

    def _press(self, key: str) -> None:
        match key.lower():
            case "h":
                self._hint()
            case "a":
                self._begin("all of it")
            case "f":
                self._run_failed()
            case "o":
                self._open()
            case "q" | "\x04":
                self.over = True
            case "?" | "\n":
                self.screen.line(HELP, light=True)

    def _hint(self) -> None:
        try:
            lines = hint.following(self._kata())
        except Unusable as problem:
            lines = [str(problem)]
        self.screen.line()
        for line in lines:
            self.screen.line(line)

    def _run_failed(self) -> None:
        failed = [name for name, verdict in self.told.known.items() if verdict in (*UNMET, Verdict.BLOCKED)]
        if failed:
            self._begin(f"{len(failed)} that did not hold", failed)
        else:
            self.screen.line("nothing failed in the last run; a runs all")

    def _open(self) -> None:
        shown = has_display() and webbrowser.open(self.page.url)
        self.screen.line(f"the page is {'open' if shown else 'served'} at {self.page.url}")


def _few(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
