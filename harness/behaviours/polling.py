"""What a server may expect of its most frequent visitor: the behaviours of the kata `polling`.

The harness is every server. A poll waits until it is answered here, so nothing overtakes what is looked at. Of time
only lower bounds are asked, from the moment before an answer left to the moment when the next poll was read: a slow
machine can only lengthen that. Whether the next poll comes at all is decided by quiet. That something does not come is
shown by a companion whose timer is longer. Dice are judged by many throws, at a scale that grows while a slow machine
blurs them.
"""

from __future__ import annotations

import json
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.document_server import CHUNKS, CLOSE, LENGTH, DocumentServer, Place, Poll, chunks
from harness.solution.program import STOPPED, Solution
from harness.wire.http1 import NO_HEADERS, Headers, Request, Response

PEERS = [DocumentServer]
QUICK, SOON, HOUR = 2, 25, 3_600_000  # ms; no lower bound is asked of the first
EARLY = 5  # ms that a timer may be early, as the brief says
SECOND, LIMIT, REDIRECTS = 6, 65_536, 5  # as kata.toml has them
TIMEOUT = 40  # ms
MIB = 1 << 20
PATIENCE = 3.0  # seconds, for what the harness has to keep going itself
FORMS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y")  # RFC 9110, 5.6.7
MODIFIED = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"
RETRY_AFTER = rfc(9110, "10.2.3", "Retry-After")
BACKOFF = Source(
    "README R5; AWS, Exponential Backoff And Jitter",
    "https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/",
)


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Feed:
    """One feed of the solution, and the place that it begins at."""

    def __init__(self, poller: Poller, name: str, place: Place) -> None:
        self.poller, self.name, self.place = poller, name, place

    def next(self, owed: str = "") -> Poll:
        return self.place.next(owed)

    def state(self) -> Any:
        reply = self.poller.get(f"/feeds/{self.name}")
        assert reply.status == 200, f"there is a feed {self.name}: 200 is owed, and came {reply}"
        return reply.json()

    def shows(self, **owed: object) -> None:
        """Its state has these members."""
        state = self.state()
        assert isinstance(state, dict), f"the state of a feed is a JSON object, and came {state!r}"
        wrong = {name: state.get(name) for name, value in owed.items() if state.get(name) != value}
        assert not wrong, f"of the feed's state {owed} is owed, and came {state}"

    def becomes(self, status: str) -> None:
        """Wait for that status where no poll can be seen."""
        deadline = waiting.now() + PATIENCE
        while (state := self.state()).get("status") != status and waiting.now() < deadline:
            waiting.elapse(self.poller.solution, 5)
        if state.get("status") != status:  # on a busy machine it may have had little of that time
            self.poller.solution.settled()
            state = self.state()
        assert state.get("status") == status, f"the status {status} is owed, and came {state}"

    def document(self) -> bytes | None:
        """The document that it serves, None without one."""
        reply = self.poller.get(f"/feeds/{self.name}/document")
        assert reply.status in (200, 404), f"200 with the document is owed, or 404 without one, and came {reply}"
        return reply.body if reply.status == 200 else None

    def delete(self) -> Response:
        return self.poller.ask("DELETE", f"/feeds/{self.name}").response()


class Poller:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, servers: DocumentServer, chance: random.Random) -> None:
        self.solution, self.servers, self.chance = solution, servers, chance
        self.names: list[str] = []

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def text(self) -> bytes:
        return f"<feed>{self.word()}</feed>".encode()

    # -- the surface --------------------------------------------------------------------------------------------

    def ask(self, method: str, target: str, body: bytes = b"", headers: Headers = NO_HEADERS) -> Request:
        return Request(self.solution, "client", method, target, headers, body)

    def get(self, target: str) -> Response:
        return self.ask("GET", target).response()

    def put(self, name: str, document: object) -> Request:
        self.names.append(name)
        return self.ask("PUT", f"/feeds/{name}", json.dumps(document).encode(), [("Content-Type", "application/json")])

    # -- feeds --------------------------------------------------------------------------------------------------

    def place(self, target: str = "") -> Place:
        return self.servers.place(target or f"/{self.word()}.xml")

    def feed(self, place: Place | None = None, name: str = "", **settings: int) -> Feed:
        """A feed, its first poll under way."""
        (feed,) = self.begin([(name or self.word(), place or self.place())], settings)
        return feed

    def feeds(self, number: int, **settings: int) -> list[Feed]:
        """Some feeds at once."""
        return self.begin([(self.word(), self.place()) for _ in range(number)], settings)

    def at(self, *places: Place, **settings: int) -> list[Feed]:
        """A feed for each place."""
        return self.begin([(self.word(), place) for place in places], settings)

    def begin(self, wanted: Sequence[tuple[str, Place]], settings: dict[str, int]) -> list[Feed]:
        self.granted([self.wish(name, place, settings) for name, place in wanted])
        return [Feed(self, name, place) for name, place in wanted]

    def wish(self, name: str, place: Place, settings: dict[str, int]) -> Request:
        durations = {"interval": QUICK, "backoff_base": QUICK, "backoff_cap": QUICK, "timeout": HOUR} | settings
        return self.put(name, {"url": place.url, **{f"{name}_ms": value for name, value in durations.items()}})

    def granted(self, wishes: Sequence[Request]) -> None:
        for wish in wishes:
            reply = wish.response()
            assert reply.status == 201, f"a valid feed is 201, and came {reply}"

    def later(self, milliseconds: int) -> None:
        """So much time has gone by for the solution: a companion's timer has run out, and shorter ones before it."""
        companion = self.feed(interval=milliseconds)
        companion.next().answer(200, b"tick")
        companion.next("the companion's second poll, which shows that time goes by")

    def rests(self, what: str, *places: Place) -> None:
        """Nothing comes there any more: not within what a companion waits, and not until the end of the run."""
        counts = [len(place.polls) if place.always else place.taken for place in places]
        self.later(SOON)
        now = [len(place.polls) for place in places]
        assert now == counts, f"{what}, and there were {sum(now) - sum(counts)} more polls"
        more = lambda: [len(place.polls) for place in places] != counts  # noqa: E731
        self.solution.leave_tripwire(more, f"{what}, and there was one more poll after all was over")


def waited(before: Poll, after: Poll) -> float:
    """Milliseconds: at least as many as the solution has waited between the two."""
    return (after.at - before.answered_at) * 1000


def not_early(before: Poll, after: Poll, owed: float, why: str) -> None:
    gone_by = waited(before, after)
    assert gone_by >= owed - EARLY, f"{why}: {owed:.0f} ms are owed at least, and the poll came after {gone_by:.1f} ms"


def two_rounds(feed: Feed, body: bytes, *fields: str) -> Poll:
    """The first poll brings a document; the second one is returned."""
    feed.next().answer(200, body, *fields)
    return feed.next()


@pytest.fixture
def servers(solution: Solution) -> DocumentServer:
    return solution.peer(DocumentServer)


@pytest.fixture
def poller(
    solution: Solution, servers: DocumentServer, chance: random.Random, request: pytest.FixtureRequest
) -> Iterator[Poller]:
    poller = Poller(solution, servers, chance)
    yield poller
    if getattr(request.node, "held", False) and solution.process and not solution.expected_to_die:
        leaving = [poller.ask("DELETE", f"/feeds/{name}") for name in dict.fromkeys(poller.names)]
        for each in leaving:
            each.response()  # nothing of this behaviour goes on in the next one


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=brief("R1", "one at a time"))
def test_first_poll_at_once(poller: Poller) -> None:
    """A new feed is polled at once: a GET of its path and query as they are, with Host and a User-Agent."""
    feed = poller.feed(poller.place(f"/{poller.word()}/feed.xml?q=a%20b&x=%2F&y="), interval=HOUR)
    poll = feed.next("the first poll, at once")
    incoming = poll.incoming
    assert incoming.method == "GET", f"a poll is a GET, and came {incoming.method}"
    assert incoming.body == b"", "a GET has no body here"
    assert incoming.header_values("host") == [feed.place.host], f"Host is owed, and came {incoming.headers}"
    agent = incoming.header_values("user-agent")
    assert len(agent) == 1, f"one User-Agent is owed, by which a server knows its guest, and came {incoming.headers}"
    assert agent[0].strip(), "the User-Agent is empty"
    assert not poll.conditions, f"nothing is known yet that could be asked for, and came {poll.conditions}"
    poll.answer(200, poller.text())
    poller.solution.settled()
    feed.shows(status="ok", version=1, failures=0, url=feed.place.url)


@behaviour(stage=1, source=brief("The surface", "the document"), needs="first_poll_at_once")
def test_document_served(poller: Poller) -> None:
    """The newest document is served byte for byte, with its type; before there is one it is a 404."""
    feed, kind = poller.feed(), "application/x-odd; charset=utf-8"
    first = feed.next()
    feed.shows(status="new", version=0, failures=0)
    assert feed.document() is None, "there is no document yet, and one was served"
    body = bytes(poller.chance.choices(range(256), k=500)) + b"\r\n\0"
    first.answer(200, body, f"Content-Type: {kind}")
    second = feed.next()
    reply = poller.get(f"/feeds/{feed.name}/document")
    assert (reply.status, reply.body) == (200, body), f"the document is owed as it came, and came {reply}"
    assert reply.header("content-type") == kind, f"its type is {kind}, and came {reply.header('content-type')}"
    second.answer(200, b"")
    feed.next()
    assert feed.document() == b"", "an empty document is a document too"
    feed.shows(version=2)


@behaviour(stage=1, points=2, source=brief("R2", "waits begin when a poll is over"), needs="first_poll_at_once")
@hints(
    "When does your clock start: when you ask, or when you are answered?",
    "A timer that ticks at a fixed rate does not know that a server was slow.",
    "Poll, then sleep for the interval, in one loop.",
)
@incident(
    "GLPI's notifications were polled by setInterval: a slow server got the next request before it had answered the "
    "last one (glpi-project/glpi#25488)."
)
def test_interval_kept(poller: Poller) -> None:
    """After a success the next poll comes interval_ms later and not earlier, however long the answer took."""
    interval = 40
    quick, slow = poller.feeds(2, interval=interval)
    first, held = quick.next(), slow.next()
    first.answer(200, poller.text())
    waiting.elapse(poller.solution, interval + 5)  # the other server takes its time
    held.answer(200, poller.text())
    not_early(first, quick.next(), interval, "the interval")
    not_early(held, slow.next(), interval, "the interval after an answer that took longer than it")


@behaviour(stage=1, points=2, source=rfc(9110, "13.1.2", "If-None-Match"), needs="first_poll_at_once")
@hints(
    "Whose property is an entity tag?",
    "The quotes and the W/ belong to it.",
    "Store the field's value as it came, and send it back as If-None-Match.",
)
@incident(
    "SimplePie took the quotes off an ETag before it sent it back, and so was sent everything again each time "
    "(simplepie/simplepie#26)."
)
def test_etag_comes_back(poller: Poller) -> None:
    """The ETag of the document comes back in If-None-Match, each byte of it."""
    tags = [f'"{poller.word()}"', f'W/"{poller.word()}"', '"a,b/W"', '""', '"W/"', '"it\'s"']
    feeds = poller.feeds(len(tags))
    for feed, tag in zip(feeds, tags, strict=True):
        feed.next().answer(200, poller.text(), f"ETag: {tag}")
    for feed, tag in zip(feeds, tags, strict=True):
        conditions = feed.next().conditions
        assert conditions.get("if-none-match") == tag, f"If-None-Match: {tag} is owed, and came {conditions}"


@behaviour(stage=1, points=2, source=rfc(9110, "15.4.5", "304 Not Modified"), needs="etag_comes_back")
@incident(
    "cooklang/federation took a 304 for an error, and errors were final: each feed whose server honoured its ETag "
    "was dead after the second poll (cooklang/federation#10)."
)
def test_not_modified_keeps(poller: Poller) -> None:
    """A 304 is a success: the document and its validator stay, and no version is counted."""
    body, feed = poller.text(), poller.feed(interval=QUICK, backoff_base=HOUR, backoff_cap=HOUR)
    feed.next().answer(200, body, 'ETag: "v1"')
    for number in (1, 2, 3):
        poll = feed.next(f"a poll after {number - 1} answers with 304")
        assert poll.conditions.get("if-none-match") == '"v1"', f'"v1" is still current, and came {poll.conditions}'
        poll.answer(304)
    feed.next("a poll after three answers with 304")
    feed.shows(status="ok", version=1, failures=0)
    assert feed.document() == body, "a 304 says that the document is still good, and another one is served"


@behaviour(stage=1, source=rfc(9110, "8.8.3", "ETag"), needs="etag_comes_back")
@incident(
    "CommaFeed kept the old ETag when Last-Modified had not changed, and asked with it for ever, so nothing was ever "
    "304 again (Athou/commafeed#1746)."
)
def test_change_replaces(poller: Poller) -> None:
    """A new 200 replaces the document and its validator, also if its date is the old one."""
    feed = poller.feed()
    for version in (1, 2, 3):
        body = poller.text()
        feed.next().answer(200, body, f'ETag: "v{version}"', MODIFIED)
        poll = feed.next()
        tag = poll.conditions.get("if-none-match")
        assert tag == f'"v{version}"', f'the document is now "v{version}", and came {tag}'
        feed.shows(status="ok", version=version)
        assert feed.document() == body, "the newest document is owed, and another one is served"
        if version < 3:
            poll.answer(304)


@behaviour(stage=1, points=2, source=brief("The surface", "DELETE"), needs="first_poll_at_once")
def test_deleted_feed_rests(poller: Poller) -> None:
    """A deleted feed is polled no more and is gone from the surface; others go on."""
    feed, other = poller.feeds(2, interval=SOON)
    for each in (feed, other):
        each.next().answer(200, poller.text())
    poller.solution.settled()
    reply = feed.delete()
    assert reply.status == 204, f"DELETE is 204, and came {reply}"
    for target in (f"/feeds/{feed.name}", f"/feeds/{feed.name}/document"):
        assert (reply := poller.get(target)).status == 404, f"there is no such feed any more, and came {reply}"
    assert feed.delete().status == 404, "what is deleted can't be deleted again"
    other.next("a poll of the other feed")
    poller.later(SOON)
    # A poll that was under way when the feed was deleted has been given up; one that came later has not.
    late = lambda: [poll for poll in feed.place.polls if not poll.answered and not poll.gone]  # noqa: E731
    assert not late(), "the feed is deleted, and polled"
    poller.solution.leave_tripwire(lambda: bool(late()), "a deleted feed was polled after all was over")


@behaviour(stage=1, source=brief("The surface", "400, 409"), needs="first_poll_at_once")
def test_bad_feeds_refused(poller: Poller) -> None:
    """Bad bodies, URLs and durations are 400, a name that is taken is 409, and neither starts or changes anything."""
    place = poller.place()
    url = place.url
    bad: list[object] = [
        *([], "text", None, {}, {"url": 5}, {"url": None}, {"url": ""}, {"url": "/feed.xml"}, {"url": "127.0.0.1"}),
        *({"url": wrong} for wrong in ("ftp://kata.test/x", "https:", "http://", "http://kata.test:x/")),
        *({"url": url, "interval_ms": wrong} for wrong in (0, -5, "10", 1.5, True, None, [1], 86_400_001)),
        *({"url": url, name: 0} for name in ("backoff_base_ms", "backoff_cap_ms", "timeout_ms")),
    ]
    name = poller.word()
    for document in bad:
        reply = poller.put(name, document).response()
        assert reply.status == 400, f"{json.dumps(document)} is no feed: 400 is owed, and came {reply}"
    reply = poller.ask("PUT", f"/feeds/{name}", b'{"url": ').response()
    assert reply.status == 400, f"half a JSON document is 400, and came {reply}"
    assert (reply := poller.get(f"/feeds/{name}")).status == 404, f"nothing was created, and came {reply}"
    for wrong in ("a" * 65, "a.b", "%C3%A9"):
        reply = poller.ask("PUT", f"/feeds/{wrong}", json.dumps({"url": url}).encode()).response()
        assert 400 <= reply.status < 500, f"{wrong} is no name: 4xx is owed, and came {reply}"
    assert not place.polls, "nobody asked for this place to be polled"
    feed, elsewhere = poller.feed(place, name=name[:1] * 64), poller.place()
    poll = feed.next("the first poll of a feed that is good")
    for other in (place, elsewhere):
        reply = poller.put(feed.name, {"url": other.url, "interval_ms": QUICK}).response()
        assert reply.status == 409, f"there is such a feed: 409 is owed, and came {reply}"
    poller.later(4 * QUICK)
    assert len(place.polls) == 1, "the first poll is not answered yet, and there is a second one"
    assert not elsewhere.polls, "the feed is polled where it was, and not at the URL that was refused"
    poll.answer(200, b"good")
    feed.next()
    feed.shows(url=place.url, version=1)


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=rfc(9110, "13.1.3", "If-Modified-Since"), needs="etag_comes_back")
@incident(
    "Many feed readers send a date of their own in If-Modified-Since; servers that compare it with the one they gave "
    "out must send everything again (FreshRSS/FreshRSS#6056)."
)
def test_last_modified_comes_back(poller: Poller) -> None:
    """Without an ETag the date of Last-Modified comes back in If-Modified-Since, as it came, even an odd one."""
    dates = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
    feeds = poller.feeds(len(dates))
    for feed, date in zip(feeds, dates, strict=True):
        feed.next().answer(200, poller.text(), f"Last-Modified: {date}")
    for feed, date in zip(feeds, dates, strict=True):
        poll = feed.next()
        came = poll.conditions.get("if-modified-since")
        assert came == date, f"If-Modified-Since: {date} is owed, and came {poll.conditions}"
        assert "if-none-match" not in poll.conditions, f"there was no ETag, and came {poll.conditions}"
        poll.answer(304)
    for feed in feeds:
        feed.next()
        feed.shows(status="ok", version=1)


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "8.8", "Validator Fields"), needs="change_replaces")
@hints(
    "What do you send when the newest document had no ETag?",
    "A validator that describes an older document asks for a 304 about something that you no longer have.",
    "Keep document, ETag and Last-Modified in one object, and replace it as a whole.",
)
@incident(
    "Newsboat went on with an old ETag although each 304 told it the current one, until every request was as good as "
    "unconditional (newsboat/newsboat#3279)."
)
def test_validators_kept_current(poller: Poller) -> None:
    """A new document takes both old validators with it; one that comes with a 304 takes the place of the old one."""
    feed = poller.feed()
    steps = [
        (['ETag: "a"', MODIFIED], {"if-none-match"}),
        ([MODIFIED], {"if-modified-since"}),
        (['ETag: "b"'], {"if-none-match"}),
        ([], set[str]()),
        (['ETag: "c"'], {"if-none-match"}),
    ]
    for fields, owed in steps:
        feed.next().answer(200, poller.text(), *fields)
        poll = feed.next()
        came = set(poll.conditions)
        assert came == owed or (len(fields) == 2 and came == {"if-none-match", "if-modified-since"}), (
            f"the newest document came with {fields or 'no validators'}, and the next poll with {poll.conditions}"
        )
        poll.answer(200, body := poller.text(), 'ETag: "between"', MODIFIED)
    poll = feed.next()
    for fields, told in ((['ETag: "new"'], "called so by the 304"), ([], "called so still: a 304 without an ETag")):
        poll.answer(304, b"", *fields)
        poll = feed.next()
        tag = poll.conditions.get("if-none-match")
        assert tag == '"new"', f'the document is "new", {told}, and came {tag}'
    feed.shows(version=2 * len(steps))
    assert feed.document() == body, "the document is the same, and another one is served"


@behaviour(stage=2, points=3, source=brief("R5", "the document stays"), needs="not_modified_keeps")
def test_failures_keep_document(poller: Poller) -> None:
    """Errors are counted and change nothing else: the document stays, and its validator, whatever they carry."""
    body, feed = poller.text(), poller.feed()
    poll = two_rounds(feed, body, 'ETag: "good"')
    for number, status in enumerate((500, 404, 403, 502, 400), 1):
        poll.answer(status, b"an error page", 'ETag: "error"', MODIFIED, "Content-Type: text/html")
        poll = feed.next(f"a poll after {status}")
        feed.shows(status="failing", failures=number, version=1)
        assert feed.document() == body, f"a {status} brings no document, and the old one is still the newest"
        assert poll.conditions == {"if-none-match": '"good"'}, (
            f'the document is still "good" after {status}, and came {poll.conditions}'
        )
    poll.answer(304)
    feed.next()
    feed.shows(status="ok", failures=0, version=1)


@behaviour(stage=2, hidden=True, source=brief("R3", "only these two"), needs="failures_keep_document")
def test_other_successes_fail(poller: Poller) -> None:
    """204, 206, 203, and a 304 that nobody asked for bring no document: the poll has failed."""
    answers: dict[str, Callable[[Poll], None]] = {
        "204": lambda poll: poll.answer(204),
        "206": lambda poll: poll.answer(206, b"half", "Content-Range: bytes 0-3/8"),
        "203": lambda poll: poll.answer(203, b"edited on the way"),
        "304, unasked": lambda poll: poll.answer(304),
        "300": lambda poll: poll.answer(300, b"choose"),
    }
    feeds = poller.feeds(len(answers))
    for feed, answer in zip(feeds, answers.values(), strict=True):
        answer(feed.next())
    for feed, told in zip(feeds, answers, strict=True):
        poll = feed.next(f"a poll after {told}")
        feed.shows(status="failing", failures=1, version=0)
        assert feed.document() is None, f"{told} brings no document, and one is served"
        poll.answer(200, b"at last")
        feed.next()
        feed.shows(status="ok", failures=0, version=1)


@behaviour(stage=2, points=3, source=rfc(9110, "15.5.11", "410 Gone"), needs="failures_keep_document")
@incident(
    "FreshRSS went on asking for feeds that had said 410 for years, until it was taught to mute them "
    "(FreshRSS/FreshRSS#3561); RSS Bandit had the same bug in 2004."
)
def test_gone_is_final(poller: Poller) -> None:
    """After 410 a feed is never polled again, and its document stays; after 404 it is."""
    gone, missing = poller.feeds(2)
    body = poller.text()
    for feed, status in ((gone, 410), (missing, 404)):
        two_rounds(feed, body).answer(status, b"no")
    missing.next("a poll after 404: it may come back")
    poller.rests("410 is final", gone.place)
    gone.shows(status="gone", version=1)
    missing.shows(status="failing")
    assert gone.document() == body, "the last document stays, and it is not served"


@behaviour(stage=2, points=3, source=RETRY_AFTER, needs="failures_keep_document")
@hints(
    "What does a server mean by a 429 with a number?",
    "It is a lower bound, and comes before your own back-off.",
    "Wait for max(retry_after, back_off).",
)
@incident(
    "FreshRSS kept asking servers that had said 429 and when to come back, until whole sites refused it "
    "(FreshRSS/FreshRSS#7571)."
)
def test_retry_after_seconds(poller: Poller) -> None:
    """After 429 and 503 with Retry-After in seconds the next poll is not earlier than that, and comes."""
    asked = [(429, 8), (503, 8), (429, 6), (503, 1)]
    feeds = poller.feeds(len(asked), backoff_base=1, backoff_cap=1)
    first = [feed.next() for feed in feeds]
    for poll, (status, seconds) in zip(first, asked, strict=True):
        poll.answer(status, b"", f"Retry-After: {seconds}")
    for feed, poll, (status, seconds) in zip(feeds, first, asked, strict=True):
        again = feed.next(f"a poll when {seconds} s are over")
        not_early(poll, again, seconds * SECOND, f"{status} with Retry-After: {seconds}")
        feed.shows(status="failing", failures=1)


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "5.6.7", "Date/Time Formats"), needs="retry_after_seconds")
@hints(
    "Retry-After has two forms.",
    "The second one is a date, and a recipient has to read all three forms of HTTP.",
    "Try three formats, take the difference to now (in UTC), and multiply it by SECOND_MS.",
)
@incident(
    "hashicorp/go-retryablehttp read numbers only for years; a date counted as no Retry-After at all "
    "(hashicorp/go-retryablehttp#144)."
)
def test_retry_after_dates(poller: Poller) -> None:
    """Retry-After may be a date, in each of the three forms that HTTP has."""
    feeds = poller.feeds(len(FORMS), backoff_base=1, backoff_cap=1)
    first, owed = [feed.next() for feed in feeds], []
    for poll, form in zip(first, FORMS, strict=True):
        now = waiting.unix_time()
        date = int(now) + 10
        owed.append((date - now - 1) * SECOND)  # of its whole seconds one is forgiven
        told = time.strftime(form, time.gmtime(date))
        poll.answer(503, b"", f"Date: {time.strftime(FORMS[0], time.gmtime(now))}", f"Retry-After: {told}")
    for feed, poll, form, least in zip(feeds, first, FORMS, owed, strict=True):
        again = feed.next("a poll when the date has come")
        not_early(poll, again, least, f"Retry-After with a date of the form {form}")


@behaviour(stage=2, hidden=True, points=3, source=RETRY_AFTER, needs="retry_after_seconds")
@hints(
    "What is `int(' +1_000 ')` in your language?",
    "Only digits are seconds, only three forms are dates; all else is no Retry-After, and zero is no permission.",
    "Match `[0-9]+` first, and always wait for the greater of the two: Retry-After and back-off.",
)
@incident(
    "A Retry-After that could not be parsed ended the whole request, retries and all, with a ValueError "
    "(notatallshaw/nab#596)."
)
def test_retry_after_never_hurries(poller: Poller) -> None:
    """Zero, the past and nonsense in Retry-After neither shorten the back-off nor lengthen it."""
    past = [time.strftime(form, time.gmtime(784_111_777)) for form in FORMS]
    nonsense = ["soon", "-1", "+9000", "9_000", "9000 s", "9e3", "", "0x9000", "2099-01-01T00:00:00Z", "Thu, 99 Foo"]
    values = ["0", "00", *past, *nonsense]
    feeds = poller.feeds(len(values), backoff_base=80, backoff_cap=80)
    first = [feed.next() for feed in feeds]
    for number, (poll, value) in enumerate(zip(first, values, strict=True)):
        poll.answer(429 if number % 2 else 503, b"", f"Retry-After: {value}")
    for feed, poll, value in zip(feeds, first, values, strict=True):
        again = feed.next(f"a poll after the back-off; Retry-After: {value!r} asks for no more")
        not_early(poll, again, 40, f"the back-off, after Retry-After: {value!r}")


@behaviour(stage=2, hidden=True, points=3, source=RETRY_AFTER, needs="retry_after_seconds")
@incident(
    "Timers of JavaScript take 31 bits of milliseconds; a longer wait is one millisecond. Sentry's client for Electron "
    "hammered a server that was down for long (getsentry/sentry-electron#441)."
)
def test_long_waits_stay_long(poller: Poller) -> None:
    """A Retry-After of months or millennia does not overflow into a poll at once, and stops nobody."""
    values = ["400000000", "4000000000", "9" * 30, "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"]
    feeds = poller.feeds(len(values), backoff_base=1, backoff_cap=1)
    short = poller.feed(backoff_base=1, backoff_cap=1)
    for feed, value in zip(feeds, values, strict=True):
        feed.next().answer(503, b"", f"Retry-After: {value}")
    short.next().answer(503, b"", "Retry-After: 1")
    short.next("a poll after Retry-After: 1")
    poller.rests("these servers have asked for months of peace", *(feed.place for feed in feeds))
    for feed in feeds:
        feed.shows(status="failing", failures=1)


@behaviour(stage=2, points=2, source=rfc(9110, "15.4", "Redirection 3xx"), needs="document_served")
def test_temporary_redirects_followed(poller: Poller) -> None:
    """302, 303 and 307 are followed within the poll, and the next poll begins at the feed's URL again."""
    statuses = (302, 303, 307)
    feeds, targets = poller.feeds(len(statuses)), [poller.place() for _ in statuses]
    for feed, target, status in zip(feeds, targets, statuses, strict=True):
        feed.next().redirect(status, target.url)
        poll = target.next(f"a request for the target of the {status}")
        assert poll.incoming.method == "GET", f"a redirected GET is a GET, and came {poll.incoming.method}"
        body = poller.text()
        poll.answer(200, body)
        feed.next("the next poll, at the feed's own URL")
        feed.shows(status="ok", version=1, failures=0, url=feed.place.url)
        assert feed.document() == body, "the document of the target is owed, and another one is served"


@behaviour(
    stage=2, points=3, source=rfc(9110, "15.4.9", "308 Permanent Redirect"), needs="temporary_redirects_followed"
)
@hints(
    "Which of the five redirects are for good, and what follows from it for the next poll?",
    "Only an unbroken row of permanent ones at the beginning moves the feed, and only if the poll brings something.",
    "Carry a second URL through the loop that follows while all was permanent, and store it at the very end.",
)
@incident(
    "Vienna stored what a feed was redirected to although it was a maintenance page, and users lost their "
    "subscriptions (ViennaRSS/vienna-rss#1546)."
)
def test_permanent_redirects_move(poller: Poller) -> None:
    """Once a poll has succeeded, the feed moves as far as an unbroken row of 301 and 308 has led, and not further."""
    for status in (301, 308):
        feed, target = poller.feed(), poller.place()
        feed.next().redirect(status, target.url)
        target.next(f"a request for the target of the {status}").answer(500)
        feed.next("a poll at the old URL: the new one has not worked yet").redirect(status, target.url)
        feed.shows(url=feed.place.url, status="failing")
        target.next().answer(200, poller.text())
        target.next("the next poll, at the new URL")
        assert len(feed.place.polls) == 2, "the feed has moved, and its old URL is polled again"
        feed.shows(url=target.url, status="ok")
    rows: list[tuple[list[int], int]] = [([302, 301], 0), ([301, 307], 1), ([308, 301], 2), ([301, 302, 308], 1)]
    for statuses, moved in rows:
        places = [poller.place() for _ in range(len(statuses) + 1)]
        feed = poller.feed(places[0])
        for at, (status, target) in enumerate(zip(statuses, places[1:], strict=True)):
            places[at].next().redirect(status, target.url)
        places[-1].next().answer(200, poller.text())
        places[moved].next(f"the next poll after redirects with {statuses}, at the URL that {moved} of them led to")
        feed.shows(url=places[moved].url)


@behaviour(
    stage=2, hidden=True, source=rfc(3986, "5.4", "Reference Resolution Examples"), needs="temporary_redirects_followed"
)
def test_relative_locations(poller: Poller, servers: DocumentServer) -> None:
    """A Location may be relative in every way, has a fragment that is not sent, or leads to another server."""
    word = poller.word()
    base = f"/{word}/a/b?x=1"
    mirror = servers.place(f"/{word}/m", servers.mirror)
    wanted: list[tuple[str, str]] = [
        ("c", f"/{word}/a/c"),
        ("./c?y=2", f"/{word}/a/c?y=2"),
        ("../d", f"/{word}/d"),
        ("?z=3", f"/{word}/a/b?z=3"),
        (f"/{word}/e%20f", f"/{word}/e%20f"),
        (f"//{mirror.host}/{word}/n", f"/{word}/n"),
        (f"{mirror.url}#part", f"/{word}/m"),
        (f"HTTP://{mirror.host}/{word}/o#", f"/{word}/o"),
    ]
    feed = poller.feed(poller.place(base))
    for location, target in wanted:
        place = servers.place(target, servers.mirror if mirror.host in location else None)
        feed.next().redirect(302, location)
        poll = place.next(f"a request for {target}, which is {location} as seen from {base}")
        assert poll.incoming.header_values("host") == [place.host], f"its Host is {place.host}"
        poll.answer(200, poller.text())
    feed.next()
    feed.shows(version=len(wanted), url=feed.place.url)


@behaviour(
    stage=2, hidden=True, points=3, source=rfc(9110, "15.4", "Redirection 3xx"), needs="temporary_redirects_followed"
)
def test_redirects_end(poller: Poller) -> None:
    """Five redirects are followed and no sixth, also in a circle; a poll that goes too far has failed."""
    settings = {"backoff_base": HOUR, "backoff_cap": HOUR}
    enough, too_many = ([poller.place() for _ in range(number + 1)] for number in (REDIRECTS, REDIRECTS + 1))
    circle = poller.place()
    for row in (enough, too_many):
        for place, target in pairwise(row):
            place.always = _redirecting(target.url)
    # Who goes round for ever comes to rest all the same: no answer is the end of it.
    circle.always = lambda poll: poll.redirect(302, circle.url) if len(circle.polls) < 2 * REDIRECTS else None
    good, bad, round_and_round = poller.at(enough[0], too_many[0], circle, **settings)
    enough[-1].next(f"a request behind {REDIRECTS} redirects").answer(200, poller.text())
    poller.solution.settled()
    good.shows(status="ok", version=1)
    assert not too_many[-1].polls, f"{REDIRECTS} redirects are followed, and no more"
    bad.becomes("failing")
    asked = len(circle.polls)
    assert asked <= REDIRECTS + 1, (
        f"a circle is left after {REDIRECTS} redirects at the latest, and it was asked {asked} times"
    )
    round_and_round.becomes("failing")
    poller.rests("these polls have failed, and the back-off is an hour", circle, too_many[0])


def _redirecting(url: str) -> Callable[[Poll], None]:
    return lambda poll: poll.redirect(302, url)


@behaviour(
    stage=2, hidden=True, points=3, source=brief("R6, R8", "a target that can't be polled"), needs="redirects_end"
)
@hints(
    "Which exceptions does your URL parser raise, and who catches them?",
    "A port of 99999, a bracket without its twin, a label of 64 characters: in Python they are no OSErrors.",
    "Resolve and check the target inside the same try as the request, and catch more than OSError there.",
)
@incident(
    "A redirect to a host with an empty or overlong label ended a whole crawl with a UnicodeError "
    "(ArchiveTeam/wpull#87); requests had the same crash (psf/requests#4168)."
)
def test_bad_locations_fail(poller: Poller) -> None:
    """A redirect without a target, or to a URL or a host that can't be, is a failure, and the feed goes on."""
    locations = [
        *("ftp://kata.test/x", "mailto:x@kata.test", "file:///x", "http://:80/x"),
        *("http://127.0.0.1:99999/", "http://[::1", f"http://{'x' * 64}.invalid/x"),
        *("http://kata..invalid/x", f"http://{'y' * 300}.invalid/x"),
    ]
    # What a resolver does to a name that could exist, and how long that takes, is not looked at.
    lost = {"url": f"http://{poller.word()}.invalid/feed", "backoff_base_ms": HOUR, "backoff_cap_ms": HOUR}
    reply = poller.put(poller.word(), lost).response()
    assert reply.status == 201, f"a feed whose host does not exist is a feed: 201 is owed, and came {reply}"
    feeds = poller.feeds(len(locations) + 1)
    for feed, location in zip(feeds, locations, strict=False):
        feed.next().redirect(302, location)
    feeds[-1].next().answer(301, b"there")
    for feed, location in zip(feeds, [*locations, "none"], strict=True):
        poll = feed.next(f"a poll after the back-off; the redirect before had the Location {location[:40]}")
        feed.shows(status="failing", failures=1, url=feed.place.url)
        poll.answer(200, poller.text())
    for feed in feeds:
        feed.next()
        feed.shows(status="ok", version=1)


@behaviour(
    stage=2, hidden=True, points=3, source=rfc(9110, "15.4", "Redirection 3xx"), needs="permanent_redirects_move"
)
@hints(
    "Whose ETag is it after a redirect?",
    'Two URLs may both have a version "1".',
    "Remember the URL that the document came from, and send its validators to that URL only.",
)
@incident("Put in this kata's place, httpx sends the conditions along with every redirect, also to strangers.")
def test_validators_stay_with_their_url(poller: Poller) -> None:
    """A validator goes to the URL that it came from, and not to the one that redirects, nor to another target."""
    first, second = poller.place(), poller.place()
    feed = poller.feed()
    feed.next().redirect(302, first.url)
    first.next().answer(200, poller.text(), 'ETag: "1"', MODIFIED)
    for told, target, owed in (("the same target", first, True), ("another target", second, False)):
        poll = feed.next()
        assert not poll.conditions, f"the URL that redirects has given no validator, and got {poll.conditions}"
        poll.redirect(302, target.url)
        poll = target.next()
        tag = poll.conditions.get("if-none-match")
        assert tag == ('"1"' if owed else None), f"{told}: If-None-Match was {tag}"
        if owed:
            poll.answer(304)
        else:
            poll.answer(200, body := poller.text(), 'ETag: "1"')
    poll = feed.next()
    assert feed.document() == body, "the document of the second target is owed"
    poll.redirect(301, first.url)
    poll = first.next()
    assert not poll.conditions, f"the document is another one's by now, and the first target got {poll.conditions}"
    poll.answer(200, poller.text(), 'ETag: "2"')
    tag = first.next("a poll at the new URL").conditions.get("if-none-match")
    assert tag == '"2"', f'the feed has moved there, with "2", and came {tag}'


@behaviour(stage=2, source=rfc(9112, "6.3", "Message Body Length"), needs="document_served")
def test_every_framing_read(poller: Poller) -> None:
    """A document may come with a length, in chunks, until the connection ends, or a byte at a time."""
    body = poller.chance.randbytes(3000)

    def bytewise(poll: Poll) -> None:
        poll.begin(200, "Transfer-Encoding: chunked")
        for byte in b"4;x=y\r\nabcd\r\n" + b"".join(chunks(body[4:])) + b"0\r\nX-Trailer: 1\r\n\r\n":
            poll.send(bytes([byte]))
        poll.complete()

    answers: dict[str, Callable[[Poll], None]] = {
        LENGTH: lambda poll: poll.answer(200, body),
        CHUNKS: lambda poll: poll.answer(200, body, framing=CHUNKS),
        CLOSE: lambda poll: poll.answer(200, body, framing=CLOSE),
        "chunks with extensions and a trailer": bytewise,
    }
    feeds = poller.feeds(len(answers))
    for feed, answer in zip(feeds, answers.values(), strict=True):
        answer(feed.next())
    for feed, told in zip(feeds, answers, strict=True):
        feed.next(f"a poll after a body delimited by {told}")
        feed.shows(status="ok", version=1)
        got, owed = feed.document(), b"abcd" + body[4:] if told.startswith("chunks with") else body
        assert got == owed, f"the body delimited by {told} is owed as it was sent"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, points=5, source=brief("R1", "one at a time"), needs="interval_kept")
@hints(
    "What does your timer do while the last answer is still awaited?",
    "setInterval and a thread a tick start the next one anyway.",
    "One loop a feed: poll, wait for its end, sleep, again.",
)
@incident(
    "Galaxy's pages polled at a fixed rate; when the server was slow the requests piled up and made it slower "
    "(galaxyproject/galaxy#13485)."
)
def test_polls_never_overlap(poller: Poller) -> None:
    """While a feed's poll is unanswered there is no second one, however many intervals go by."""
    feed = poller.feed(interval=QUICK)
    for round_ in (1, 2):
        poll = feed.next()
        if round_ == 2:
            poll.begin(200, "Content-Length: 5")
            poll.send(b"he")
        poller.later(4 * QUICK)
        asked = len(feed.place.polls)
        assert asked == round_, f"poll {round_} is not over yet, and there are {asked}"
        if round_ == 1:
            poll.answer(200, poller.text())
    poll.send(b"llo")
    poll.complete()
    feed.next("a poll after the slow one")
    assert feed.document() == b"hello", "the slow document is owed"


@behaviour(stage=3, points=5, source=brief("R1", "feeds don't wait for each other"), needs="polls_never_overlap")
def test_slow_servers_hold_up_nobody(poller: Poller) -> None:
    """While forty servers don't answer, another one is polled and the surface answers; then each feed gets its own."""
    slow = poller.feeds(40)
    polls = [feed.next("its first poll, while all the others are not answered") for feed in slow]
    quick = poller.feed()
    poll = quick.next("the first poll of a feed whose server answers")
    for number in (2, 3, 4):
        body = poller.text()
        poll.answer(200, body)
        poll = quick.next(f"poll number {number} of a feed whose server answers")
        assert quick.document() == body, "its newest document is owed"
    assert poller.get("/healthz").status == 200, "the surface answers"
    slow[0].shows(status="new", version=0)
    again = {len(feed.place.polls) for feed in slow}
    assert again == {1}, f"none of the forty is asked twice, and there were {again}"
    for number, poll in enumerate(polls):
        poll.answer(200, b"document %d" % number)
    poller.solution.settled()
    for number in range(0, 40, 9):
        assert slow[number].document() == b"document %d" % number, "each feed has its own document"


@behaviour(stage=3, hidden=True, points=5, source=brief("The surface", "DELETE"), needs="deleted_feed_rests")
@hints(
    "Who still runs when a feed is deleted in the middle of its poll?",
    "What comes in later must not find its way into a new feed of the same name.",
    "Cancel the task (or close its socket), and let it write into its own object, never into the table by name.",
)
def test_deleted_in_mid_poll(poller: Poller) -> None:
    """A poll under way when its feed is deleted is given up, and a new feed of that name begins from nothing."""
    feeds = poller.feeds(2)
    polls = [two_rounds(feed, b"old", 'ETag: "old"', MODIFIED) for feed in feeds]
    polls[1].begin(200, "Content-Length: 6", 'ETag: "late"')
    polls[1].send(b"la")
    for feed, poll in zip(feeds, polls, strict=True):
        assert feed.delete().status == 204, "DELETE is 204, also in the middle of a poll"
        poller.solution.until(lambda: poll.gone, "an end of the poll, since the feed is deleted", "server")  # noqa: B023
    renewed = poller.begin([(feed.name, feed.place) for feed in feeds], {})
    for feed in renewed:
        poll = feed.next("the first poll of the new feed")
        assert not poll.conditions, f"the new feed knows nothing yet, and came {poll.conditions}"
        feed.shows(status="new", version=0, failures=0)
        assert feed.document() is None, "the new feed has no document yet, and serves one"
        poll.answer(200, b"new")
        feed.next()
        assert feed.document() == b"new", "the new feed's document is owed"


FAILURES: list[Callable[[Poll], None]] = [
    lambda poll: poll.answer(500, b"oops"),
    lambda poll: poll.hang_up(),
    lambda poll: poll.answer(404, b"no"),
    lambda poll: poll.answer(503, b"busy"),
    lambda poll: poll.finish(),
    lambda poll: poll.hang_up(),
]


@behaviour(stage=3, points=5, source=BACKOFF, needs="failures_keep_document")
@hints(
    "What do a thousand clients do to a server that has just failed?",
    "The wait doubles with every failure in a row, whatever kind it was.",
    "d = min(cap, base * 2 ** (failures - 1)), and the wait is between d / 2 and d.",
)
def test_backoff_grows(poller: Poller) -> None:
    """With each failure in a row, of whatever kind, the least wait doubles."""
    base, feeds = 3, poller.feeds(3, backoff_base=3, backoff_cap=HOUR)
    polls = [feed.next() for feed in feeds]
    for number, fail in enumerate(FAILURES, 1):
        least, why = base * 2 ** (number - 1) / 2, f"after failure number {number} in a row"
        for poll in polls:
            fail(poll)
        if number == len(FAILURES):
            break
        again = [feed.next(f"a poll after failure number {number}") for feed in feeds]
        for before, after in zip(polls, again, strict=True):
            not_early(before, after, least, why)
        polls = again
    waiting.elapse(poller.solution, least)  # who has not come by then has kept the last wait, and need not be awaited
    for feed, before in zip(feeds, polls, strict=True):
        for after in feed.place.polls[len(FAILURES) :]:
            not_early(before, after, least, why)
    poller.solution.settled()
    for feed in feeds:
        feed.shows(status="failing", failures=len(FAILURES))


@behaviour(stage=3, hidden=True, points=3, source=BACKOFF, needs="failures_keep_document")
def test_backoff_ends(poller: Poller) -> None:
    """The wait never grows beyond backoff_cap_ms, and a 200 or a 304 begins the count of failures again."""
    feeds = poller.feeds(2, interval=SOON, backoff_base=HOUR, backoff_cap=QUICK)
    for feed in feeds:
        feed.next().answer(200, b"x", 'ETag: "x"')
    polls = [feed.next() for feed in feeds]
    for number in (1, 2, 3):
        for poll in polls:
            poll.answer(500)
        polls = [feed.next(f"a poll after {number} failures; the cap is {QUICK} ms") for feed in feeds]
        for feed in feeds:
            feed.shows(status="failing", failures=number)
    for poll, status in zip(polls, (304, 200), strict=True):
        poll.answer(status, b"x", 'ETag: "x"')
    for feed, poll, status in zip(feeds, polls, (304, 200), strict=True):
        not_early(poll, feed.next(), SOON, f"the interval, after a {status} that ended a row of failures")
        feed.shows(status="ok", failures=0)


# Dice. All throws are independent and even, so every order of n waits is as likely as any other, and the number of
# pairs out of order has a known distribution (Mahonian). What is said below is false of a correct program, by chance,
# with these probabilities: that the 40 throws of a round miss a half of the range, four times 0.5 ** 40 = 9.1e-13; that
# all 80 miss a quarter of it at an end, twice 0.75 ** 80 = 1.0e-10; that two rounds, or two processes, put the feeds
# into much the same order, CHANCE each. That is 4.1e-10 in a run, and less, since it has to happen at every scale:
# a slow machine makes waits look longer, so nothing is called broken before the widest one, where a quarter of the
# range is 125 ms and more. Each answer leaves alone, as its poll comes, so that none waits for forty others.
#
# The delays of a slow machine are dice too, and may hide that there are no others where waits are short. So before the
# widest scale two orders must not even be alike to a degree that is RARE; if they are, the next scale decides. And the
# first scale, the shortest, can only acquit, and does so only while a metronome is in time: a feed without dice that
# ticks all the while. So it adds nothing to what may be called broken, and what it takes for dice is no delay.
CHANCE, RARE = 1e-10, 1e-2
FIRST = 40
SCALES = [(FIRST, RARE), (80, RARE), (320, RARE), (1000, CHANCE)]  # ms, and how improbable an order may be there
TICKS_A_SCALE, BLUR = 6, 6  # of the longest first wait: how often the metronome ticks, and the part it may be late


@lru_cache
def fewest_inversions(number: int, chance: float) -> int:
    """A random order of so many has so few pairs out of order, or fewer, with a probability below `chance`."""
    ways = [1]  # of orders, by their number of inversions (Mahonian numbers)
    for size in range(2, number + 1):
        up_to = list(accumulate(ways, initial=0))
        last = len(ways)
        ways = [up_to[min(total + 1, last)] - up_to[max(0, total + 1 - size)] for total in range(last + size - 1)]
    seen = list(accumulate(ways))
    return bisect_left(seen, chance * seen[-1]) - 1


def inversions(ranks: Sequence[float], others: Sequence[float]) -> int:
    """Pairs that the two sequences put in a different order."""
    pairs = ((a, b) for b in range(len(ranks)) for a in range(b))
    return sum((ranks[a] < ranks[b]) != (others[a] < others[b]) for a, b in pairs)


class Metronome:
    """A feed that is polled in even time while others throw dice: it hears how late the program and the machine are."""

    def __init__(self, poller: Poller, base: int, rounds: int) -> None:
        self.period, self.blur = max(base // TICKS_A_SCALE, 1), base / BLUR
        self.place = poller.place()
        last = TICKS_A_SCALE * (2**rounds - 1)  # no wait is longer than all these; and then it is silent
        self.place.always = lambda poll: poll.answer(200) if len(self.place.polls) <= last else None
        poller.at(self.place, interval=self.period)

    def in_time(self) -> bool:
        """Whether no wait so far may have been blurred by more than a third of its range."""
        ticks = [waited(*pair) for pair in pairwise(self.place.polls)]
        return len(ticks) >= TICKS_A_SCALE // 2 and max(ticks) <= self.period + self.blur


def throws(poller: Poller, number: int, base: int, rounds: int) -> list[list[float]]:
    """The waits of so many feeds in so many rounds of failures, as parts of the longest that is allowed."""

    def fail(poll: Poll) -> None:
        if len(poll.place.polls) <= rounds:
            poll.answer(500)

    places = [poller.place() for _ in range(number)]
    wishes, firsts = [], []
    for place in places:
        place.always = fail
        wishes.append(poller.wish(poller.word(), place, {"backoff_base": base, "backoff_cap": HOUR}))
        firsts.append(place.next())  # one after the other: dice with a seed fall in the order of the failures
    poller.granted(wishes)
    seen: list[list[float]] = [[] for _ in range(rounds)]
    for place, first in zip(places, firsts, strict=True):
        polls = [first, *(place.next() for _ in range(rounds))]
        for at, (before, after) in enumerate(pairwise(polls)):
            longest = base * 2**at
            not_early(before, after, longest / 2, f"half of {longest} ms, after failure number {at + 1}")
            seen[at].append(waited(before, after) / longest)
    return seen


@behaviour(stage=3, points=5, source=BACKOFF, needs="backoff_grows")
@hints(
    "Forty clients fail in the same moment. When do they come back?",
    "One throw for all, or one for ever, is no jitter; and it has to reach from d/2 to d.",
    "Draw `random.uniform(d / 2, d)` after each failure of each feed.",
)
@incident(
    "Amazon's engineers measured that back-off without jitter only delays the collisions: clients that failed together "
    "come back together. Their libraries throw dice since."
)
def test_waits_are_random(poller: Poller) -> None:
    """The waits of forty feeds are spread over the whole range, each time otherwise."""
    number = 40
    for scale, chance in SCALES:
        metronome = Metronome(poller, scale, 2) if scale == FIRST else None
        first, second = throws(poller, number, scale, 2)
        waits = first + second
        wrong = [
            (min(first) >= 0.75 or min(second) >= 0.75, f"{number} waits, and all are in the upper half of the range"),
            (max(first) < 0.75 or max(second) < 0.75, f"{number} waits, and all are in the lower half of the range"),
            (min(waits) >= 0.625, f"{2 * number} waits, and none is in the lowest quarter of the range"),
            (max(waits) < 0.875, f"{2 * number} waits, and none is in the highest quarter of the range"),
            (
                inversions(first, second) <= fewest_inversions(number, chance),
                f"{number} feeds, and those that wait long after one failure do so after the next",
            ),
        ]
        found = [told for is_wrong, told in wrong if is_wrong]
        if not found and (not metronome or metronome.in_time()):
            return
    raise AssertionError(f"waits are drawn anew, evenly between d/2 and d; {found[0]}")


@behaviour(stage=3, hidden=True, alone=True, points=5, source=BACKOFF, needs="waits_are_random")
@hints(
    "What do two processes of your program have in common?",
    "A seed that is written down makes every process throw the same dice.",
    "Don't seed the generator at all: it takes its seed from the system.",
)
def test_processes_draw_apart(poller: Poller) -> None:
    """Two processes of the program throw different dice: a fleet that fails together does not come back together."""
    number = 30
    for scale, chance in SCALES:
        base = scale if scale == FIRST else 3 * scale // 2
        metronomes = [Metronome(poller, base, 1)] if scale == FIRST else []
        (first,) = throws(poller, number, base, 1)
        poller.solution.restart()
        metronomes += [Metronome(poller, base, 1)] if scale == FIRST else []
        (second,) = throws(poller, number, base, 1)
        in_time = all(metronome.in_time() for metronome in metronomes)
        if in_time and inversions(first, second) > fewest_inversions(number, chance):
            return
        poller.solution.restart()
    raise AssertionError("in both processes the same feeds wait long: their dice have the same seed")


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(
    stage=4, hidden=True, points=5, source=rfc(9112, "8", "Handling Incomplete Messages"), needs="etag_comes_back"
)
@hints(
    "When do you know that a body is complete?",
    "The ETag comes with the head; the document is there at the end.",
    "Read the whole body first, let a broken-off one raise, and only then store document and validators together.",
)
@incident(
    "Python's requests for years handed on a body that was shorter than its Content-Length, without an error "
    "(psf/requests#4956). With the ETag stored, the next answer is 304, and the torn document stays for ever."
)
def test_torn_documents_refused(poller: Poller) -> None:
    """A body that is not complete, or never will be, is no document: the old one stays, and so does its validator."""
    head, body = ('ETag: "torn"', MODIFIED), b"n" * 4000
    long, chunked = f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"
    pieces = b"".join(chunks(body))
    tears: dict[str, tuple[str, bytes, Callable[[Poll], None]]] = {
        "a length, and half of it": (long, body[:2000], Poll.finish),
        "a length, and one byte less": (long, body[:-1], Poll.finish),
        "a length, and a reset": (long, body[:2000], Poll.hang_up),
        "chunks without the last one": (chunked, pieces, Poll.finish),
        "half a chunk": (chunked, pieces[:-500], Poll.finish),
        "chunks that are none": (chunked, pieces[:1007] + b"zz\r\n" + pieces[1007:], Poll.finish),
    }
    feeds = poller.feeds(len(tears))
    for feed, (delimited, sent, end) in zip(feeds, tears.values(), strict=True):
        poll = two_rounds(feed, b"old", 'ETag: "whole"')
        poll.begin(200, delimited, *head)
        poll.send(sent)
        waiting.until_flushed(poller.solution)
        poller.solution.settled()
        assert feed.document() == b"old", "a part of the new document is there: the old one is owed"
        end(poll)
    for feed, told in zip(feeds, tears, strict=True):
        poll = feed.next(f"a poll after {told}")
        feed.shows(status="failing", failures=1, version=1)
        assert feed.document() == b"old", f"{told}: the old document is owed, and another one is served"
        assert poll.conditions == {"if-none-match": '"whole"'}, (
            f'{told}: the document is still "whole", and came {poll.conditions}'
        )


@behaviour(stage=4, points=3, source=brief("R7", "MAX_BODY_BYTES"), needs="every_framing_read")
def test_long_documents_refused(poller: Poller) -> None:
    """A document of just MAX_BODY_BYTES is taken, one byte more is a failure, however it is delimited."""
    framings = (LENGTH, CHUNKS, CLOSE)
    right, wrong = poller.feeds(len(framings)), poller.feeds(len(framings))
    for feeds, size in ((right, LIMIT), (wrong, LIMIT + 1)):
        for feed, framing in zip(feeds, framings, strict=True):
            two_rounds(feed, b"small", 'ETag: "small"').answer(200, b"x" * size, 'ETag: "big"', framing=framing)
    for feed, framing in zip(right, framings, strict=True):
        feed.next(f"a poll after {LIMIT} bytes, delimited by {framing}")
        feed.shows(status="ok", version=2)
        assert feed.document() == b"x" * LIMIT, f"{LIMIT} bytes, delimited by {framing}, are a document"
    for feed, framing in zip(wrong, framings, strict=True):
        poll = feed.next(f"a poll after {LIMIT + 1} bytes, delimited by {framing}")
        feed.shows(status="failing", version=1)
        assert feed.document() == b"small", f"{LIMIT + 1} bytes, delimited by {framing}, are too many"
        tag = poll.conditions.get("if-none-match")
        assert tag == '"small"', f"what was refused has no validator here, and came {tag}"


@behaviour(stage=4, hidden=True, points=5, source=brief("R7", "a head has an end too"), needs="long_documents_refused")
@hints(
    "How much do you read before you look at how much it was?",
    "A body may have no length, and a head no end.",
    "Count the bytes while they come, and close when it is too much; most parsers have a limit for heads.",
)
def test_endless_answers_given_up(poller: Poller) -> None:
    """A body or a head that never ends is given up while it comes, and the feed goes on."""
    feeds = poller.feeds(2)
    pieces = [b"10000\r\n" + b"x" * 65536 + b"\r\n", b"X-Filler: " + b"x" * 65520 + b"\r\n"]
    polls = [feed.next() for feed in feeds]
    polls[0].begin(200, "Transfer-Encoding: chunked")
    polls[1].send(b"HTTP/1.1 200 OK\r\n")
    for poll, piece, told in zip(polls, pieces, ("a body", "a head"), strict=True):
        line = poll.connection
        while line.sent < 24 * MIB and not poll.gone:
            poll.send(piece)
            taken = lambda: line.flushed or poll.gone  # noqa: B023, E731
            poller.solution.until(taken, f"an end of the poll: it is {told} without end", "server")
        assert poll.gone, f"{told} has an end somewhere, and {line.sent >> 20} MiB of one were read"
    for feed in feeds:
        poll = feed.next("a poll after the back-off")
        feed.shows(status="failing", failures=1)
        poll.answer(200, b"short")
    for feed in feeds:
        feed.next()
        feed.shows(status="ok", version=1)


@behaviour(stage=4, points=3, source=brief("R7", "timeout_ms"), needs="polls_never_overlap")
def test_hanging_answers_given_up(poller: Poller) -> None:
    """An answer that does not come, or stops in the middle, is given up after timeout_ms, closed, and a failure."""
    feeds, patient = poller.feeds(3, timeout=TIMEOUT, backoff_base=HOUR, backoff_cap=HOUR), poller.feed()
    polls, held = [feed.next() for feed in feeds], patient.next()
    polls[1].send(b"HTTP/1.1 200 OK\r\nContent-Le")
    polls[2].begin(200, "Content-Length: 100", 'ETag: "half"')
    polls[2].send(b"half")
    for feed, poll, told in zip(feeds, polls, ("no answer", "half a head", "half a body"), strict=True):
        poller.solution.until(lambda: poll.gone, f"an end of the poll, after {told}", "server")  # noqa: B023
        feed.becomes("failing")
        feed.shows(failures=1, version=0)
        assert feed.document() is None, f"nothing complete has come, but {told}, and a document is served"
    assert not held.gone, "a feed that gives its server an hour is not impatient"
    held.answer(200, b"at last")
    patient.next()
    patient.shows(status="ok", version=1)


@behaviour(stage=4, hidden=True, points=5, source=brief("R7", "as a whole"), needs="hanging_answers_given_up")
@hints(
    "Your time-out: does it begin anew with every byte?",
    "Most clients limit one read, and each request of a chain of redirects for itself.",
    "Wrap the whole poll, redirects and body and all, in one deadline.",
)
@incident(
    "The timeout of Python's requests is for the silence between two bytes: a server that sends one a second is waited "
    "for for ever (postmanlabs/httpbin#642)."
)
def test_dripping_answers_given_up(poller: Poller) -> None:
    """timeout_ms is for the poll as a whole: bytes that drip in, and slow redirects, don't prolong it."""
    whole = 2 * TIMEOUT
    chain = [poller.place() for _ in range(REDIRECTS + 1)]
    feeds = [*poller.feeds(2, timeout=whole), *poller.at(chain[0], timeout=whole)]
    body, head, hop = [feed.next() for feed in feeds]
    body.begin(200, "Transfer-Encoding: chunked")
    head.send(b"HTTP/1.1 200 OK\r\nX-Filler: ")
    deadline = waiting.now() + PATIENCE
    while not (body.gone and head.gone and hop.gone and not hop.answered) and waiting.now() < deadline:
        body.send(b"1\r\nx\r\n")
        head.send(b"x")
        waiting.elapse(poller.solution, 5)
        hop = _next_hop(chain, hop, whole / 2)
    poller.solution.settled()  # on a busy machine it may have had little of that time
    assert body.gone, "a body that drips in has timeout_ms as a whole"
    assert head.gone, "a head that drips in has timeout_ms as a whole"
    assert not chain[-1].polls, f"{REDIRECTS} redirects, {whole / 2:.0f} ms each, are too long, and all were followed"
    for feed in feeds:
        feed.next("a poll after the back-off")
        feed.shows(status="failing", version=0)


def _next_hop(chain: Sequence[Place], hop: Poll, milliseconds: float) -> Poll:
    """The request of a chain of redirects that is under way, answered once it has waited for that long."""
    at = chain.index(hop.place)
    if not hop.answered and not hop.gone and (waiting.now() - hop.at) * 1000 >= milliseconds and at < REDIRECTS:
        hop.redirect(302, chain[at + 1].url)
    return chain[at + 1].polls[0] if at < REDIRECTS and chain[at + 1].polls else hop


def _last_words(data: bytes) -> Callable[[Poll], None]:
    def die(poll: Poll) -> None:
        poll.send(data)
        poll.finish()

    return die


@behaviour(stage=4, points=3, source=brief("R5, R8", "no connection, no HTTP"), needs="failures_keep_document")
@hints(
    "What does your HTTP library make of a head that ends in the middle?",
    "Python's http.client, and so urllib3 and requests, takes an end for the empty line that ends a head.",
    "On top of these, refuse a head whose last line has no line end; or one whose `msg.defects` is not empty.",
)
@incident(
    "Put in this kata's place, http.client of Python takes a head that breaks off for a complete one, and the nothing "
    "behind it for the new document."
)
def test_dead_servers_survived(poller: Poller, servers: DocumentServer) -> None:
    """Refused and broken connections and answers that are no HTTP are failures; a server that is back is found."""
    deaths: dict[str, Callable[[Poll], None]] = {
        "a reset": Poll.hang_up,
        "an end without a word": Poll.finish,
        "another protocol": _last_words(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
        "a status that is none": _last_words(b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
        "half a head": _last_words(b"HTTP/1.1 200 OK\r\nContent-Le"),
    }
    with servers.down(servers.mirror):
        absent = poller.feed(servers.place(f"/{poller.word()}", servers.mirror))
        feeds = poller.feeds(len(deaths))
        for feed, die in zip(feeds, deaths.values(), strict=True):
            die(feed.next())
        absent.becomes("failing")
    for feed, told in zip([*feeds, absent], [*deaths, "refused connections"], strict=True):
        poll = feed.next(f"a poll after {told}")
        feed.shows(status="failing", version=0)
        poll.answer(200, b"back")
        feed.next()
        feed.shows(status="ok", failures=0, version=1)


@behaviour(stage=4, alone=True, points=5, source=brief("R9", "SIGTERM"), needs="deleted_in_mid_poll")
@hints(
    "What does your program wait for after SIGTERM?",
    "A poll has half a minute, and a thread that sleeps for an hour does not hear signals.",
    "Cancel all tasks; let threads be daemons, and wait on an event instead of sleeping.",
)
def test_sigterm_stops(poller: Poller) -> None:
    """SIGTERM ends the program at once, with polls under way, in back-off and between polls; none follows."""
    held, halfway, waiting_, failing, quiet = poller.feeds(5, interval=HOUR, backoff_base=HOUR, backoff_cap=HOUR)
    polls = [feed.next() for feed in (held, halfway, waiting_, failing, quiet)]
    polls[1].begin(200, "Content-Length: 10")
    polls[1].send(b"half")
    polls[2].answer(200, b"done")
    polls[3].answer(500)
    polls[4].answer(429, b"", "Retry-After: 900")
    poller.solution.settled()
    waiting_.shows(status="ok")
    failing.shows(status="failing")
    poller.solution.terminate()
    status = poller.solution.until_exit("to end after SIGTERM, with polls under way")
    assert status in STOPPED, f"the status after SIGTERM is 0, 143, or the signal itself, and came {status}"
    gone = lambda: all(poll.gone for poll in polls[:2])  # noqa: E731
    poller.solution.until(gone, "an end of the polls that were under way", "server")
    assert len(poller.servers.polls) == 5, "no poll begins after SIGTERM"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, hidden=True, source=brief("Scale", "nothing open"), needs="torn_documents_refused")
def test_nothing_left_open(poller: Poller) -> None:
    """Polls of documents that are torn or too long, and of feeds that are deleted meanwhile, leave no socket open."""
    poller.solution.settled()
    before = poller.solution.sockets()
    much = b"x" * (2 * LIMIT)  # so that who reads in blocks has one that goes beyond the limit
    feeds = poller.feeds(12, backoff_base=HOUR, backoff_cap=HOUR)  # three leaks are more than chance
    polls = [feed.next() for feed in feeds]
    for number, poll in enumerate(polls):
        if number % 4 == 0:
            poll.begin(200, f"Content-Length: {4 * LIMIT}")
            poll.send(much)
        elif number % 4 == 1:
            poll.begin(200, "Transfer-Encoding: chunked")
            poll.send(b"".join(chunks(much)))
        elif number % 4 == 2:
            poll.begin(200, "Transfer-Encoding: chunked")
            poll.send(b"5\r\nhel")
            poll.finish()
        else:
            assert feeds[number].delete().status == 204, "DELETE is 204"
    for poll in polls:
        poller.solution.until(lambda: poll.gone, "an end of each of these polls", "server")  # noqa: B023
    for number, feed in enumerate(feeds):
        if number % 4 != 3:
            feed.becomes("failing")
    poller.solution.settled()
    left = poller.solution.sockets() - before
    assert left <= 2, f"{len(feeds)} polls have ended without success, and {left} sockets are left open"


@behaviour(stage=5, hidden=True, alone=True, source=brief("Scale", "nothing in memory"), needs="change_replaces")
def test_nothing_hoarded(poller: Poller) -> None:
    """Documents that were replaced, and feeds that were deleted, leave nothing in memory."""
    feed, number, size = poller.feed(interval=1), 10, 60_000

    def replace() -> None:
        for _ in range(number):
            feed.next().answer(200, poller.chance.randbytes(size))
        poller.solution.settled()
        feed.shows(status="ok", failures=0)

    def delete() -> None:
        others = poller.feeds(number, interval=HOUR)
        for other in others:
            other.next().answer(200, poller.chance.randbytes(size))
        poller.solution.settled()
        assert others[-1].document() is not None, "the document is owed before its feed is deleted"
        for other in others:
            assert other.delete().status == 204, "DELETE is 204"

    for round_, told in ((replace, "were replaced"), (delete, "belonged to feeds that were deleted")):
        round_()
        for _ in range(60):  # who collects garbage may let some rounds pass; who leaks grows in each
            before = poller.solution.memory_bytes()
            round_()
            if poller.solution.memory_bytes() - before < number * size / 2:
                break
        else:
            raise AssertionError(f"60 times {number} documents of {size} bytes {told}, and memory grew each time")
