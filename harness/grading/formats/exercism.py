"""Exercism: `results.json` of a test runner, version 3 (The Test Runner Interface).

`error` is for a solution of which nothing could be tried. Tests stand in the order of the kata, stages are its tasks.
"""

from __future__ import annotations

from typing import Any

from harness.grading.formats import words
from harness.grading.model import Graded, Judged, Status
from harness.story.plain import shorten
from harness.verdicts import Verdict

LONGEST_MESSAGE, LONGEST_OUTPUT = 65535, 500


def render(result: Graded) -> str:
    if result.status is not Status.GRADED or not result.behaviours:
        table = {"version": 3, "status": "error", "message": words.reason(result)[:LONGEST_MESSAGE], "tests": []}
        return words.dump(table)
    status = "fail" if result.failed else "pass"
    table = {"version": 3, "status": status, "message": None, "tests": [_test(each) for each in result.behaviours]}
    return words.dump(table)


def _test(each: Judged) -> dict[str, Any]:
    test: dict[str, Any] = {
        "name": words.title(each),
        "status": "pass" if each.holds else "error" if each.verdict is Verdict.FAULT else "fail",
        "test_code": each.sentence,
        "task_id": each.stage,
    }
    if not each.holds:
        test["message"] = words.told(each)[:LONGEST_MESSAGE]
    if each.output:
        test["output"] = shorten(each.output, LONGEST_OUTPUT)
    return test
