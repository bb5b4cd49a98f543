"""The story of a broken behaviour as a learner reads it in a terminal, with or without colour."""

from __future__ import annotations

import textwrap
from typing import Any

from harness.results import Result
from harness.story.diagram import WIDTH, Row, draw
from harness.story.plain import shorten, visible, visible_lines
from harness.story.record import Event
from harness.verdicts import Verdict

TONES: dict[str, dict[str, bool]] = {
    "plain": {},
    "quiet": {"light": True},
    "broken": {"red": True, "bold": True},
    "promise": {"bold": True},
}
LABEL = 12


def tell(result: Result, brief: bool = False) -> list[Row]:
    """The rows of the story; `brief` leaves the diagram and the output to the next run of this one behaviour."""
    rows = _field("promise", result.sentence, "promise")
    if not brief:
        diagram = draw([Event.from_json(fields) for fields in result.story], result.solution_name)
        rows += [Row(""), *diagram, Row("")] if diagram else []
    rows += _field(result.verdict.value, result.message, "broken")
    for line in result.detail:
        rows += _field("", line)
    rows += _field("source", result.source, "quiet")
    if result.url:
        rows.append(_address(result.url))
    if result.output and not brief:
        rows += _printed(result.output)
    if result.hints and result.verdict is Verdict.BROKEN:
        rows += _field(
            "hints",
            f"{len(result.hints)} to be had: kata hint {result.kata} {result.behaviour}",
            "quiet",
        )
    rows += _field("again", result.replay, "quiet")
    return rows


def _field(name: str, text: str, tone: str = "plain") -> list[Row]:
    lines = [
        part
        for line in visible_lines(text)
        for part in textwrap.wrap(line, WIDTH - LABEL, break_on_hyphens=False) or [""]
    ]
    names = [name, *[""] * (len(lines) - 1)]
    return [Row(f"{label:<{LABEL}}{line}".rstrip(), tone) for label, line in zip(names, lines, strict=True)]


def _address(url: str) -> Row:
    """An address on a line of its own and in one piece, so that it can be followed."""
    room = max(WIDTH - len(url), 0)
    return Row(" " * min(LABEL, room) + visible(url), "quiet")


def _printed(output: str) -> list[Row]:
    lines = [shorten(visible(line), WIDTH - LABEL - 2) for line in output.splitlines()[-12:]]
    names = ["printed", *[""] * (len(lines) - 1)]
    return [Row(f"{name:<{LABEL}}| {line}") for name, line in zip(names, lines, strict=True)]


class StoryText:
    """A story where pytest expects the representation of a failure."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __str__(self) -> str:
        return "\n".join(row.text for row in self.rows)

    def toterminal(self, writer: Any) -> None:
        """Write to pytest's terminal writer, which knows whether there is colour."""
        for row in self.rows:
            writer.line(row.text, **TONES[row.tone])
