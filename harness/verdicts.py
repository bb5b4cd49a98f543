"""What can be said of a behaviour, and whose fault it is: the type of the exception says it.

`AssertionError` (and its kind `Broken`)  the solution broke a promise
`NotReached`                              the scene could not be set, so nothing was learned
`LimitReached`                            a bound on time, memory or output was hit, nothing was decided
anything else                             a fault of the kit, never of the learner
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    HOLDS = "holds"
    BROKEN = "broken"
    NOT_REACHED = "not reached"
    BLOCKED = "blocked"
    LIMIT = "limit"
    SKIPPED = "skipped"
    FAULT = "fault of the kit"


MARK = {
    Verdict.HOLDS: "✓",
    Verdict.BROKEN: "✗",
    Verdict.NOT_REACHED: "?",
    Verdict.LIMIT: "◷",
    Verdict.FAULT: "!",
    Verdict.BLOCKED: "·",
    Verdict.SKIPPED: "-",
}


class Broken(AssertionError):
    """The solution owed something and did not deliver it."""


class Died(Broken):
    """The solution exited although nobody asked it to."""


class NotReached(Exception):
    """The scene of a behaviour could not be set; no points, but no promise was broken either."""


class LimitReached(Exception):
    """The solution was still at work when a bound was hit; the message names the bound."""


class NotShown(Exception):
    """This platform does not show what a behaviour looks at; the behaviour is skipped and says so."""


class Unusable(Exception):
    """The user gave the kit something it can't work with; the message is one sentence that says what to do."""


class Lacking(Unusable):
    """A package is missing that one kata needs and the others do not; the others go on without it."""


def verdict_of(error: BaseException | None) -> Verdict:
    """The verdict that an exception out of a behaviour stands for."""
    match error:
        case None:
            return Verdict.HOLDS
        case AssertionError():
            return Verdict.BROKEN
        case NotReached():
            return Verdict.NOT_REACHED
        case LimitReached():
            return Verdict.LIMIT
        case NotShown():
            return Verdict.SKIPPED
        case _:
            return Verdict.FAULT
