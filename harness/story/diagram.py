"""A record drawn as a sequence diagram of plain text, at most 80 columns wide.

    alice              solution               bob
      │── SUB foo 1 ─────▶│                     │
      │                   │┄┄ PONG ┄┄┄┄┄┄┄┄┄┄┄┄┄✗

Lifelines stand at fixed columns: clients of the solution to its left, servers that it uses to its right. Who keeps
something back is drawn as `║`, who is not there as `╎`. Long stretches of like messages are folded, and so are parties
that have no room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.story.fold import fold
from harness.story.plain import shorten, visible
from harness.story.record import Event

WIDTH = 80
TIME = 8
MOST_COLUMNS = 4
ROOM_FOR_TWO = 20  # columns
MOST_ROWS, OPENING_ROWS = 28, 6


@dataclass(frozen=True)
class Row:
    """One line of a diagram; `tone` is plain, quiet or broken."""

    text: str
    tone: str = "plain"


def draw(events: list[Event], solution: str, width: int = WIDTH) -> list[Row]:
    """The rows of the diagram of `events`."""
    told = [event for event in events if event.kind != "open"]
    parties = parties_of(events, solution)
    if len(parties) < 2:
        return []
    canvas = Canvas(parties, width)
    shown = [event for event in told if event.kind == "gap" or {event.source, event.target} <= canvas.at.keys()]
    rows = [canvas.header(), *_rows_of(fold(shown), canvas)]
    hidden = len(told) - len(shown)
    if hidden:
        others = len({party for event in told for party in (event.source, event.target)} - set(parties))
        rows.append(Row(f"{'':{TIME}}({hidden} events with {others} other parties are not drawn)", "quiet"))
    return rows


def parties_of(events: list[Event], solution: str) -> list[str]:
    """Who gets a lifeline, left to right: the latest and busiest first when there is not room for all."""
    told = [event for event in events if event.kind not in ("open", "gap")]
    everyone = dict.fromkeys(party for event in told for party in (event.source, event.target))
    everyone.pop(solution, None)
    if len(everyone) > MOST_COLUMNS - 1:
        busy = Counter(party for event in told for party in {event.source, event.target} - {solution})
        last = [party for event in reversed(told) for party in (event.source, event.target) if party != solution]
        ranked = list(dict.fromkeys(last[:2] + [party for party, _ in busy.most_common()]))
        everyone = {party: None for party in everyone if party in ranked[: MOST_COLUMNS - 1]}
    servers = {event.target for event in events if event.kind == "open" and event.source == solution}
    clients = [party for party in everyone if party not in servers]
    return [*clients, solution, *(party for party in everyone if party in servers)]


class Canvas:
    """The columns of a diagram."""

    def __init__(self, parties: list[str], width: int) -> None:
        left, right = (
            TIME + min(len(parties[0]) // 2, 8) + 1,
            width - min(len(parties[-1]) // 2, 8) - 2,
        )
        step = (right - left) / (len(parties) - 1)
        self.width = width
        self.at = {party: round(left + number * step) for number, party in enumerate(parties)}
        self.holds: dict[int, str] = {}  # what is kept back now, and by whom
        self.absent: set[str] = set()

    def lifelines(self, time: str = "") -> list[str]:
        line = list(f"{time:>{TIME - 1}}".ljust(self.width))
        waiting = set(self.holds.values())
        for party, column in self.at.items():
            line[column] = "╎" if party in self.absent else "║" if party in waiting else "│"
        return line

    def header(self) -> Row:
        line = [" "] * self.width
        for party, column in self.at.items():
            name = shorten(visible(party), 16)
            start = max(0, min(column - len(name) // 2, self.width - len(name)))
            line[start : start + len(name)] = name
        return Row("".join(line).rstrip())

    def arrow(self, event: Event) -> list[Row]:
        """A message, and below it a second line of its label when one is not enough."""
        broken = event.kind == "owed"
        line = self.lifelines(told_time(event.at))
        start, end = self.at[event.source], self.at[event.target]
        low, high = min(start, end), max(start, end)
        rightwards = end > start
        line[low + 1 : high] = ("┄" if broken else "─") * (high - low - 1)
        head = "✗" if broken else ("▶" if rightwards else "◀")
        line[high - 1 if rightwards else low + 1] = head
        first, second = _two_lines(visible(event.label), high - low - 7)
        at = low + 3 if rightwards else low + 4
        line[at : at + len(first) + 2] = f" {first} "
        rows = [Row("".join(line).rstrip(), "broken" if broken else "plain")]
        if second:
            below = self.lifelines()
            below[at + 1 : at + 1 + len(second)] = second
            rows.append(Row("".join(below).rstrip(), "quiet"))
        return rows

    def note(self, event: Event) -> Row:
        self._follow(event)
        line = self.lifelines(told_time(event.at))
        column = self.at[event.source]
        line[column] = "●"
        label = visible(event.label)
        room_right = self.width - column - 2
        if len(label) <= room_right or room_right >= column - TIME:
            label = f" {shorten(label, room_right)} "
            line[column + 1 : column + 1 + len(label)] = label
        else:
            label = f" {shorten(label, column - TIME - 2)} "
            line[column - len(label) : column] = label
        return Row("".join(line)[: self.width].rstrip())

    def _follow(self, event: Event) -> None:
        """Who keeps something back, and who is not there, from this event on."""
        match event.kind:
            case "hold":
                self.holds[event.hold] = event.source
            case "release":
                self.holds.pop(event.hold, None)
            case "down":
                self.absent.add(event.source)
            case "up":
                self.absent.discard(event.source)

    def gap(self, words: str) -> Row:
        line = ["┊" if character == "│" else character for character in self.lifelines()]
        label, at = f" ⋮ {words} ", min(self.at.values()) + 1
        line[at : at + len(label)] = label
        return Row("".join(line).rstrip(), "quiet")


def _two_lines(label: str, room: int) -> tuple[str, str]:
    """A label on one line, or cut between words into two; where there is little room, one line has to do."""
    if len(label) <= room or room < ROOM_FOR_TWO:
        return shorten(label, room), ""
    cut = label.rfind(" ", room // 2, room + 1)
    cut = room if cut < 0 else cut
    return label[:cut], shorten(label[cut:].strip(), room)


def told_time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _rows_of(events: list[Event], canvas: Canvas) -> Iterator[Row]:
    rows = [row for event in events for row in _rows(event, canvas)]
    if len(rows) > MOST_ROWS:
        closing = MOST_ROWS - OPENING_ROWS
        skipped = len(rows) - MOST_ROWS
        rows = [*rows[:OPENING_ROWS], canvas.gap(f"{skipped} more rows"), *rows[-closing:]]
    yield from rows


def _rows(event: Event, canvas: Canvas) -> list[Row]:
    if event.kind == "gap":
        return [canvas.gap(event.label)]
    return [canvas.note(event)] if event.source == event.target else canvas.arrow(event)
