"""Stretches that are folded, and what is never folded away."""

from __future__ import annotations

from harness.story.fold import ROUNDS, essential, fold, shorten_middle
from harness.story.record import Event


def message(label: str, source: str = "alice", target: str = "bell") -> Event:
    return Event(0.0, "message", source, target, label)


def told(*events: Event) -> list[str]:
    return [event.label for event in fold(events)]


def test_a_stretch_of_like_events_keeps_its_ends():
    assert told(*(message(f"PUB a {n}") for n in range(100))) == ["PUB a 0", "98 more like it", "PUB a 99"]


def test_rounds_of_several_events_are_folded_as_rounds():
    rounds = [each for n in range(10) for each in (message(f"GET /{n}"), message(f"200 {n}", "bell", "alice"))]

    assert told(*rounds) == ["GET /0", "200 0", "16 more like these", "GET /9", "200 9"]


def test_fewer_rounds_are_told_in_full():
    events = [message(f"PUB {n}") for n in range(ROUNDS - 1)]

    assert told(*events) == [event.label for event in events]


def test_tags_payloads_and_numbers_do_not_make_a_difference_but_a_status_does():
    requests = [message(f'#{n} POST /p "key-{n}x" {{"a": {n}}}') for n in range(9)]
    answers = [message(f'#{n} {201 if n < 4 else 402} {{"id": "x{n}"}}', "bell", "alice") for n in range(8)]

    assert told(*requests)[1] == "7 more like it"
    assert [label for label in told(*answers) if "more" in label] == ["2 more like it", "2 more like it"]


def test_gaps_add_up_and_a_folded_story_stays_as_it_is():
    events = [message(f"PUB {n}") for n in range(50)]
    once = fold(events)

    assert fold(once) == once
    shortened = shorten_middle([*once, *(message(chr(97 + n) * 3) for n in range(20))], 1, 2)
    assert [event.label for event in shortened] == ["PUB 0", "67 more events", "sss", "ttt"]
    assert shortened[1].size == 67


def test_the_broken_moment_is_never_folded_away():
    events = [*(message(f"PUB {n}") for n in range(50)), Event(1.0, "owed", "bell", "alice", "PONG")]

    assert fold(events)[-1] is events[-1]
    assert shorten_middle(events, 0, 1)[-1] is events[-1]


def test_of_many_connections_between_two_the_first_is_told():
    opened = [Event(0.0, "open", "bell", "tower", f"({n}) connects") for n in range(5)]

    assert essential([*opened, message("x")]) == [opened[0], message("x")]
