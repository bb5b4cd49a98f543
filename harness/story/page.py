"""Results as one page that needs nothing else: it opens from disk, asks no network, and executes nothing foreign.

What is shown of each behaviour is decided here; how it becomes markup stands in `templates/page.html`. A page stays
small whatever a solution sends: stories share a budget, and are told in less detail where there are many.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from harness.behaviour import STAGES
from harness.results import Result
from harness.story import exchange
from harness.story.diagram import parties_of
from harness.story.dump import ends, hex_lines, text_lines
from harness.story.fold import shorten_middle
from harness.story.markup import own, templates
from harness.story.plain import shorten
from harness.story.record import HEAD, Event
from harness.story.svg import Drawing, Step, lay_out, rows_of
from harness.verdicts import MARK, Verdict

STORIES_A_BEHAVIOUR, FEWEST = 13_000, 300_000  # characters for the stories of a page: so many a behaviour, at least
A_STEP, A_BYTE = 850, 6  # characters of markup
OPEN_STORIES = 3
SCRIPTS, NEITHER = "script-src ", "base-uri 'none'; form-action 'none'"  # of the page's policy
UNREMARKABLE = (Verdict.HOLDS, Verdict.BLOCKED, Verdict.SKIPPED)
OUTPUT_LINES, OUTPUT_WIDTH = 30, 160


@dataclass(frozen=True)
class Detail:
    """How much of a story is told: events, and bytes of each."""

    events: int
    octets: int


DETAILS = (Detail(60, 256), Detail(40, 128), Detail(28, 64), Detail(16, 32), Detail(8, 0))


@dataclass
class Spoken:
    """An event in the list below a diagram, with its bytes."""

    step: Step
    text: list[str]
    hexadecimal: list[str]
    about: str


@dataclass
class Case:
    """One try of a behaviour: of a parametrized one there are several."""

    result: Result
    id: str
    drawing: Drawing | None = None
    spoken: list[Spoken] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    told: str = ""  # the story as markup; "" for what has none
    too_much: bool = False  # it has a story, and there was no room for it
    open: bool = True

    @property
    def output(self) -> list[str]:
        return [shorten(line, OUTPUT_WIDTH) for line in self.result.output.splitlines()[-OUTPUT_LINES:]]


@dataclass
class Entry:
    """A behaviour, with all its cases."""

    id: str
    cases: list[Case]

    @property
    def first(self) -> Result:
        """The case that decides: the first that does not hold."""
        results = [case.result for case in self.cases]
        return next((result for result in results if result.verdict is not Verdict.HOLDS), results[0])

    @property
    def untold(self) -> list[Case]:
        """The cases of which more is to be said than that they hold."""
        return [case for case in self.cases if case.result.verdict is not Verdict.HOLDS]

    @property
    def verdict(self) -> Verdict:
        return Verdict.BLOCKED if self.first.untouched else self.first.verdict

    @property
    def mark(self) -> str:
        return MARK[self.verdict]

    @property
    def word(self) -> str:
        if self.first.mutant and self.verdict in (Verdict.HOLDS, Verdict.BROKEN):
            return "caught" if self.verdict is Verdict.HOLDS else "survived"
        return "not tried" if self.first.untouched else self.verdict.value

    @property
    def tone(self) -> str:
        return self.verdict.name.lower().replace("_", "-")

    @property
    def name(self) -> str:
        first = self.first
        return f"{first.mutant} / {first.behaviour}" if first.mutant else first.behaviour

    @property
    def link(self) -> str:
        """Where its source is written; nothing but the web."""
        return self.first.url if self.first.url.startswith(("https://", "http://")) else ""


@dataclass
class Chapter:
    """One kata, as one program kept its promises."""

    kata: str
    subject: str
    entries: list[Entry]

    @property
    def held(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.verdict is Verdict.HOLDS]

    @property
    def points(self) -> int:
        return sum(entry.first.points for entry in self.held)

    @property
    def most(self) -> int:
        return sum(entry.first.points for entry in self.entries)

    @property
    def untouched(self) -> str:
        """What the skeleton says to somebody who has not begun."""
        return next((entry.first.message for entry in self.entries if entry.first.untouched), "")

    @property
    def name(self) -> str:
        return self.kata if self.subject == "solution" else f"{self.kata} ({self.subject})"

    @property
    def remarkable(self) -> list[Entry]:
        """What was tried, and did not hold."""
        return [entry for entry in self.entries if entry.verdict not in UNREMARKABLE]

    @property
    def next(self) -> Entry | None:
        """The behaviour that a learner looks at first."""
        theirs = (entry for entry in self.remarkable if entry.verdict is not Verdict.FAULT)
        return next(theirs, None) if self.subject != "mutants" else None

    @property
    def stages(self) -> list[tuple[int, str, list[Entry], int]]:
        """Number, name, behaviours, and how many of them hold."""
        numbers = sorted({entry.first.stage for entry in self.entries})
        members = [(number, [entry for entry in self.entries if entry.first.stage == number]) for number in numbers]
        return [
            (number, STAGES.get(number, ""), entries, sum(entry in self.held for entry in entries))
            for number, entries in members
        ]


def write(path: Path, results: Sequence[Result]) -> None:
    """Write the page of a run in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(page(results), encoding="utf-8")
    draft.replace(path)


def page(results: Sequence[Result], title: str = "", about: Sequence[str] = ()) -> str:
    """The page of a run, or of a submission, as HTML.

    `title` heads it, by default with what holds; `about` are lines below (a name, a date, an isolation level).
    A result with an empty `story`, `output`, `message` or `replay` is shown without.
    """
    chapters = _chapters(results)
    _tell(chapters)
    style, script = Markup(own("page.css") + own("diagram.css")), own("page.js")
    return (
        templates()
        .get_template("page.html")
        .render(
            title=title or _title(chapters),
            about=[*about, *_seed(results)],
            chapters=chapters,
            style=style,
            script=script,
            policy=f"default-src 'none'; style-src {_hash(style)}; {SCRIPTS}{_hash(script)}; {NEITHER}",
            Verdict=Verdict,
            unremarkable=UNREMARKABLE,
        )
    )


def with_script(page: str, script: str) -> str:
    """The page with one more script at its end; it may also connect to where the page came from.

    For who serves a page and wants it to change: the page's own policy admits nothing that it does not name.
    """
    page = page.replace(SCRIPTS, f"connect-src 'self'; {SCRIPTS}{_hash(script)} ", 1)
    before, end, after = page.rpartition("</body>")
    return f"{before}<script>{script}</script>\n{end}{after}"


def _chapters(results: Sequence[Result]) -> list[Chapter]:
    """Results by kata and subject, then by behaviour; the last result of a case counts."""
    katas: dict[tuple[str, str], dict[tuple[str, str], dict[str, Result]]] = {}
    for result in results:
        kata = katas.setdefault((result.kata, "mutants" if result.mutant else result.subject), {})
        kata.setdefault((result.mutant, result.behaviour), {})[result.case] = result
    return [
        Chapter(name, subject, [_entry(f"b{number}-{at}", cases) for at, cases in enumerate(behaviours.values())])
        for number, ((name, subject), behaviours) in enumerate(katas.items())
    ]


def _entry(id: str, cases: dict[str, Result]) -> Entry:
    return Entry(id, [Case(result, f"{id}-{number}") for number, result in enumerate(cases.values())])


def _title(chapters: list[Chapter]) -> str:
    if len(chapters) != 1:
        return f"{len(chapters)} katas" if chapters else "No behaviour was tried"
    chapter = chapters[0]
    return f"{chapter.name}: {len(chapter.held)} of {len(chapter.entries)} behaviours hold"


def _seed(results: Sequence[Result]) -> list[str]:
    seeds = {word for result in results for word in result.replay.split() if word.startswith("--seed=")}
    return [f"seed {seeds.pop().removeprefix('--seed=')}"] if len(seeds) == 1 else []


# -- stories, within what a page may weigh


def _tell(chapters: list[Chapter]) -> None:
    """Write the story of each case that has one, each in as much detail as its share of the budget allows."""
    waiting = [
        case
        for chapter in chapters
        for entry in chapter.entries
        for case in entry.untold
        if case.result.story and not case.result.untouched
    ]
    left = max(FEWEST, STORIES_A_BEHAVIOUR * sum(len(chapter.entries) for chapter in chapters))
    for number, case in enumerate(waiting):
        share = left // (len(waiting) - number)
        case.open = number < OPEN_STORIES
        case.too_much = not _tell_one(case, share)
        left -= len(case.told)


def _tell_one(case: Case, share: int) -> bool:
    """In the greatest detail that stays within `share` characters; False if none does, or nothing can be drawn."""
    result = case.result
    events = [Event.from_json(fields) for fields in result.story]
    case.commands = exchange.commands(events, result.solution_name)
    parties, rows = parties_of(events, result.solution_name), rows_of(events, DETAILS[0].events)
    if len(parties) < 2:
        return True
    for detail in DETAILS:
        rows = shorten_middle(rows, detail.events // 4, detail.events - detail.events // 4)
        if _estimate(rows, detail) > share:
            continue
        case.drawing = lay_out(rows, parties, result.solution_name)
        case.spoken = [_spoken(step, detail.octets) for step in case.drawing.steps]
        told = templates().get_template("story.html").render(case=case)
        if len(told) <= share:
            case.told = told
            return True
    return False


def _estimate(rows: Sequence[Event], detail: Detail) -> int:
    """About how many characters of markup that will be: rendering just to see would cost more than all the rest."""
    return sum(A_STEP + A_BYTE * min(event.size, detail.octets) for event in rows if event.kind != "gap")


def _spoken(step: Step, octets: int) -> Spoken:
    event = step.event
    if event.kind == "gap" or not event.size or not octets:
        return Spoken(step, [], [], f"{event.size:,} bytes" if event.kind != "gap" and event.size else "")
    first, last = ends(event, min(octets, HEAD))
    about = f"{event.size:,} bytes"
    if last:
        about += f", the first {len(first)} and the last {len(last)} of them"
    if event.digest:
        about += f", SHA-256 {event.digest}…"
    text, digits = text_lines(first), list(hex_lines(first))
    if last:
        text = [*text, "⋮", *text_lines(last)]
        digits = [*digits, "⋮", *hex_lines(last, event.size - len(last))]
    return Spoken(step, text, digits, about)


# -- safety


def _hash(text: str) -> str:
    """How a Content-Security-Policy names a style or a script: to the letter."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
