"""Which levels of isolation there are here, and which one a batch is graded at."""

from __future__ import annotations

from harness.solution.isolation import LEVELS, probe
from harness.verdicts import Unusable


def choose(wanted: int | None, required: int) -> int:
    """The level to grade at: the one that is wanted, or the best that works here, but none below what is required.

    Raises Unusable with the reason when there is no such level; each is really tried.
    """
    if wanted is None:
        level = probe.best()
    elif reason := probe.why_not(wanted):
        raise Unusable(f"isolation level {wanted} does not work here: {reason}; `kata doctor` shows what does")
    else:
        level = wanted
    if level < required:
        raise Unusable(
            f"isolation level {required} ({LEVELS[required]}) is required, and grading would be at level {level}; "
            "`kata doctor` shows what works here"
        )
    return level
