"""The parser of event streams agrees with one that nobody here wrote, on whatever streams may come, however cut."""

from __future__ import annotations

import httpx
import pytest
from httpx_sse import EventSource
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.wire.event_stream import Event, Parser

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n\0\ufeff", exclude_categories=["Cs"]), max_size=6)
NAMES = st.sampled_from(["data", "event", "id", "retry", "", "dat", "data ", "unknown"])
LINES = st.one_of(
    st.builds("{}: {}".format, NAMES, TEXT),
    st.builds("{}:{}".format, NAMES, TEXT),
    NAMES,
    st.just(""),
    st.just("data: x"),
    st.builds(":{}".format, TEXT),
)
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=14)


def ours(pieces: list[bytes]) -> list[Event]:
    events: list[Event] = []
    parser = Parser(events.append)
    for piece in pieces:
        parser.feed(piece)
    return events


def theirs(whole: bytes) -> list[tuple[str, str, str]]:
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=whole)
    return [(event.id, event.event, event.data) for event in EventSource(response).iter_sse()]


@settings(max_examples=300)
@given(STREAMS, st.integers(1, 7))
def test_it_dispatches_what_another_parser_dispatches(lines, size):
    whole = "".join(line + end for line, end in [*lines, ("data: last", "\n"), ("", "\n")]).encode()
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    got = [(event.id, event.type, event.data) for event in ours(pieces)]
    with_data = "\ndata" in "\n" + whole.decode().replace("\r", "\n")
    assert with_data
    # The other one also tells blocks without data, which the standard does not dispatch.
    wanted = [event for event in theirs(whole) if event[2] or event in got]
    assert [event for event in got if event[2]] == [event for event in wanted if event[2]]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [Event("", "message", "a", False)]),
        (b"data\n\n", [Event("", "message", "", False)]),
        (b"data:\ndata:\n\n", [Event("", "message", "\n", False)]),
        (b"event: x\n\ndata: a\n\n", [Event("", "message", "a", False)]),
        (b"id: 7\n\ndata: a\n\n", [Event("7", "message", "a", False)]),
        (b"id: 7\ndata: a\r\rdata: b\r\n\r\n", [Event("7", "message", "a"), Event("7", "message", "b", False)]),
        (b"id: a\0b\ndata:  x\n\n", [Event("", "message", " x", False)]),
        ("data: a\u2028b\x0bc\x85d\n\n".encode(), [Event("", "message", "a\u2028b\x0bc\x85d", False)]),
        (b"data: half", []),
    ],
)
def test_the_standard_in_examples(stream, events):
    assert ours([stream]) == events
    assert ours([bytes([byte]) for byte in stream]) == events


def test_a_byte_order_mark_and_broken_utf8_are_faults():
    for stream in (b"\xef\xbb\xbfdata: x\n\n", b"data: \xff\n\n"):
        with pytest.raises(ValueError):
            ours([stream])


def test_comments_and_retry_are_told_and_boundaries_known():
    parser = Parser(lambda event: None)
    parser.feed(b": one\n\nretry: 70\nretry: x\n\n")
    assert (parser.comments, parser.retry, parser.at_boundary) == (1, 70, True)
    parser.feed(b"data: x\n")
    assert not parser.at_boundary
