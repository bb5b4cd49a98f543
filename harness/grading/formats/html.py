"""Pages for browsers, each a single file that needs nothing else: the whole class, and each student's own.

All text is escaped by jinja2; nothing is loaded from elsewhere, and a policy in the page forbids that anything is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.behaviour import STAGES
from harness.grading.formats import words
from harness.grading.model import Graded, Judged, Status
from harness.grading.store import file_name
from harness.results import Result
from harness.story.page import page as story_page
from harness.story.plain import visible
from harness.verdicts import MARK

PAGES = Path(__file__).parent.parent / "pages"


@cache
def _pages() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    return environment


def student_page(result: Graded) -> str:
    """The page of one student: the map, then the story of each behaviour that does not hold."""
    student, submission = result.student, result.submission
    about = [f"{student.name} ({student.id})" if student.name else student.id]
    about += [f"{submission.name}, handed in {submission.submitted_at}"] if submission.submitted_at else []
    about += [f"note: {note}" for note in submission.notes]
    about += [f"graded {result.graded_at} with seed {result.seed}, at isolation level {result.isolation}"]
    return story_page(
        [_told(result, each) for each in result.behaviours], words.summary(result), list(map(visible, about))
    )


def _told(result: Graded, each: Judged) -> Result:
    """The behaviour as the story of a run is told from it."""
    return Result(
        kata=result.kata,
        folder="",
        subject="solution",
        behaviour=each.id,
        case="",
        sentence=each.sentence,
        stage=each.stage,
        points=each.points,
        hidden=each.hidden,
        source=each.source,
        url=each.url,
        hints=[],
        verdict=each.verdict,
        message=each.message,
        detail=list(each.detail),
        story=list(each.story),
        solution_name=each.solution_name,
        output=each.output,
        seconds=each.milliseconds / 1000,
    )


@dataclass
class Column:
    """A behaviour over the whole class."""

    id: str
    sentence: str
    stage: int
    hidden: bool
    tried: int = 0
    held: int = 0

    @property
    def percent(self) -> int:
        return round(100 * self.held / self.tried) if self.tried else 0


@dataclass
class Line:
    """A student in the class: marks stand in the order of the columns."""

    id: str
    name: str
    page: str
    status: str
    reason: str
    score: int | None
    most: int
    marks: list[str] = field(default_factory=list)  # verdicts
    stuck: str = ""


def class_page(results: Iterable[Graded]) -> Iterator[str]:
    """The page of the class: how many keep each promise, and who is stuck where."""
    columns: dict[str, Column] = {}
    lines: list[Line] = []
    kata = ""
    for result in results:
        kata = result.title
        lines.append(_line(result))
        for each in result.behaviours:
            column = columns.setdefault(each.id, Column(each.id, each.sentence, each.stage, each.hidden))
            column.tried += 1
            column.held += each.holds
    lines.sort(key=lambda line: (-(line.score if line.score is not None else -1), line.id))
    scores = sorted(line.score for line in lines if line.score is not None and line.status == Status.GRADED)
    yield from (
        _pages()
        .get_template("class.html")
        .generate(
            kata=kata,
            columns=list(columns.values()),
            stages=STAGES,
            lines=lines,
            median=scores[len(scores) // 2] if scores else None,
            most=max((line.most for line in lines), default=0),
            graded=len(scores),
            marks={verdict.value: mark for verdict, mark in MARK.items()},
            stuck=_stuck(lines, columns),
        )
    )


def _line(result: Graded) -> Line:
    first = next((each for each in result.behaviours if not each.holds), None)
    return Line(
        id=result.student.id,
        name=result.student.name,
        page=file_name(result.student.id, ".html"),
        status=result.status.value,
        reason=result.reason,
        score=result.score,
        most=result.max_score,
        marks=[each.verdict.value for each in result.behaviours],
        stuck=first.id if first else "",
    )


def _stuck(lines: list[Line], columns: dict[str, Column]) -> list[tuple[Column, list[Line]]]:
    """The behaviours that are somebody's first that does not hold, with those whose it is, most of them first."""
    where = [(column, [line for line in lines if line.stuck == column.id]) for column in columns.values()]
    return sorted((each for each in where if each[1]), key=lambda each: -len(each[1]))
