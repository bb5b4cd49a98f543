"""The formats that a result can be written in: a small file each, all from the one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.grading.formats import check50, classroom50, exercism, gradebook, gradescope, html, junit, prairielearn
from harness.grading.model import Graded


@dataclass(frozen=True)
class Format:
    """`one` writes a file for each result, `whole` one file for all of them; `about` is a line of help.

    `teachers` have all that is hidden shown in it, whatever is revealed to students.
    """

    suffix: str
    about: str
    one: Callable[[Graded], str] | None = None
    whole: Callable[[Iterable[Graded]], Iterable[str]] | None = None
    teachers: bool = False


FORMATS = {
    "csv": Format(".csv", "a gradebook, a line for each student", whole=gradebook.render, teachers=True),
    "class": Format(".html", "a page of the whole class", whole=html.class_page, teachers=True),
    "html": Format(".html", "a page for each student", one=html.student_page),
    "junit": Format(".xml", "JUnit XML, a suite for each student", whole=junit.render),
    "gradescope": Format(".json", "results.json of Gradescope", one=gradescope.render),
    "classroom50": Format(".json", "result.json of Classroom 50", one=classroom50.render),
    "exercism": Format(".json", "results.json of an Exercism test runner, version 3", one=exercism.render),
    "prairielearn": Format(".json", "results.json of a PrairieLearn external grader", one=prairielearn.render),
    "check50": Format(".json", "the JSON of check50", one=check50.render),
}
