"""What students may see of hidden behaviours; whoever writes for students goes through here.

`none`       how many of them hold, and their points
`names`      their names and verdicts
`sentences`  what they promise, too
`stories`    everything: messages, what was sent and received, the program's output
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from harness.behaviour import tried_last
from harness.grading.model import Graded, Judged, total
from harness.verdicts import Verdict

UNTOLD = "it is tried after hidden behaviours, so what happened is not told"


class Reveal(StrEnum):
    NONE = "none"
    NAMES = "names"
    SENTENCES = "sentences"
    STORIES = "stories"


def for_students(result: Graded, reveal: Reveal) -> Graded:
    """The result as its student may see it. It is not signed: the signature is of the whole."""
    hidden = [each for each in result.behaviours if each.hidden]
    if reveal is Reveal.STORIES or not hidden:
        return replace(result, signature={})
    last = tried_last(result.behaviours)
    shown = [_untold(each) if each.id in last and not each.hidden else each for each in result.behaviours]
    if reveal is Reveal.NONE:
        behaviours = [_without_names(each, hidden) for each in shown if not each.hidden] + [_counted(hidden)]
    else:
        behaviours = [VEILS[reveal](each) if each.hidden else each for each in shown]
    reason = result.reason if not any(each.id in result.reason for each in hidden) else "the kit failed"
    return replace(result, behaviours=tuple(behaviours), reason=reason, signature={})


def _counted(hidden: list[Judged]) -> Judged:
    """One line for all of them."""
    held, (earned, points) = sum(each.holds for each in hidden), total(hidden)
    return Judged(
        id="hidden",
        sentence=f"{held} of {len(hidden)} hidden behaviours hold.",
        stage=max(each.stage for each in hidden),
        points=points,
        earned=earned,
        hidden=True,
        verdict=Verdict.HOLDS if held == len(hidden) else Verdict.BROKEN,
        milliseconds=sum(each.milliseconds for each in hidden),
    )


def _named(each: Judged) -> Judged:
    return Judged(
        id=each.id,
        sentence=each.id.replace("_", " "),
        stage=each.stage,
        points=each.points,
        earned=each.earned,
        hidden=True,
        verdict=each.verdict,
        limit="a limit" if each.limit else "",
        milliseconds=each.milliseconds,
        runs=each.runs,
    )


def _told(each: Judged) -> Judged:
    return replace(_named(each), sentence=each.sentence, source=each.source, url=each.url, needs=each.needs)


def _untold(each: Judged) -> Judged:
    """A visible behaviour that needs a hidden one is tried after it: the program may tell there what it has seen."""
    told = each.verdict in (Verdict.BLOCKED, Verdict.HOLDS)
    return replace(each, message=each.message if told else UNTOLD, detail=(), output="", story=())


def _without_names(each: Judged, hidden: list[Judged]) -> Judged:
    """A visible behaviour may need a hidden one, and would name it."""
    names = {other.id for other in hidden}
    if not names & set(each.needs):
        return each
    message = "needs a hidden behaviour" if each.verdict is Verdict.BLOCKED else each.message
    return replace(each, needs=tuple(name for name in each.needs if name not in names), message=message)


VEILS: dict[Reveal, Callable[[Judged], Judged]] = {Reveal.NAMES: _named, Reveal.SENTENCES: _told}
