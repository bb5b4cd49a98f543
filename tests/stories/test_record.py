"""What is recorded, what is kept of it, and when it is put into words."""

from __future__ import annotations

import hashlib

import pytest

from harness.story import record as recording
from harness.story.diagram import draw
from harness.story.record import HEAD, TAIL, Event, Record

from .samples import ticking


def test_a_message_is_kept_by_reference_until_the_verdict():
    record, data = ticking(), bytes(1 << 20)

    record.add("message", "alice", "bell", "PUB", data)

    assert record._first[0].data is data


def test_what_may_change_is_copied():
    record, inbox = ticking(), bytearray(b"before")

    record.add("message", "alice", "bell", "PUB", inbox)
    record.add("message", "alice", "bell", "PUB", memoryview(inbox)[:3])
    inbox[:] = b"after!"

    assert [event.head for event in record.events] == [b"before", b"bef"]


def test_a_big_message_has_a_digest():
    record, data = ticking(), b"x" * 5000

    record.add("message", "alice", "bell", "PUB", data)

    (event,) = record.events
    assert event.digest == hashlib.sha256(data).hexdigest()[:16]
    assert not event.whole


def test_beyond_the_bound_only_ends_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "MOST_BYTES", 10_000)
    record, data = ticking(), b"a" * HEAD + bytes(8000) + b"z" * TAIL

    for _ in range(3):
        record.add("message", "alice", "bell", "PUB", data)

    first, *others = record.events
    assert [len(noted.data) for noted in record._first] == [len(data), HEAD + TAIL, HEAD + TAIL]
    assert first.digest
    for event in others:
        assert (event.head, event.tail, event.size) == (first.head, first.tail, first.size)
        assert event.digest == "", "nobody knows what stood between"


def test_a_label_is_made_when_the_story_is_told():
    record, asked = ticking(), []

    def label() -> str:
        asked.append(1)
        return "PUB"

    record.add("message", "alice", "bell", label)
    assert not asked

    assert record.events[0].label == "PUB"


def test_a_new_behaviour_begins_without_the_old_ones_story():
    record = ticking()
    for number in range(5000):
        record.add("message", "alice", "bell", str(number))

    record.begin()
    record.note("alice", "waits")

    assert [event.label for event in record.events] == ["waits"]
    assert record.dropped == 0


def test_the_broken_moment_stands_where_something_happened_last():
    record = ticking()
    record.note("alice", "waits")

    record.break_here()

    assert record.events[-1].kind == "broken"
    assert record.events[-1].at == record.events[0].at


def test_what_is_owed_is_the_broken_moment_itself():
    record = ticking()
    record.owed("bell", "alice", "dong")

    record.break_here()

    assert [event.kind for event in record.events] == ["owed"]


def test_nothing_happened_before_it_was_broken():
    record = ticking()

    record.break_here()

    assert [event.kind for event in record.events] == ["broken"]


def test_a_fact_is_told_again_only_when_it_has_changed():
    record = ticking()
    for number in (1, 1, 1, 2):
        record.fact(f"has {number} sockets open")

    assert [event.label for event in record.events] == ["has 1 sockets open", "has 2 sockets open"]


def test_a_party_that_keeps_something_back_is_seen_waiting_and_one_that_is_gone_is_seen_missing():
    record = Record(lambda: 0.0, "bell")
    record.add("message", "bell", "tower", "strike")
    hold = record.hold("tower", "holds it")
    record.add("message", "alice", "bell", "ring")
    record.release("tower", "lets it go", hold)
    record.down("bell", "is killed")
    record.add("message", "alice", "bell", "ring")
    record.up("bell", "is started again")
    record.add("message", "alice", "bell", "ring")

    rows = [row.text.rstrip()[-1] for row in draw([opened(), *record.events], "bell")[1:]]
    ends = [row.text for row in draw([opened(), *record.events], "bell")[1:]]

    assert rows == ["│", "●", "║", "●", "│", "│", "│", "│"]
    assert ["╎" in row for row in ends] == [False, False, False, False, False, True, False, False]


def opened() -> Event:
    return Event(0.0, "open", "bell", "tower", "connects")
