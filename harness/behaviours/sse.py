"""What a push channel owes its publishers and its subscribers: the behaviours of the kata `sse`.

The harness is every client. "Nothing else came" is shown by a later event that must be the next thing seen. A client
that does not read is one whose kernel holds what the channel sent; then the rest waits in the channel, for certain.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.solution.program import STOPPED, Solution
from harness.verdicts import NotReached
from harness.wire.event_stream import Event, Subscriber
from harness.wire.http1 import Client, Request, Response

KIB = 1024
BIG = 60 * KIB
ROUND, ROUNDS = 30, 25
REPLAYED = 24  # big ones, several times what a kernel takes for a client that does not read
HEARTBEAT = 15  # ms
BEATING = {"HEARTBEAT_MS": HEARTBEAT}
KEPT = 5
FEW = {"REPLAY_EVENTS": KEPT}
RING = {"REPLAY_EVENTS": 32}
HASTY = {"SHUTDOWN_MS": 60}
JSON = [("Content-Type", "application/json")]
FAN_OUT = "fan_out_same_order"
RETRY_MS = 100  # as kata.toml has it
RESET = "stream-reset"
HTML = "https://html.spec.whatwg.org/multipage/server-sent-events.html"


def html(section: str, anchor: str, rule: str = "") -> Source:
    """A section of the HTML standard, beside the rule of the brief."""
    before = f"README {rule}; " if rule else ""
    return Source(f"{before}HTML §{section}", f"{HTML}#{anchor}")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


STREAMS = html("9.2.5 Parsing an event stream", "parsing-an-event-stream", "S1")
TEXT = html("9.2.6 Interpreting an event stream", "event-stream-interpretation", "S2")
LAST_ID = html("9.2.4 The Last-Event-ID header", "the-last-event-id-header", "S5")


class Channel:
    """The solution in the words of this kata; `name` is a stream of this behaviour's own."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution, self.chance = solution, chance
        self.name = self.stream()
        self.publisher = Client(solution, "publisher")

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def stream(self) -> str:
        return f"s-{self.word()}"

    def target(self, name: str = "") -> str:
        return f"/streams/{name or self.name}"

    def subscribe(
        self, who: str, last_id: str | bytes | None = None, name: str = "", stuck: bool = False
    ) -> Subscriber:
        """Follow a stream, and wait until it has begun."""
        return Subscriber(self.solution, who, self.target(name), last_id, stuck=stuck).subscribed()

    def post(self, document: Any, name: str = "", client: Client | None = None) -> Response:
        """POST a document, or bytes, as it is."""
        body = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        return (client or self.publisher).request(
            "POST", self.target(name), [("Content-Type", "application/json")], body
        )

    def publish(self, data: str, event: str = "", name: str = "", client: Client | None = None) -> str:
        """Publish an event; its id."""
        identifier: str = self.told(data, event, name, client)["id"]
        return identifier

    def told(self, data: str, event: str = "", name: str = "", client: Client | None = None) -> dict[str, Any]:
        """Publish an event; what the channel says of it."""
        reply = self.post({"data": data} | ({"event": event} if event else {}), name, client)
        assert reply.status == 201, f"an event is published with 201, and came {reply}"
        document = reply.json()
        assert isinstance(document, dict), "the body of a 201 is an object"
        identifier, subscribers = document.get("id"), document.get("subscribers")
        assert isinstance(identifier, str), f"`id` is a string, and not {identifier!r}"
        assert re.fullmatch("[!-~]{1,64}", identifier), f"an id is 1 to 64 printable ASCII characters: {identifier!r}"
        assert isinstance(subscribers, int), f"`subscribers` is a number, and not {subscribers!r}"
        return document

    def publish_all(self, number: int, size: int = 0, name: str = "") -> list[str]:
        """Publish numbered events, each filled up to `size` bytes; their data."""
        texts = [f"{index}-{self.word()}".ljust(size, ".") for index in range(number)]
        for text in texts:
            self.publish(text, name=name)
        return texts

    def delete(self, name: str = "") -> Response:
        return self.publisher.request("DELETE", self.target(name))

    def get(self, last_id: str = "", name: str = "") -> Response:
        """A GET that is to be answered without a stream."""
        headers = [("Last-Event-ID", last_id)] if last_id else []
        return Request(self.solution, "client", "GET", self.target(name), headers).response()

    def fence(self, *subscribers: Subscriber, name: str = "") -> None:
        """A last event is the next thing that each of them sees after what was waited for: nothing stands between."""
        seen = [subscriber.taken for subscriber in subscribers]
        text = f"fence-{self.word()}"
        self.publish(text, name=name)
        for subscriber, before in zip(subscribers, seen, strict=True):
            event = subscriber.until(before + 1, "the next event")[before]
            assert event.data == text, f"{subscriber.name} is owed {text} next, and got {event.data[:60]!r}"

    def stuck(self, who: str, last_id: str | None = None, pending: int = 0) -> tuple[Subscriber, int]:
        """A subscriber that does not read, and for which the channel holds more than the kernel takes.

        With `pending` bytes to be replayed these fill the kernel, else as many events are published as it takes;
        their number is returned.
        """
        slow = self.subscribe(who, last_id, stuck=True)
        number = 0 if pending else 6  # as many as most kernels need
        self.publish_all(number, BIG)
        self.solution.settled()
        published = pending + number * BIG
        while published - self.solution.kernel_holds(slow.connection) - slow.connection.received < 192 * KIB:
            if published > 40 * BIG:
                raise NotReached(
                    "the scene could not be set: the channel goes on sending to a client that does not read"
                )
            self.publish_all(4, BIG)
            number += 4
            published += 4 * BIG
            self.solution.settled()
        return slow, number

    def fill_until_level(self, what: str) -> list[str]:
        """Publish on and on until that takes no memory any more; all the data. A garbage collector takes its time."""
        everything: list[str] = []
        for _ in range(ROUNDS):
            before = self.solution.memory_bytes()
            everything += self.publish_all(ROUND, BIG)
            if self.solution.memory_bytes() - before < ROUND * BIG / 4:
                return everything
        raise AssertionError(f"{what}: {ROUNDS} times {ROUND} events of {BIG >> 10} KiB, and memory grew each time")


@pytest.fixture
def channel(solution: Solution, chance: random.Random) -> Iterator[Channel]:
    channel = Channel(solution, chance)
    yield channel
    channel.publisher.close()


def texts(events: Sequence[Event]) -> list[str]:
    return [event.data for event in events]


def owed(data: str) -> str:
    """What a client receives of published data: the format can't tell the three ends of a line apart."""
    return data.replace("\r\n", "\n").replace("\r", "\n")


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=html("9.2.5 Parsing an event stream", "parsing-an-event-stream", "GET"))
@incident(
    "httpx-sse 0.4.3 makes an empty message of a block that holds nothing but `retry`: readers differ, so the "
    "first block has to be exact."
)
def test_stream_head_first(channel: Channel) -> None:
    """Head and `retry` arrive before there is any event; type, caching and length are as a stream needs them."""
    reader = channel.subscribe("reader")

    kind = reader.header("content-type").replace(" ", "").lower()
    assert kind in ("text/event-stream", "text/event-stream;charset=utf-8"), f"text/event-stream is owed, not {kind!r}"
    caching = reader.header("cache-control").lower()
    assert "no-store" in caching or "no-cache" in caching, f"Cache-Control keeps caches away, and is {caching!r}"
    assert not reader.header("content-length"), "a stream has no Content-Length"
    assert not reader.header("content-encoding"), "a stream is not compressed"
    channel.solution.until(lambda: reader.parser.retry is not None, f"retry: {RETRY_MS}", reader.name)
    assert reader.parser.retry == RETRY_MS, f"RETRY_MS is {RETRY_MS}, and the stream says {reader.parser.retry}"


@behaviour(stage=1, source=html("9.2.6 Interpreting an event stream", "event-stream-interpretation", "S1"))
def test_event_arrives_alone(channel: Channel) -> None:
    """One small event arrives complete, though nothing follows it."""
    reader = channel.subscribe("reader")
    text = channel.word()
    channel.publish(text)

    assert reader.until(1, "the event that was published")[0].data == text, "the published data is owed"


@behaviour(stage=1, source=STREAMS, needs="event_arrives_alone")
def test_fields_on_wire(channel: Channel) -> None:
    """Id, type and data of an event are those of its publication; without a type it is a `message`."""
    reader = channel.subscribe("reader")
    first = channel.publish("one", "greeting")
    second = channel.publish("two")
    third = channel.publish("three", "a b:c")

    got = [(event.id, event.type, event.data) for event in reader.until(3)]
    assert got == [(first, "greeting", "one"), (second, "message", "two"), (third, "a b:c", "three")], (
        f"id, type and data as they were published are owed, and came {got}"
    )
    assert all(event.own_id for event in reader.events), "each event carries its id"


@behaviour(stage=1, source=brief("POST", "201"), needs="event_arrives_alone")
def test_publish_answers(channel: Channel) -> None:
    """A publication is answered with an id of its own and the number of open subscriptions."""
    documents = [channel.told("nobody hears it")]
    readers = [channel.subscribe(who) for who in ("ann", "ben", "cem")]
    documents.append(channel.told("three hear it"))

    counts = [document["subscribers"] for document in documents]
    assert counts == [0, 3], f"0 and then 3 subscriptions are open, and the channel counts {counts}"
    assert len({document["id"] for document in documents}) == 2, "each event has an id of its own"
    for reader in readers:
        assert reader.until(1)[0].data == "three hear it", "all three hear it"


@behaviour(stage=1, source=brief("S4", "one order"), needs="event_arrives_alone")
def test_fan_out_same_order(channel: Channel) -> None:
    """All subscribers of a stream see all its events in the order of publication, and none of another stream."""
    other = channel.stream()
    readers = [channel.subscribe(who) for who in ("ann", "ben")]
    stranger = channel.subscribe("stranger", name=other)
    mine, theirs = [], []
    for number in range(8):
        mine += [f"mine {number}"]
        channel.publish(mine[-1])
        theirs += [f"theirs {number}"]
        channel.publish(theirs[-1], name=other)

    for reader in readers:
        assert texts(reader.until(8)) == mine, f"{mine} are owed to {reader.name}, and came {texts(reader.events)}"
    assert texts(stranger.until(8)) == theirs, "each stream has its own events"
    channel.fence(*readers)
    channel.fence(stranger, name=other)


@behaviour(stage=1, points=2, source=LAST_ID, needs="fields_on_wire")
@hints(
    "Which number does a subscription begin with: with header, without?",
    "Keep the last events in order, each with its id.",
    "Number the events; a subscription is the number of the next one to send.",
)
def test_resume_exact(channel: Channel) -> None:
    """Last-Event-ID gives exactly the events after it; the newest id gives none, and no header gives none."""
    ids = [channel.publish(f"event {number}") for number in range(4)]
    for position, last_id in enumerate(ids):
        rest = [f"event {number}" for number in range(position + 1, 4)]
        reader = channel.subscribe("returner", last_id)
        assert texts(reader.until(len(rest))) == rest, f"after event {position} {rest} are owed"
        reader.hang_up()
    newest = channel.publish("newest")
    readers = [channel.subscribe("up to date", newest), channel.subscribe("fresh"), channel.subscribe("empty", "")]
    channel.fence(*readers)
    middle = channel.subscribe("middle", ids[2])
    assert texts(middle.until(2)) == ["event 3", "newest"], (
        "what follows the event that was seen last is owed, and nothing before"
    )


@behaviour(stage=1, settings=BEATING, source=html("9.2.7 Authoring notes", "authoring-notes", "S3"))
@incident("Nchan sends `event: ping` without data as its heartbeat, where the format has comments for it.")
def test_heartbeat_comments(channel: Channel) -> None:
    """A silent stream carries comments, about one in HEARTBEAT_MS, and they are no events."""
    began = waiting.now()
    reader = channel.subscribe("reader")
    seen = f"three comments: HEARTBEAT_MS is {HEARTBEAT}"
    channel.solution.until(lambda: reader.parser.comments >= 3, seen, reader.name)
    waiting.elapse(channel.solution, 2 * HEARTBEAT)  # so that too many are many, on a slow machine too
    passed = (waiting.now() - began) * 1000
    most = passed / HEARTBEAT + 2
    assert reader.parser.comments <= most, f"{reader.parser.comments} comments came within {passed:.0f} ms"
    assert not reader.events, "a comment dispatches nothing"
    channel.publish("an event")
    reader.until(1)
    before = reader.parser.comments
    channel.solution.until(lambda: reader.parser.comments > before, "comments after an event too", reader.name)
    channel.fence(reader)


BAD = [
    (b"{", "no JSON"),
    (b'"text"', "no object"),
    (b"{}", "no data"),
    (b'{"data": 7}', "data is no string"),
    (b'{"data": null}', "data is null"),
    (b'{"data": "x", "event": 7}', "the type is no string"),
    (b'{"data": "x", "event": "' + b"e" * 65 + b'"}', "the type has 65 characters"),
    (b'{"data": "x", "event": "stream-reset"}', "stream-reset is the channel's own"),
    (b'\xff{"data": "x"}', "no UTF-8"),
]


@behaviour(stage=1, source=rfc(9110, "15.5.1", "400 Bad Request"), needs="event_arrives_alone")
def test_bad_events_refused(channel: Channel) -> None:
    """Malformed, mistyped and oversized publications get their 4xx, and no subscriber sees anything of them."""
    reader = channel.subscribe("reader")
    for body, why in BAD:
        reply = channel.post(body)
        assert reply.status == 400, f"{why}: 400 is owed, and came {reply}"
    reply = channel.post({"data": "é" * 32768 + "x"})
    assert reply.status == 413, f"65537 bytes of UTF-8 are too long: 413 is owed, and came {reply}"
    longest = "é" * 32768
    channel.publish(longest)
    assert reader.until(1)[0].data == longest, "65536 bytes are allowed, and arrive"
    channel.fence(reader)
    reply = channel.post({"data": "x"}, name="no.such.name")
    assert reply.status == 404, f"a name has only letters, digits, _ and -: 404 is owed, and came {reply}"


# -- stage 2: edges -------------------------------------------------------------------------------------------------

LINES = [
    "a\nb",
    "a\r\nb",
    "a\rb",
    "a\n",
    "\na",
    "\n",
    "\r\r\n\n",
    " a",
    "  a\n b",
    "",
    "a\n\nb",
    "a\r",
    ":a\n:b",
    "a\n\n",
]


def assert_carried(channel: Channel, published: Sequence[str]) -> None:
    reader = channel.subscribe("reader")
    for number, data in enumerate(published, 1):
        channel.publish(data)
        came = reader.until(number, f"the event with data {data!r}")[-1].data
        assert came == owed(data), f"{owed(data)!r} is owed for the data {data!r}, and came {came!r}"
    channel.fence(reader)


@behaviour(stage=2, hidden=True, points=3, source=TEXT, needs="event_arrives_alone")
def test_data_lines(channel: Channel) -> None:
    """LF, CRLF and CR all end lines; trailing ones, leading blanks and empty data survive."""
    assert_carried(channel, LINES)


NO_LINE_ENDS = "\u2028 \u2029 \v \f \x1c \x1d \x1e \x85 \0 \ufeff 😀 é"


@behaviour(stage=2, hidden=True, points=3, source=TEXT, needs="event_arrives_alone")
@hints(
    "Compare what Python and the HTML standard call a line.",
    "`str.splitlines` knows eight more ends of a line than the format does.",
    "`re.split('\\r\\n|\\n|\\r', data)`",
)
@incident(
    "`str.splitlines()` knows more line ends than the format does: it tore payloads with U+2028 in FastAPI "
    "(#15515) and, on the reading side, in httpx-sse (#34)."
)
def test_data_verbatim(channel: Channel) -> None:
    """All other characters are carried as they are, also those that other languages take for the end of a line."""
    around = [f"{channel.word()}{character}{channel.word()}" for character in NO_LINE_ENDS.split(" ")]
    assert_carried(channel, [*around, "\ufeffbegins", "id: 9", "event: x", ": x", "data: x", "retry: 1", "tail  "])


@behaviour(
    stage=2,
    hidden=True,
    points=5,
    source=Source("README S2; CWE-93; GHSA-4hxc-9384-m385", "https://github.com/advisories/GHSA-4hxc-9384-m385"),
    needs="data_lines",
)
@hints(
    "Which characters end a line for the client, and on which of them do you split?",
    "A lone CR is enough.",
    "Refuse CR and LF in types, split data at all three ends of a line, and prefix every piece.",
)
@incident(
    "Whoever could publish could forge events: h3 let line ends through in event names and a lone CR in data "
    "(GHSA-4hxc-9384-m385), and so did django-eventstream (#185), flask-sse (#40) and express-sse (#60). Nchan "
    "1.3.6 still sends a lone CR as it is."
)
def test_no_field_injection(channel: Channel) -> None:
    """Neither a type nor data can add a field, an event or an id."""
    reader = channel.subscribe("reader")
    for end in ("\r", "\n", "\r\n"):
        reply = channel.post({"data": "x", "event": f"a{end}data: forged{end}{end}"})
        assert reply.status == 400, f"a type with {end!r} in it is refused with 400, and came {reply}"
    evil = "a\rid: 666\r\rdata: forged\n\nevent: evil\rdata: forged"
    identifier = channel.publish(evil)
    (event,) = reader.until(1)
    assert (event.id, event.type, event.data) == (identifier, "message", owed(evil)), f"one event is owed, came {event}"
    channel.fence(reader)
    assert len(reader.events) == 2, f"one publication is one event, and these came: {reader.events}"
    after = channel.subscribe("returner", identifier)
    assert after.until(1)[0].data.startswith("fence"), "the id of the event is still the one that was told"


@behaviour(stage=2, hidden=True, source=rfc(8259, "8.2", "Unicode Characters"), needs="bad_events_refused")
def test_poison_text_refused(channel: Channel) -> None:
    """Text that has no UTF-8 form is refused at the door, and kills nobody's stream."""
    readers = [channel.subscribe(who) for who in ("ann", "ben")]
    for body in (b'{"data": "a\\ud800b"}', b'{"data": "x", "event": "\\udfff"}'):
        reply = channel.post(body)
        assert reply.status == 400, f"an unpaired surrogate can't be sent: 400 is owed, and came {reply}"
    channel.fence(*readers)


@behaviour(
    stage=2, hidden=True, points=3, settings=FEW, source=brief("S6", "events were evicted"), needs="resume_exact"
)
def test_gap_says_reset(channel: Channel) -> None:
    """A resume point with evicted successors gets stream-reset first, then all that is kept; others get none."""
    ids = [channel.publish(f"event {number}") for number in range(9)]
    kept = [f"event {number}" for number in range(4, 9)]
    for lost in (0, 2):
        reader = channel.subscribe("returner", ids[lost])
        events = reader.until(6, "stream-reset, and the five events that are kept")
        assert_reset(events[0])
        assert texts(events[1:]) == kept, f"after the reset {kept} are owed, and came {texts(events[1:])}"
    for known in range(4, 9):
        reader, rest = channel.subscribe("returner", ids[known]), kept[known - 3 :]
        assert texts(reader.until(len(rest))) == rest, f"after event {known} {rest} are owed, without a reset"
        if known == 8:
            channel.fence(reader)


def assert_reset(event: Event) -> None:
    assert event.type == RESET, f"events are missing: {RESET} is owed first, and came {event.type} {event.data[:40]!r}"
    assert event.data, "the data of a reset is not empty, else no browser would dispatch it"
    assert not event.own_id, "a reset carries no id: it is no event of the stream"


@behaviour(stage=2, hidden=True, source=LAST_ID, needs="gap_says_reset")
@incident("Nchan replays what it has for an id that it does not know, and says nothing of the gap.")
def test_odd_last_event_id(channel: Channel) -> None:
    """Any Last-Event-ID is survived: one that is known nowhere gets a reset."""
    newest = channel.publish("kept")
    for odd in ("nobody", "-1", "9" * 40, "0", b"\xff\xfe", "a b", f"{newest}x", "²"):
        value = odd if isinstance(odd, bytes) else odd.encode()
        reader = channel.subscribe("returner", value)
        events = reader.until(2, f"stream-reset for the unknown id {odd!r}, and the event that is kept")
        assert_reset(events[0])
        assert events[1].data == "kept", "after a reset everything that is kept is owed"
        reader.hang_up()
    reader = Subscriber(channel.solution, "returner", channel.target(), "x" * 8192)
    reader.solution.until(lambda: reader.status or reader.connection.ended, "an answer to an id of 8 KiB", reader.name)
    assert reader.status is None or reader.status < 500, f"an id of 8 KiB is no fault of the server: {reader.status}"
    channel.fence(channel.subscribe("fresh"))


@behaviour(stage=2, hidden=True, settings=FEW, source=brief("S5", "of EACH stream"), needs="gap_says_reset")
def test_replay_is_per_stream(channel: Channel) -> None:
    """Each stream keeps exactly its own last REPLAY_EVENTS events, however busy the others are."""
    ids = [channel.publish(f"event {number}") for number in range(6)]
    channel.publish_all(12, name=channel.stream())

    rest = [f"event {number}" for number in range(1, 6)]
    reader = channel.subscribe("returner", ids[0])
    assert texts(reader.until(5)) == rest, f"{rest} are kept for a quiet stream, and came {texts(reader.events)}"
    stranger = channel.subscribe("stranger", "unknown")
    events = stranger.until(6, "stream-reset and exactly 5 events")
    assert_reset(events[0])
    assert texts(events[1:]) == rest, f"REPLAY_EVENTS is 5, and came {texts(events[1:])}"
    channel.fence(reader, stranger)


@behaviour(stage=2, hidden=True, source=rfc(9110, "15.3.5", "204 No Content"), needs="resume_exact")
def test_closed_stream_204(channel: Channel) -> None:
    """After DELETE subscribers get what they are owed and a proper end, new GETs 204, and POSTs 410."""
    reader = channel.subscribe("reader")
    slow, number = channel.stuck("slow")
    channel.publish("last words")
    for _ in range(2):
        assert channel.delete().status == 204, "DELETE is answered with 204, also the second time"
    assert len(reader.until_end()) == number + 1, "everything that was published before the end is owed"
    slow.connection.read_again()
    assert texts(slow.until_end())[-1] == "last words", "also to a client that was slow"
    assert len(slow.events) == number + 1, f"{number + 1} events are owed to it, and {len(slow.events)} came"
    reply = channel.get()
    assert (reply.status, reply.body) == (204, b""), f"204 tells a browser to stop, and came {reply}"
    reply = channel.post({"data": "too late"})
    assert reply.status == 410, f"a closed stream takes no events: 410 is owed, and came {reply}"


@behaviour(stage=2, hidden=True, source=brief("DELETE", "who was away"), needs="closed_stream_204")
def test_final_events_not_lost(channel: Channel) -> None:
    """Who was away when the stream closed still gets its last events, once, and then 204."""
    ids = [channel.publish(f"event {number}") for number in range(3)]
    assert channel.delete().status == 204, "DELETE is answered with 204"

    reader = channel.subscribe("returner", ids[0])
    assert texts(reader.until_end()) == ["event 1", "event 2"], f"the rest is owed, and came {texts(reader.events)}"
    reply = channel.get(ids[2])
    assert reply.status == 204, f"nothing is left: 204 is owed, and came {reply}"


@behaviour(stage=2, hidden=True, source=rfc(9110, "15.5.6", "405 Method Not Allowed"), needs="publish_answers")
@incident("With one route for each method, Starlette's 405 names only `GET, HEAD` as allowed.")
def test_head_and_methods(channel: Channel) -> None:
    """HEAD ends at once and is no subscription; other methods are 405, with all that is allowed."""
    client = Client(channel.solution, "client")
    reply = Request(channel.solution, "client", "HEAD", channel.target(), []).response()
    assert reply.status in (200, 405), f"HEAD is answered as GET is, or 405, and came {reply}"
    assert not reply.body, "the answer to HEAD has no body"
    for method in ("PUT", "PATCH"):
        reply = client.request(method, channel.target(), body=b"{}")
        assert reply.status == 405, f"{method} is 405, and came {reply}"
        allowed = {word.strip() for word in (reply.header("allow") or "").split(",")}
        assert allowed >= {"GET", "POST", "DELETE"}, f"Allow names GET, POST and DELETE, and is {sorted(allowed)}"
    count = channel.told("nobody is there")["subscribers"]
    assert count == 0, f"HEAD is no subscription, and {count} are counted"
    client.close()


@behaviour(stage=2, hidden=True, source=rfc(9112, "6.1", "Transfer-Encoding"), needs="event_arrives_alone")
def test_old_and_strict_clients(channel: Channel) -> None:
    """HTTP/1.0 gets no chunks; chunks are exact for text of any length in bytes; POSTs may share a connection."""
    old = Subscriber(channel.solution, "old client", channel.target(), version="1.0").subscribed()
    new = channel.subscribe("new client")
    for text in ("é" * 99, "😀", "plain"):
        channel.publish(text)
    for reader in (old, new):
        assert texts(reader.until(3)) == ["é" * 99, "😀", "plain"], f"three events are owed to the {reader.name}"
    assert not old.header("transfer-encoding"), "a client of HTTP/1.0 knows no Transfer-Encoding"
    assert channel.publisher.connections == 1, "after a POST the connection can be used for the next one"
    target, body = channel.target(), b'{"data": "bit by bit"}'
    request = Request(channel.solution, "drip", "POST", target, JSON, body, len(body))
    for byte in body:
        request.connection.send(bytes([byte]))
    assert request.response().status == 201, "a body may come byte by byte"
    assert new.until(4)[3].data == "bit by bit", "and is an event as any other"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, hidden=True, source=brief("GET", "who has the head misses nothing"), needs="event_arrives_alone")
def test_head_means_subscribed(channel: Channel) -> None:
    """Who has the head of the response misses nothing that is published later."""
    for number in range(8):
        name = channel.stream()
        reader = channel.subscribe(f"reader {number}", name=name)
        text = channel.word()
        channel.publish(text, name=name)
        assert reader.until(1, "an event that was published after the head had come")[0].data == text
        reader.hang_up()


def assert_each_once(came: Sequence[str], wanted: Sequence[str]) -> None:
    """Exactly these, in this order; else what is wrong in a few words."""
    if list(came) == list(wanted):
        return
    missing = [text[:16].rstrip(".") for text in wanted if text not in set(came)]
    twice = [text[:16].rstrip(".") for text in dict.fromkeys(came) if came.count(text) > 1]
    raise AssertionError(
        f"{len(wanted)} events are owed, each once and in order; {len(came)} came, missing: {missing}, twice: {twice}"
    )


@behaviour(stage=3, hidden=True, points=5, source=brief("S5", "no gap and no repetition"), needs="resume_exact")
@hints(
    "Between the last replayed event and the first live one, who remembers what was published?",
    "To register after the replay loses, to register before it repeats.",
    "Let every subscription be a cursor over one ring: replay and live are then the same loop.",
)
@incident(
    "Tried with twenty events in the middle of a replay: a server that registers its reader after the replay lost"
    " exactly these twenty in every run, one that registers before it repeated exactly these twenty."
)
def test_switchover_exact(channel: Channel) -> None:
    """Events that are published in the middle of a replay arrive once, after it, and in order."""
    first = channel.publish("seen before")
    replayed = channel.publish_all(REPLAYED, BIG)
    reader, number = channel.stuck("returner", first, pending=REPLAYED * BIG)
    assert not number, "the replay fills the kernel"
    meanwhile = channel.publish_all(10)
    channel.solution.settled()
    reader.connection.read_again()

    came = texts(reader.until(REPLAYED + 10))
    assert_each_once(came, [*replayed, *meanwhile])
    channel.fence(reader)


@behaviour(stage=3, hidden=True, settings=RING, source=brief("S7", "a gapless prefix"), needs="switchover_exact")
def test_eviction_during_replay(channel: Channel) -> None:
    """If the rest of a replay is evicted meanwhile, the client gets a prefix without a gap, and a proper end."""
    first = channel.publish("seen before")
    replayed = channel.publish_all(REPLAYED, BIG)
    reader, _ = channel.stuck("returner", first, pending=REPLAYED * BIG)
    everything = [*replayed, *channel.publish_all(40)]
    channel.solution.settled()
    reader.connection.read_again()

    assert_gapless(channel, reader, everything)


def assert_gapless(channel: Channel, reader: Subscriber, everything: Sequence[str]) -> None:
    """The reader gets the beginning of everything and a proper end, or a reset; or everything."""
    over = lambda: len(reader.events) >= len(everything) or reader.complete or reader.connection.ended  # noqa: E731
    channel.solution.until(over, "the end of the stream, or all events", reader.name)
    came = texts(reader.events)
    assert came == list(everything[: len(came)]), (
        f"a client that fell behind gets what comes next, or an end, and never a gap: after {len(came)} events "
        f"{_first_gap(came, everything)} was skipped"
    )
    if len(came) < len(everything) and not reader.connection.was_reset:
        reader.until_end()
    assert came, "what was under way to the client is still owed"


def _first_gap(came: Sequence[str], everything: Sequence[str]) -> str:
    pairs = zip(came, everything, strict=False)
    return next((repr(wanted[:16]) for text, wanted in pairs if text != wanted), "nothing")


@behaviour(stage=3, hidden=True, source=brief("S7", "never blocks others"), needs="fan_out_same_order")
def test_slow_one_isolated(channel: Channel) -> None:
    """A client that does not read delays neither publishers nor other subscribers."""
    fast = channel.subscribe("fast")
    slow, number = channel.stuck("slow")
    fast.until(number)
    more = channel.publish_all(8)

    assert texts(fast.until(number + 8))[number:] == more, "the others get what is published, at once"
    slow.connection.read_again()
    assert texts(slow.until(number + 8))[number:] == more, "and the slow one, when it reads again"


@behaviour(stage=3, hidden=True, source=brief("S4, S5", "the order of delivery"), needs="resume_exact")
@hints(
    "When do you take the number, and when do you append?",
    "Whatever is awaited between the two lets another publisher overtake.",
    "Read and check the body first; then number, append and wake without an await in between.",
)
def test_ids_follow_delivery(channel: Channel) -> None:
    """The order of ids in resume is the order of delivery, even if the earlier POST is complete later."""
    reader = channel.subscribe("reader")
    body = b'{"data": "began first"}'
    early = Request(channel.solution, "early", "POST", channel.target(), JSON, body, missing=1)
    channel.solution.settled()
    second = channel.publish("began second")
    early.connection.send(body[-1:])
    assert early.response().status == 201, "the first publication is complete now"

    assert texts(reader.until(2)) == ["began second", "began first"], "events are delivered when they are complete"
    returner = channel.subscribe("returner", second)
    assert texts(returner.until(1)) == ["began first"], "after the id of the one exactly the other is owed"
    channel.fence(returner)


@behaviour(stage=3, hidden=True, source=brief("S4", "one order for all"), needs="fan_out_same_order")
def test_one_order_for_all(channel: Channel) -> None:
    """Parallel publishers: there is one order for all, it keeps each publisher's own, and resume follows it."""
    readers = [channel.subscribe(who) for who in ("ann", "ben", "cem")]
    told: dict[str, str] = {}
    for round_ in range(4):
        bodies = [json.dumps({"data": f"p{number} {round_}"}).encode() for number in range(6)]
        requests = [
            Request(channel.solution, f"p{number}", "POST", channel.target(), JSON, body)
            for number, body in enumerate(bodies)
        ]
        replies = [request.response() for request in requests]
        assert [reply.status for reply in replies] == [201] * 6, "each publication is answered with 201"
        told |= {f"p{number} {round_}": reply.json()["id"] for number, reply in enumerate(replies)}
    orders = [texts(reader.until(24)) for reader in readers]
    assert orders[0] == orders[1] == orders[2], "all subscribers see one order"
    ids = {event.data: event.id for event in readers[0].events}
    assert ids == told, "each event carries the id that its publisher was told"
    for number in range(6):
        own = [text for text in orders[0] if text.startswith(f"p{number} ")]
        assert own == [f"p{number} {round_}" for round_ in range(4)], f"a publisher's own order is kept, and came {own}"
    for position in (3, 11, 22):
        returner = channel.subscribe("returner", readers[0].events[position].id)
        rest = orders[0][position + 1 :]
        assert texts(returner.until(len(rest))) == rest, f"resume follows that order: after {position} {rest} are owed"
        returner.hang_up()


@behaviour(stage=3, hidden=True, settings=BEATING, source=brief("S3", "heartbeats"), needs="heartbeat_comments")
def test_heartbeat_never_tears(channel: Channel) -> None:
    """Heartbeats neither break an event that is half sent, nor pile up behind a client that does not read."""
    slow, number = channel.stuck("slow")
    other = channel.subscribe("other", name=channel.stream())
    channel.solution.until(lambda: other.parser.comments >= 6, "heartbeats", other.name)
    last = channel.publish("after the silence")
    before, began = slow.parser.comments, waiting.now()
    slow.connection.read_again()

    events = slow.until(number + 1)
    fresh = (waiting.now() - began) * 1000 / HEARTBEAT  # as many may be sent while it reads
    assert (events[-1].id, events[-1].data) == (last, "after the silence"), "every event arrives whole"
    assert [len(event.data) for event in events[:-1]] == [BIG] * number, "and as it was published"
    piled = slow.parser.comments - before
    assert piled <= 3 + fresh, f"{piled} comments were waiting for a client that did not read"


@behaviour(stage=3, hidden=True, source=brief("S7", "clients that vanish"), needs="fan_out_same_order")
@incident(
    "`RuntimeError: Set changed size during iteration` is how a fan-out ends that walks over the set of its "
    "readers while one of them leaves."
)
def test_leavers_during_fan_out(channel: Channel) -> None:
    """Clients that vanish while an event goes out do not cost anyone else the event."""
    readers = [channel.subscribe(f"reader {number}") for number in range(8)]
    with channel.solution.frozen():
        for reader in readers[::2]:
            reader.hang_up()
        body = json.dumps({"data": "in the same moment"}).encode()
        request = Request(channel.solution, "publisher", "POST", channel.target(), JSON, body)
    reply = request.response()
    assert reply.status == 201, f"the publication is answered with 201, and came {reply}"
    for reader in readers[1::2]:
        assert texts(reader.until(1)) == ["in the same moment"], "who stays is owed the event"
    channel.fence(*readers[1::2])


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, hidden=True, alone=True, settings=BEATING, source=brief("S8", "gone"), needs="heartbeat_comments")
@hints(
    "Which line of your code runs when the browser tab is closed?",
    "Who waits for an event does not notice it, unless something ends the waiting.",
    "Leave in `finally`; and the heartbeat's write is the latest moment at which you find out.",
)
def test_vanished_are_forgotten(channel: Channel) -> None:
    """A client that is gone is forgotten without any publication: its socket is closed, and it is not counted."""
    assert channel.told("nobody is there")["subscribers"] == 0, "nobody has subscribed yet"
    channel.solution.settled()
    base = channel.solution.sockets()
    readers = [channel.subscribe(f"reader {number}") for number in range(8)]
    for number, reader in enumerate(readers):
        if number % 2:
            reader.hang_up()
        else:
            reader.connection.close()
    gone = f"8 sockets to be closed within two heartbeats of {HEARTBEAT} ms"
    channel.solution.until(lambda: channel.solution.sockets() <= base, gone)
    count = channel.told("nobody is there any more")["subscribers"]
    assert count == 0, f"all have gone, and {count} are counted"


@behaviour(
    stage=4, hidden=True, points=5, settings=FEW, source=brief("S7", "fallen behind"), needs="eviction_during_replay"
)
@hints(
    "Where do the events of a client that does not read pile up?",
    "A queue without a limit leaks, a queue that drops lies.",
    "When the cursor is older than the oldest event of the ring, end the response: the client comes back, and resets.",
)
def test_fallen_behind_is_cut(channel: Channel) -> None:
    """A client that does not read is ended after a prefix without a gap, and its backlog costs no memory."""
    witness = channel.subscribe("witness", name=channel.stream())
    slow = channel.subscribe("slow", stuck=True)
    everything = channel.publish_all(23, BIG)
    everything += channel.fill_until_level("a client that does not read has fallen behind")
    slow.connection.read_again()
    assert_gapless(channel, slow, everything)
    assert len(slow.events) < len(everything), "more than REPLAY_EVENTS events behind, the stream ends"
    last = slow.events[-1].id
    slow.hang_up()
    returner = channel.subscribe("slow again", last)
    assert_reset(returner.until(KEPT + 1, f"stream-reset, and {KEPT} events that are kept")[0])
    assert texts(returner.events[1 : KEPT + 1]) == everything[-KEPT:], "all that is kept is owed after the reset"
    assert not witness.events, "nobody else was touched"


@behaviour(
    stage=4, hidden=True, alone=True, source=rfc(9112, "7.1", "Chunked Transfer Coding"), needs="fan_out_same_order"
)
@hints(
    "What is your server waiting for after the signal?",
    "An endless response never finishes by itself, and cancelling it leaves a chunked body without its end.",
    "Set a flag, wake every subscription, and let them return; keep a time-out for those that do not read.",
)
@incident(
    "Servers on uvicorn hung on SIGTERM for years, since an endless response never ends by itself (Kludex/uvicorn"
    " #451, #1499; modelcontextprotocol/python-sdk #514)."
)
def test_sigterm_ends_cleanly(channel: Channel) -> None:
    """On SIGTERM every stream gets its pending events and a proper end, and the process exits."""
    readers = [channel.subscribe(who) for who in ("ann", "ben")]
    slow, number = channel.stuck("slow")
    for reader in readers:
        reader.until(number)
    channel.solution.terminate()
    channel.solution.settled()
    slow.connection.read_again()
    for reader in [*readers, slow]:
        assert len(reader.until_end()) == number, f"{number} events were pending for {reader.name}"
    status = channel.solution.until_exit("to end once every stream has ended")
    assert status in STOPPED, f"exit status 0 or an end by SIGTERM is owed, and came {status}"


@behaviour(
    stage=4, hidden=True, alone=True, settings=HASTY, source=brief("SIGTERM", "SHUTDOWN_MS"), needs="fan_out_same_order"
)
@incident(
    "uvicorn waits for open responses when it is told to stop, and one reader who does not read is enough to make"
    " that for ever (Kludex/uvicorn #451, #1499)."
)
def test_sigterm_despite_stuck(channel: Channel) -> None:
    """A client that never reads cannot keep the process alive."""
    reader = channel.subscribe("reader")
    _, number = channel.stuck("slow")
    reader.until(number)
    channel.solution.terminate()
    channel.solution.until_exit(f"to end within SHUTDOWN_MS and 3 s, though a client does not read ({number} events)")
    reader.until_end()


@behaviour(stage=4, hidden=True, alone=True, points=5, source=brief("S4, S6", "a former life"), needs="gap_says_reset")
@hints(
    "Restart the server and publish three events: which ids do they have?",
    "A number that begins at 1 again means something else to a client that was here before.",
    "Put a random part, made at the start, into every id, and take ids with another one for unknown.",
)
def test_former_life_id(channel: Channel) -> None:
    """After a SIGKILL and a restart an old id is not taken for a new one."""
    old = [channel.publish(f"old {number}") for number in range(3)]
    channel.solution.kill()
    channel.solution.restart()
    new = [f"new {number}" for number in range(4)]
    ids = [channel.publish(text) for text in new]
    assert not set(ids) & set(old), f"ids of a former life are used again: {sorted(set(ids) & set(old))}"

    returner = channel.subscribe("returner", old[1])
    channel.solution.until(lambda: new[-1] in texts(returner.events), f"all that is new, up to {new[-1]}", "returner")
    first, *rest = returner.events
    if first.type == RESET:
        assert texts(rest) == new, f"a reset and {new} are owed, and came {texts(rest)}"
    else:
        assert texts(returner.events) == ["old 2", *new], "an id of a former life is continued exactly, or reset"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=3, source=brief("Scale", "many subscribers"), needs="fan_out_same_order")
def test_many_subscribers(channel: Channel) -> None:
    """200 subscribers of one stream all get all its events."""
    readers = [Subscriber(channel.solution, f"reader {number}", channel.target()) for number in range(200)]
    for reader in readers:
        reader.subscribed()
    published = [*channel.publish_all(1), "to all"]
    count = channel.told(published[-1])["subscribers"]
    assert count == 200, f"200 subscriptions are open, and {count} are counted"
    for reader in readers:
        assert texts(reader.until(2)) == published, f"{reader.name} is owed both events"


@behaviour(stage=5, hidden=True, settings=FEW, source=brief("S5, Scale", "memory"), needs="replay_is_per_stream")
def test_replay_memory_bounded(channel: Channel) -> None:
    """Memory follows REPLAY_EVENTS, and not all that was ever published."""
    channel.publish_all(KEPT + 8, BIG)
    newest = channel.fill_until_level(f"{KEPT} events are kept")
    newest += channel.publish_all(2)
    reader = channel.subscribe("returner", "unknown")
    assert_reset(reader.until(KEPT + 1)[0])
    assert texts(reader.events[1:]) == newest[-KEPT:], f"the last {KEPT} events are kept"
