"""What is shown of a run that is watched: marks as they come, what changed since the last run, and the first story."""

from __future__ import annotations

import time

from harness.results import Result
from harness.story.plain import shorten, visible
from harness.story.text import TONES, tell
from harness.summary import WIDTH, merge_cases
from harness.verdicts import MARK, Verdict
from harness.watching.terminal import Screen

UNMET = (Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT, Verdict.FAULT)
FEW = 8  # changes that are listed one by one


class Told:
    """Tells one run after the other, each by its difference to what was known before."""

    def __init__(self, screen: Screen, known: dict[str, Verdict]) -> None:
        """`known` are the verdicts before the first run, by behaviour."""
        self.screen, self.known = screen, known
        self._begin()

    def _begin(self) -> None:
        self.results: list[Result] = []
        self._column = self._stage = 0

    def begin(self, why: str) -> None:
        """A run begins, because of what was saved or pressed."""
        self._begin()
        self.screen.line()
        self.screen.line(shorten(f"{time.strftime('%H:%M:%S')}  {why}", WIDTH), bold=True)

    def mark(self, result: Result) -> None:
        """One more verdict, on the line of marks."""
        again = any(result.behaviour == other.behaviour for other in self.results)
        self.results.append(result)
        if self.results[0].untouched or (again and result.verdict is Verdict.HOLDS):
            return
        if self._column >= WIDTH - 4:
            self._newline()
        gap = " " if self._stage not in (0, result.stage) and self._column else ""
        held = result.verdict is Verdict.HOLDS
        self.screen.write(gap + MARK[result.verdict], green=held, red=result.verdict in UNMET, light=not held)
        self._column += len(gap) + 1
        self._stage = result.stage

    def cancelled(self) -> None:
        self._newline()

    def end(self) -> None:
        """The run is over: the balance, the changes, the first story."""
        self._newline()
        if not (results := merge_cases(self.results)):
            return
        untouched = next((result for result in results if result.untouched), None)
        if untouched:
            self.screen.line(visible(untouched.message))
            return
        held = [result for result in results if result.verdict is Verdict.HOLDS]
        points, most = (sum(result.points for result in some) for some in (held, results))
        balance = f"{len(held)} of {len(results)} behaviours hold, {points} of {most} points"
        self.screen.line(balance, bold=True, green=len(held) == len(results), red=len(held) < len(results))
        self._changes(results)
        self.known |= {result.behaviour: result.verdict for result in results}
        broken = next((result for result in results if result.verdict in UNMET), None)
        if broken:
            self.screen.line()
            for row in tell(broken):
                self.screen.line(row.text, **TONES[row.tone])

    def _changes(self, results: list[Result]) -> None:
        before, holds = self.known, Verdict.HOLDS
        gained = [each for each in results if each.verdict is holds and before.get(each.behaviour, holds) is not holds]
        lost = [each for each in results if each.verdict is not holds and before.get(each.behaviour) is holds]
        other = [
            each
            for each in results
            if each.verdict in UNMET and before.get(each.behaviour) not in (None, holds, each.verdict)
        ]
        self._list("new", gained, green=True)
        self._list("lost", lost, red=True)
        self._list("now", other)
        if before and not gained and not lost and not other:
            self.screen.line("nothing changed since the last run", light=True)

    def _list(self, word: str, results: list[Result], **tones: bool) -> None:
        for result in results[:FEW]:
            what = "" if result.verdict is Verdict.HOLDS else f": {result.verdict}, {visible(result.message)}"
            self.screen.line(shorten(f"{word:<5}{MARK[result.verdict]} {result.behaviour}{what}", WIDTH), **tones)
        if len(results) > FEW:
            self.screen.line(f"{word:<5}and {len(results) - FEW} more", **tones)

    def _newline(self) -> None:
        if self._column:
            self.screen.line()
        self._column = self._stage = 0
