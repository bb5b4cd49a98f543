"""Gradescope: `/autograder/results/results.json` (Autograder Specifications, Output Format).

Where there is no score to be given the document has neither `score` nor `tests`, which Gradescope shows as a failed
autograder, and not as a zero.
"""

from __future__ import annotations

from typing import Any

from harness.grading.formats import words
from harness.grading.model import SCHEMA, Graded, Judged


def render(result: Graded) -> str:
    table: dict[str, Any] = {"output": words.summary(result), "output_format": "text", "visibility": "visible"}
    if result.score is None:
        return words.dump(table)
    table |= {
        "score": float(result.score),
        "execution_time": result.milliseconds / 1000,
        "test_output_format": "text",
        "test_name_format": "text",
        "stdout_visibility": "hidden",
        "extra_data": {"schema": SCHEMA, "seed": result.seed, "isolation": result.isolation, "kit": result.kit.version},
        "tests": [_test(each, number) for number, each in enumerate(result.behaviours, 1)],
    }
    return words.dump(table)


def _test(each: Judged, number: int) -> dict[str, Any]:
    return {
        "score": float(each.earned),
        "max_score": float(each.points),
        "status": "passed" if each.holds else "failed",
        "name": words.title(each),
        "name_format": "text",
        "number": f"{each.stage}.{number}",
        "output": words.told(each),
        "output_format": "text",
        "tags": [f"stage{each.stage}", *(["hidden"] if each.hidden else [])],
        "visibility": "visible",
    }
