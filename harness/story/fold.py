"""Long stretches of a story made short: rounds of like events, and the middle of what is too long.

What is left out leaves a `gap`, which says how many events there were. Text, SVG and HTML fold alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.story.record import Event

ROUNDS = 4  # like rounds in a row that are worth folding
LONGEST_ROUND = 4  # events of a round: a request, its answer, and what they cause elsewhere

TAG = re.compile(r"^(?:#\d+ |\(\d+\) )?")
STATUS = re.compile(r"[1-5]\d\d\b")
PAYLOAD = re.compile(r"␍␊|[{\"']")

Shape = tuple[str, str, str, str]


def essential(events: Sequence[Event]) -> list[Event]:
    """`events` without what nobody is told: of the connections between two parties only the first says who serves."""
    seen: set[tuple[str, str]] = set()
    told = []
    for event in events:
        way = (event.source, event.target)
        if event.kind != "open" or way not in seen:
            told.append(event)
        if event.kind == "open":
            seen.add(way)
    return told


def fold(events: Sequence[Event]) -> list[Event]:
    """`events` with the middle of every stretch of like rounds replaced by a gap."""
    shapes = [shape(event) for event in events]
    told: list[Event] = []
    at = 0
    while at < len(events):
        length, rounds = _stretch(shapes, at)
        end = at + length * rounds
        if rounds < ROUNDS:
            told.append(events[at])
            at += 1
            continue
        told += events[at : at + length]
        told.append(gap(events[at + length : end - length], "more like it" if length == 1 else "more like these"))
        told += events[end - length : end]
        at = end
    return told


def shorten_middle(events: Sequence[Event], opening: int, closing: int) -> list[Event]:
    """At most `opening` events of the beginning and `closing` of the end, with a gap between."""
    if len(events) <= opening + closing + 1:
        return list(events)
    return [*events[:opening], gap(events[opening:-closing], "more events"), *events[-closing:]]


def gap(left_out: Sequence[Event], what: str) -> Event:
    """What stands for events that are left out."""
    number = sum(event.size if event.kind == "gap" else 1 for event in left_out)
    first = left_out[0]
    return Event(first.at, "gap", first.source, first.source, f"{number:,} {what}", size=number)


def shape(event: Event) -> Shape:
    """What like events have in common: the same way, and the same words but for numbers and payloads."""
    tag = TAG.match(event.label)
    words = event.label[tag.end() if tag else 0 :]
    status = STATUS.match(words)
    start = status.end() if status else 0
    text = words[:start] + re.sub(r"\d+", "#", PAYLOAD.split(words[start:], maxsplit=1)[0])
    return event.kind, event.source, event.target, text


def _stretch(shapes: Sequence[Shape], at: int) -> tuple[int, int]:
    """The length of the rounds that begin at `at`, and how many there are; (1, 1) when they are not worth it."""
    for length in range(1, LONGEST_ROUND + 1):
        end = at + length
        while end < len(shapes) and shapes[end] == shapes[end - length]:
            end += 1
        rounds = (end - at) // length
        if rounds >= ROUNDS:
            return length, rounds
    return 1, 1
