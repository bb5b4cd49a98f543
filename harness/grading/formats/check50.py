"""check50: the JSON that `check50 --output json` writes. `passed` is null for what was not tried."""

from __future__ import annotations

from typing import Any

from harness.grading.formats import words
from harness.grading.model import Graded, Judged, Status
from harness.verdicts import Verdict

VERSION = "3.5.0"  # of check50, whose JSON this is
NOT_TRIED = {Verdict.BLOCKED, Verdict.SKIPPED, Verdict.FAULT}


def render(result: Graded) -> str:
    slug = f"backend-katas/{result.kata}"
    if result.status is not Status.GRADED:
        error = {"type": result.status.value, "value": result.reason, "traceback": [], "data": {}}
        return words.dump({"slug": slug, "error": error, "version": VERSION})
    return words.dump({"slug": slug, "results": [_check(each) for each in result.behaviours], "version": VERSION})


def _check(each: Judged) -> dict[str, Any]:
    blocker = words.blocker(each)
    return {
        "name": each.id,
        "description": each.sentence,
        "passed": True if each.holds else None if each.verdict in NOT_TRIED else False,
        "log": [] if each.holds or not each.message else [each.message],
        "cause": None if each.holds else {"rationale": words.told(each), "help": each.url or None},
        "data": {"stage": each.stage, "points": each.points, "earned": each.earned},
        "dependency": blocker,
    }
