"""Classroom 50: `result.json`, schema `classroom50/result/v1`. Its fields have hyphens, and its scores are whole.

What only the runner knows (classroom, owner, commit) comes from the environment that it gives to an autograder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from harness.grading.formats import words
from harness.grading.model import Graded, Judged
from harness.verdicts import Unusable


def render(result: Graded, environment: Mapping[str, str] | None = None) -> str:
    """Raises Unusable where there is no score: an autograder that fails says so by its exit status."""
    if result.score is None:
        raise Unusable(f"{result.student.id} has no score to report ({words.reason(result)})")
    given = os.environ if environment is None else environment
    table: dict[str, Any] = {
        "schema": "classroom50/result/v1",
        "classroom": given.get("CLASSROOM", ""),
        "assignment": given.get("ASSIGNMENT", result.kata),
        "assignment_type": given.get("ASSIGNMENT_TYPE", "individual"),
        "owner": given.get("OWNER") or given.get("USERNAME") or result.student.id,
        "submission": given.get("SUBMISSION_TAG", result.submission.name),
        "commit": given.get("COMMIT_URL", ""),
        "release": given.get("RELEASE_URL", ""),
        "review": given.get("REVIEW_URL", ""),
        "datetime": result.submission.submitted_at or result.graded_at,
        "graded_at": result.graded_at,
        "score": result.score,
        "max-score": result.max_score,
        "tests": [_test(each) for each in result.behaviours] or [_refused(result)],
    }
    return words.dump(table)


def _test(each: Judged) -> dict[str, Any]:
    return {
        "test-name": words.title(each),
        "passed": each.holds,
        "score": each.earned,
        "max-score": each.points,
        "verdict": each.verdict.value,
        "message": words.told(each),
    }


def _refused(result: Graded) -> dict[str, Any]:
    reason = words.reason(result)
    return {"test-name": "collection", "passed": False, "score": 0, "max-score": result.max_score, "message": reason}
