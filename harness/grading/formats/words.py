"""What formats have in common: how a behaviour is named and told, in one line or in some."""

from __future__ import annotations

import json
from typing import Any

from harness.grading.model import Graded, Judged, Status
from harness.story.plain import shorten, visible
from harness.verdicts import Verdict

LONGEST_LINE = 500


def title(each: Judged) -> str:
    """The behaviour in one line: its stage, its name."""
    return visible(f"{each.stage}. {each.id.replace('_', ' ')}")


def told(each: Judged) -> str:
    """What is promised and what came instead, in lines that nothing can be hidden in."""
    lines = [each.sentence]
    if not each.holds:
        lines.append(f"{each.verdict}: {each.message}" if each.message else str(each.verdict))
        lines += each.detail
        if each.source:
            lines.append(f"source: {each.source}{f' {each.url}' if each.url else ''}")
    return "\n".join(shorten(visible(line), LONGEST_LINE) for line in lines)


def reason(result: Graded) -> str:
    """Why there are no verdicts, in one line."""
    return shorten(visible(f"{result.status}: {result.reason}"), LONGEST_LINE)


def summary(result: Graded) -> str:
    """The whole result in one line."""
    if result.status is not Status.GRADED:
        return reason(result)
    held = sum(each.holds for each in result.behaviours)
    return (
        f"{result.title}: {held} of {len(result.behaviours)} behaviours hold, "
        f"{result.score} of {result.max_score} points (seed {result.seed}, isolation level {result.isolation})"
    )


def blocker(each: Judged) -> str | None:
    """The behaviour that keeps this one from being tried."""
    named = each.message.removeprefix("needs ")
    return named if each.verdict is Verdict.BLOCKED and named in each.needs else None


def dump(table: dict[str, Any]) -> str:
    return json.dumps(table, indent=1) + "\n"
