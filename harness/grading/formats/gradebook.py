"""A gradebook as CSV, a line for each student: for spreadsheets, which take some texts for formulas.

A text that begins like a formula gets an apostrophe before it (OWASP, CSV injection); numbers stay numbers, and a
score that there is none of stays empty: it is no zero.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from harness.behaviour import STAGES
from harness.grading.model import Graded, total
from harness.story.plain import visible

FORMULA = ("=", "+", "-", "@", "\t", "\r", *"\uff1d\uff0b\uff0d\uff20")  # full width, too
COLUMNS = ("id", "name", "email", "submission", "status", "score", "max_score", *STAGES.values())
COLUMNS += ("submitted_at", "graded_at", "isolation", "seed", "reason", "notes")


def render(results: Iterable[Graded]) -> Iterator[str]:
    yield _line(COLUMNS)
    for result in results:
        yield _line(_cells(result))


def _cells(result: Graded) -> Iterator[object]:
    student, submission = result.student, result.submission
    yield from (student.id, student.name, student.email, submission.name, result.status.value)
    yield from (result.score, result.max_score)
    for stage in STAGES:
        of_stage = [each for each in result.behaviours if each.stage == stage]
        yield total(of_stage)[0] if of_stage and result.score is not None else None
    yield from (submission.submitted_at, result.graded_at, result.isolation, result.seed)
    yield from (result.reason, "; ".join(submission.notes))


def _line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_MINIMAL).writerow([_safe(cell) for cell in cells])
    return line.getvalue()


def _safe(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    harmless = visible(cell)
    return f"'{harmless}" if cell.lstrip().startswith(FORMULA) or cell.startswith(FORMULA) else harmless
