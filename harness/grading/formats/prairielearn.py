"""PrairieLearn: `/grade/results/results.json` of an external grader.

`gradable: false` means that the attempt is not counted. It is said only where the kit or the machine failed: a
submission must not be able to choose it, so one that is refused counts, with no points.
"""

from __future__ import annotations

from typing import Any

from harness.grading.formats import words
from harness.grading.model import Graded, Judged


def render(result: Graded) -> str:
    if result.score is None:
        return words.dump({"gradable": False, "message": words.reason(result)})
    table: dict[str, Any] = {
        "gradable": True,
        "score": result.score / result.max_score if result.max_score else 0.0,
        "message": words.summary(result),
        "tests": [_test(each) for each in result.behaviours],
    }
    return words.dump(table)


def _test(each: Judged) -> dict[str, Any]:
    return {
        "name": words.title(each),
        "description": each.sentence,
        "points": each.earned,
        "max_points": each.points,
        "message": "" if each.holds else words.told(each),
        "output": each.output,
    }
