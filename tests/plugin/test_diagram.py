"""Drawings of hand-made events, and the text around them."""

from __future__ import annotations

import io

import pytest
from _pytest._io import TerminalWriter

from harness.results import Result
from harness.story.diagram import MOST_ROWS, draw
from harness.story.plain import shorten, visible, visible_lines
from harness.story.record import HEAD, LONGEST_LABEL, MOST_EVENTS, TAIL, Event, Record
from harness.story.text import StoryText, tell
from harness.verdicts import Verdict

WIDTH = 80


def message(source: str, target: str, label: str, at: float = 0.001) -> Event:
    return Event(at, "message", source, target, label)


def drawn(*events: Event) -> list[str]:
    return [row.text for row in draw(list(events), "solution")]


def a_result(events: list[Event], **known: object) -> Result:
    about = {"kata": "bell", "folder": "katas/bell", "subject": "solution", "behaviour": "answers", "case": ""}
    rules = {"source": "The rules of bells §1", "url": "https://bells.example/rules#1", "hints": ["Read.", "Answer."]}
    sentence = {"sentence": "A bell answers.", "stage": 1, "points": 1, "hidden": False}
    verdict = {"verdict": Verdict.BROKEN, "message": "visitor is owed dong", "replay": "pytest katas/bell --seed=1"}
    story = {"story": [event.to_json() for event in events]}
    return Result(**(about | rules | sentence | verdict | story | known))  # type: ignore[arg-type]


def told(result: Result, brief: bool = False) -> str:
    return str(StoryText(tell(result, brief)))


# -- the diagram


def test_a_client_and_a_server_stand_on_their_sides_of_the_solution():
    lines = drawn(
        Event(0.0, "open", "alice", "solution", "connects"),
        message("alice", "solution", "POST /orders"),
        Event(0.0015, "open", "solution", "bank", "connects"),
        message("solution", "bank", "charge 5", 0.002),
        Event(0.0025, "note", "bank", "bank", "holds the answer"),
        Event(1.5, "reset", "alice", "solution", "hangs up (RST)"),
        Event(2.0, "owed", "solution", "alice", "201 Created"),
    )

    assert lines == [
        "         alice                          solution                          bank",
        " 1.0 ms    │── POST /orders ───────────────▶│                               │",
        " 2.0 ms    │                                │── charge 5 ──────────────────▶│",
        " 2.5 ms    │                                │              holds the answer ●",
        " 1.50 s    │── hangs up (RST) ─────────────▶│                               │",
        " 2.00 s    │✗┄┄ 201 Created ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄│                               │",
    ]


def test_the_broken_moment_stands_out():
    rows = draw(
        [
            message("alice", "solution", "PING"),
            Event(0.1, "owed", "solution", "alice", "PONG"),
        ],
        "solution",
    )

    assert [row.tone for row in rows] == ["plain", "plain", "broken"]
    assert "✗" in rows[-1].text


def test_nothing_is_drawn_of_a_solution_that_nobody_met():
    assert drawn() == []
    assert drawn(Event(0.0, "note", "solution", "solution", "is killed (SIGKILL)")) == []


def test_like_messages_are_folded():
    lines = drawn(*(message("alice", "solution", f"PUB a {number}") for number in range(100)))

    assert lines == [
        "         alice                                                        solution",
        " 1.0 ms    │── PUB a 0 ──────────────────────────────────────────────────▶│",
        "           ┊ ⋮ 98 more like it                                            ┊",
        " 1.0 ms    │── PUB a 99 ─────────────────────────────────────────────────▶│",
    ]


def test_three_like_messages_are_not_folded():
    assert len(drawn(*(message("alice", "solution", f"PUB a {number}") for number in range(3)))) == 4


def test_unlike_messages_are_not_taken_for_like_ones():
    lines = drawn(*(message("alice", "solution", word) for word in ("PING", "SUB a 1", "PING", "SUB a 2", "PING")))

    assert len(lines) == 6


def test_a_long_story_keeps_its_beginning_and_more_of_its_end():
    words = [f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(200)]
    lines = drawn(*(message("alice", "solution", word) for word in words))

    assert len(lines) == MOST_ROWS + 2
    assert "── aa ─" in lines[1]
    assert f"⋮ {200 - MOST_ROWS} more rows" in lines[7]
    assert f"── {words[-1]} ─" in lines[-1]


def test_of_many_parties_the_latest_and_the_busiest_are_drawn():
    events = [message(f"client-{number}", "solution", "PING") for number in range(50)]
    events += [message("client-7", "solution", word) for word in ("SUB", "UNSUB")]
    events += [message("client-3", "solution", "PUB")]

    lines = drawn(*events)

    assert lines[0].split() == ["client-0", "client-3", "client-7", "solution"]
    assert lines[-1].strip() == "(47 events with 47 other parties are not drawn)"


@pytest.mark.parametrize(
    "names", [["a"], ["a" * 40], ["anna", "b" * 40, "c"], [f"party-{n}-of-a-long-name" for n in range(9)]]
)
@pytest.mark.parametrize("label", ["x", "y" * 300, "SUB foo.bar 1␍␊" * 20])
def test_no_line_is_longer_than_the_page(names: list[str], label: str):
    events = [
        event
        for name in names
        for event in (
            Event(0.0, "open", name, "solution", "connects"),
            message(name, "solution", label, 12345.678),
            message("solution", name, label),
            Event(0.1, "note", name, name, label),
            Event(0.2, "note", "solution", "solution", label),
            Event(0.3, "owed", "solution", name, label),
        )
    ]

    lines = drawn(*events)

    assert len(lines) > 3
    assert [line for line in lines if len(line) > WIDTH] == []


def test_labels_that_do_not_fit_go_on_below_and_are_cut_with_an_ellipsis():
    lines = drawn(message("alice", "solution", "x" * 200))

    assert lines[1].startswith(" 1.0 ms    │── xxx")
    assert lines[1].endswith("xxx ─▶│")
    assert lines[2].rstrip(" │").endswith("xxx…")


# -- the record


def test_of_a_megabyte_the_ends_and_the_size_are_kept():
    record = Record(lambda: 1.0)

    record.add("message", "alice", "solution", "PUB", b"a" * HEAD + bytes(1 << 20) + b"z" * TAIL)

    (event,) = record.events
    assert (event.head, event.tail, event.size) == (b"a" * HEAD, b"z" * TAIL, (1 << 20) + HEAD + TAIL)


def test_a_label_is_no_payload():
    record = Record(lambda: 1.0)

    record.add("message", "alice", "solution", "x" * 5000)

    assert record.events[0].label == "x" * (LONGEST_LABEL - 1) + "…"


def test_the_ends_of_a_short_message_do_not_overlap():
    record = Record(lambda: 1.0)

    record.add("message", "alice", "solution", "PUB", bytes(range(256)) * 2 + b"tail")

    assert (record.events[0].head, record.events[0].tail) == (bytes(range(256)) * 2, b"tail")


def test_of_very_many_events_the_middle_is_dropped_and_counted():
    record = Record(lambda: 1.0)
    for number in range(MOST_EVENTS + 10):
        record.add("message", "alice", "solution", str(number))

    events = record.events
    assert record.dropped == 10
    assert (events[0].label, events[-1].label) == ("0", str(MOST_EVENTS + 9))
    (gap,) = [event for event in events if event.kind == "gap"]
    assert (len(events), gap.size, gap.label) == (MOST_EVENTS + 1, 10, "10 events were not kept")
    assert events.index(gap) == MOST_EVENTS // 2


def test_events_survive_the_way_between_processes():
    event = Event(0.5, "message", "alice", "solution", "PUB", b"\x00\xff", b"\x80", 3, "alice")

    assert Event.from_json(event.to_json()) == event


# -- the text


def test_a_story_tells_promise_breach_source_and_how_to_see_it_again():
    text = told(a_result([message("visitor", "solution", "ring")], output="a\x1b[31mb\n" * 20, detail=["more of it"]))

    lines = text.splitlines()
    names = [line.split()[0] for line in lines if line[:1].isalpha()]
    assert names == ["promise", "broken", "source", "printed", "hints", "again"]
    assert lines[0] == "promise     A bell answers."
    assert lines[3].startswith(" 1.0 ms     │── ring ──")
    assert [line[12:] for line in lines if "a␛[31mb" in line] == ["| a␛[31mb"] * 12, "the last lines of the output"
    assert "            more of it" in lines
    assert "source      The rules of bells §1" in lines
    assert "            https://bells.example/rules#1" in lines
    assert "hints       2 to be had: kata hint bell answers" in lines
    assert lines[-1] == "again       pytest katas/bell --seed=1"


@pytest.mark.parametrize("verdict", [Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT])
def test_verdict_and_message_stand_apart_on_lines_that_fit(verdict: Verdict):
    text = told(a_result([], verdict=verdict, message="visitor is owed " + "dong " * 60 + "x" * 200))

    assert f"\n{verdict.value} " in text
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


def test_hints_are_for_broken_promises():
    assert "hints " not in told(a_result([], verdict=Verdict.LIMIT))
    assert "hints " not in told(a_result([], hints=[]))


def test_a_brief_story_leaves_out_diagram_and_output():
    text = told(a_result([message("visitor", "solution", "ring")], output="loud"), brief=True)

    assert "── ring" not in text
    assert "loud" not in text
    assert "again " in text


@pytest.mark.parametrize("colour", [True, False])
def test_colours_go_where_the_terminal_wants_them(colour: bool):
    page = io.StringIO()
    writer = TerminalWriter(page)
    writer.hasmarkup = colour
    events = [message("visitor", "solution", "ring"), Event(0.1, "owed", "solution", "visitor", "dong")]

    StoryText(tell(a_result(events))).toterminal(writer)

    assert ("\x1b[" in page.getvalue()) is colour
    assert page.getvalue().count("\x1b[31m") == (2 if colour else 0), "the breach is red: in the diagram, and in words"


# -- foreign text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – ✓ ü 日本", "plain – ✓ ü 日本"),
        ("\x1b]8;;http://x\x07", "␛]8;;http://x␇"),
        ("a\r\nb\tc\0", "a␍␊b␉c␀"),
        ("\x7f\x9b31m", "␡\\x9b31m"),
        ("\u202eabc\u2066\u200b", "\\u202eabc\\u2066\\u200b"),
        ("\ud800", "\\ud800"),
        ("�", "�"),
    ],
)
def test_what_a_terminal_would_obey_is_made_visible(text: str, shown: str):
    assert visible(text) == shown


def test_every_character_is_visible_on_its_line():
    for code in range(0x20000):  # two planes, with all controls, formats, blanks and surrogates
        assert visible(chr(code)).isprintable() or chr(code) == "�"


def test_lines_stay_lines():
    assert visible_lines("a\tb\nc\x1b") == ["a   b", "c␛"]


def test_shortening_never_lengthens():
    assert [shorten("abcdef", width) for width in (0, 1, 3, 6, 9)] == ["…", "…", "ab…", "abcdef", "abcdef"]
