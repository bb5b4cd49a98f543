"""A record drawn as a sequence diagram in SVG: who sent what to whom, top to bottom in the order of time.

Here is the geometry; how the shapes become markup stands in `templates/diagram.svg`, their looks in `diagram.css`.
The vertical distance of two events grows with the time between them, by the logarithm: a millisecond stays visible
beside a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.story.diagram import parties_of, told_time
from harness.story.fold import fold, shorten_middle
from harness.story.plain import escaped, shorten
from harness.story.record import Event

GUTTER = 76  # left of the lifelines stand the times
MARGIN = 62  # right of the last lifeline
LANE, WIDEST_LANE = 216, 420  # between two lifelines
HEADER = 46
CHARACTER, LINE = 7.25, 15  # of the diagram's font, 12 pixels high
FEWEST_CHARACTERS = 12
LONGEST_NAME = 22
PAUSE_FROM = 0.001  # seconds; what follows sooner follows at once
MOST_PAUSE = 30  # pixels
BAR = 12
MOST_STEPS = 60
TALL = 700  # pixels


@dataclass(frozen=True)
class Step:
    """One event where it is drawn. `x` and `to` are its ends, equal for what concerns one party alone."""

    number: int
    event: Event
    top: float
    band: float  # the height of its row
    y: float
    x: float
    to: float
    lines: list[str]
    text_x: float
    anchor: str  # of the text: start, middle or end

    @property
    def time(self) -> str:
        return told_time(self.event.at)

    @property
    def text_y(self) -> float:
        """The baseline of the first line: beside a spot, above an arrow."""
        more = LINE * (len(self.lines) - 1)
        return self.y + 4 - more / 2 if self.alone else self.y - 7 - more

    @property
    def alone(self) -> bool:
        return self.x == self.to

    @property
    def tone(self) -> str:
        return "broken" if self.event.kind in ("owed", "broken") else self.event.kind

    @property
    def head(self) -> int:
        """Which way the arrow points: 1 to the right, -1 to the left."""
        return 1 if self.to > self.x else -1

    @property
    def short(self) -> int:
        """How much the shaft is shorter than the way, for the sake of the head."""
        return {"owed": 12, "reset": 12, "fin": 8}.get(self.event.kind, 7)

    @property
    def title(self) -> str:
        """What is said of it when a pointer rests on it."""
        event = self.event
        if event.kind == "gap":
            return f"{event.label}, left out here"
        way = event.source if self.alone else f"{event.source} → {event.target}"
        size = f" ({event.size:,} bytes)" if event.size else ""
        return f"{self.time}  {way}: {event.label}{size}"


@dataclass
class Span:
    """A stretch of a lifeline on which its party keeps something back (`held`), or is not there (`absent`)."""

    kind: str
    x: float
    top: float
    since: float
    hold: int
    party: str
    bottom: float = 0.0
    title: str = "to the end"
    open: bool = True


@dataclass
class Drawing:
    """Everything that is drawn, in pixels from the top left corner."""

    parties: dict[str, float]
    solution: str
    width: float
    height: float = 0.0
    steps: list[Step] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    tall: bool = False  # so that the names stand at the bottom as well
    left_out: int = 0  # events with parties that have no room

    @property
    def names(self) -> list[tuple[str, float, float]]:
        """Name, place, and width of its box."""
        return [
            (shorten(escaped(party), LONGEST_NAME), x, CHARACTER * min(len(escaped(party)), LONGEST_NAME) + 24)
            for party, x in self.parties.items()
        ]

    @property
    def left(self) -> float:
        return min(self.parties.values())

    @property
    def right(self) -> float:
        return max(self.parties.values())

    @property
    def description(self) -> str:
        """What the picture shows, for those who can't see it."""
        who = ", ".join(escaped(party) for party in self.parties)
        told = sum(step.event.size if step.event.kind == "gap" else 1 for step in self.steps)
        moments = [step for step in self.steps if step.tone == "broken"]
        end = f" The promise is broken {moments[-1].time} after the beginning." if moments else ""
        return f"A sequence diagram of {told:,} events between {who}.{end}"


def draw(events: Sequence[Event], solution: str) -> Drawing | None:
    """The diagram of a story; None when there are not two parties to draw."""
    parties = parties_of(list(events), solution)
    return lay_out(rows_of(events, MOST_STEPS), parties, solution) if len(parties) > 1 else None


def rows_of(events: Sequence[Event], most: int) -> list[Event]:
    """What gets a row: `events` folded, and about `most` of them at most, rather those of the end."""
    told = fold([event for event in events if event.kind != "open"])
    return shorten_middle(told, most // 4, most - most // 4)


def lay_out(rows: Sequence[Event], parties: Sequence[str], solution: str) -> Drawing:
    """Place each of `rows` below the one before it."""
    lane = max(LANE, WIDEST_LANE / (len(parties) - 1))
    places = {party: GUTTER + 40 + lane * number for number, party in enumerate(parties)}
    drawing = Drawing(places, solution, GUTTER + 40 + lane * (len(parties) - 1) + MARGIN)
    y, before = float(HEADER), 0.0
    for number, event in enumerate(rows):
        if event.kind != "gap" and not {event.source, event.target} <= places.keys():
            drawing.left_out += 1
            continue
        step, y = _step(number, event, y + _pause(event.at - before), drawing)
        drawing.steps.append(step)
        _follow(step, drawing)
        before = event.at
    drawing.height = y + 18
    for span in drawing.spans:
        if span.open:
            span.bottom = drawing.height
    drawing.tall = drawing.height > TALL
    if drawing.tall:
        drawing.height += HEADER
    return drawing


def _pause(seconds: float) -> float:
    """Pixels for the time that passed between two events."""
    return min(MOST_PAUSE, 8 * math.log2(1 + seconds / PAUSE_FROM) / 2) if seconds > PAUSE_FROM else 0.0


def _step(number: int, event: Event, top: float, drawing: Drawing) -> tuple[Step, float]:
    """An event whose row begins at `top`, and where the next row begins."""
    label = escaped(event.label)
    if event.kind == "gap":
        middle = (drawing.left + drawing.right) / 2
        return Step(number, event, top, 32, top + 17, middle, middle, [label], middle, "middle"), top + 32
    x, to = drawing.parties[event.source], drawing.parties[event.target]
    if event.source == event.target:
        anchor, room = _side(x, drawing)
        lines = wrap(label.removeprefix("✗ "), room)
        height = LINE * len(lines) + 14
        text_x = x + 14 if anchor == "start" else x - 14
        return Step(number, event, top, height, top + height / 2, x, to, lines, text_x, anchor), top + height
    lines = wrap(f"owed: {label}" if event.kind == "owed" else label, abs(to - x) - 30)
    height = LINE * len(lines) + 17
    return Step(number, event, top, height, top + height - 8, x, to, lines, (x + to) / 2, "middle"), top + height


def _side(x: float, drawing: Drawing) -> tuple[str, float]:
    """Where the words of a note have more room: right of its lifeline, or left of it."""
    right, left = drawing.width - x - 20, x - GUTTER - 20
    neighbours = [place for place in drawing.parties.values() if place > x]
    if neighbours:
        right = min(right, neighbours[0] - x - 24)
    return ("start", right) if right >= min(left, 150) else ("end", left)


def wrap(label: str, pixels: float) -> list[str]:
    """A label on one line, or cut between words into two; what does not fit ends in an ellipsis."""
    room = max(int(pixels / CHARACTER), FEWEST_CHARACTERS)
    if len(label) <= room:
        return [label]
    cut = label.rfind(" ", room // 2, room + 1)
    cut = room if cut < 0 else cut
    return [label[:cut], shorten(label[cut:].strip(), room)]


def _follow(step: Step, drawing: Drawing) -> None:
    """Begin or end the spans that this event begins or ends."""
    event = step.event
    if event.kind == "hold":
        beside = sum(span.open and span.kind == "held" and span.party == event.source for span in drawing.spans)
        x = step.x + min(beside, 3) * BAR / 2
        drawing.spans.append(Span("held", x, step.y, event.at, event.hold, event.source))
    elif event.kind == "down":
        drawing.spans.append(Span("absent", step.x, step.y, event.at, 0, event.source))
    elif event.kind in ("release", "up"):
        for span in drawing.spans:
            same = span.hold == event.hold if event.kind == "release" else span.kind == "absent"
            if span.open and same and span.party == event.source:
                span.open, span.bottom = False, step.y
                span.title = f"for {told_time(event.at - span.since)}"
