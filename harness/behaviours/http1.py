"""What an HTTP/1.1 origin server owes its clients: the behaviours of the kata `http1`.

The harness decides every byte of a request, so it owns every ordering: a request is under way for as long as its last
byte is not sent, and a response for as long as nobody reads it. What is refused stands in front of a PUT that must not
be carried out (a marker), and beside a request of the same shape that must be.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, rfc
from harness.solution.program import STOPPED, Solution
from harness.verdicts import Broken, NotReached
from harness.wire.raw_http import Answer, RawClient, chunks, head, request

KIB, MIB = 1 << 10, 1 << 20
BULK = 512 * KIB  # of a file that the kernel does not take for a client that does not read
MAX_TARGET, MAX_FIELDS, MAX_BODY = 8000, 16384, MIB  # as kata.toml has them
TIMEOUT = 100  # ms; on a slow machine it becomes more
TIMED = {"REQUEST_TIMEOUT_MS": TIMEOUT, "KEEP_ALIVE_MS": TIMEOUT}
HASTY = {"SHUTDOWN_MS": 100}
READS_ON = 2.0  # seconds, at the least, for which a server reads what comes behind its last response
CROWD = 120
HOST = "kata.example"


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Server:
    """The solution in the words of this kata; `target` is a file of this behaviour's own."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution, self.chance = solution, chance
        self.target, self.marker = self.file(), self.file()
        self._owner: RawClient | None = None

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def file(self) -> str:
        return f"/files/{self.word()}"

    def client(self, name: str = "client", slow: bool = False) -> RawClient:
        return RawClient(self.solution, name, slow)

    @property
    def owner(self) -> RawClient:
        """A client that sets the scene and looks at what became of it, on one connection."""
        if self._owner is None or self._owner.over:
            self._owner = self.client("owner")
        return self._owner

    def store(self, body: bytes, target: str = "", *fields: str) -> str:
        """Store a file, and return its entity tag."""
        target = target or self.target
        reply = self.owner.ask(request("PUT", target, *fields, body=body))
        assert reply.status in (201, 204), f"a PUT is answered with 201, or 204 if there was a file, and came {reply}"
        return tag(self.get(target))

    def get(self, target: str = "", *fields: str) -> Answer:
        return self.owner.ask(request("GET", target or self.target, *fields))

    def assert_stored(self, body: bytes, why: str, target: str = "") -> None:
        reply = self.get(target)
        assert reply.status == 200, f"{why}, and GET gets {reply}"
        assert reply.body == body, f"{why}: {short(body)} is owed, and came {short(reply.body)}"

    def marked(self) -> bytes:
        """A PUT that must not be carried out, to stand behind something that ends the connection."""
        return request("PUT", self.marker, body=b"smuggled")

    def assert_unmarked(self, why: str) -> None:
        reply = self.get(self.marker)
        assert reply.status == 404, f"{why}: what stands behind it is no request, and the PUT in it was carried out"

    def refuse(self, data: bytes, why: str, statuses: Iterable[int] = (400,)) -> None:
        """Send what must be refused, with a request behind it that must not be seen: one answer, and the end."""
        client = self.client("bad client")
        client.send(data + self.marked())
        replies = client.until_end(f"the end of the connection: {why}")
        assert len(replies) == 1, f"{why}: one answer and then the end are owed, and came {replies}"
        assert replies[0].status in statuses, f"{why}: {told(statuses)} is owed, and came {replies[0]}"
        self.assert_unmarked(why)

    def ends_with(self, data: bytes, why: str) -> None:
        """Send a last request and one behind it: at most the first is carried out, and then the end."""
        client = self.client("last client")
        client.send(data + self.marked())
        replies = client.until_end(f"the end of the connection: {why}")
        assert len(replies) == 1, f"{why}: one answer and then the end are owed, and came {replies}"
        assert replies[0].status in (200, 400, 501), f"{why}: an answer is owed, and came {replies[0]}"
        self.assert_unmarked(why)

    def refuse_or_serve(self, data: bytes, why: str) -> dict[str, Any] | None:
        """Send what may be refused or served, to /echo: what was understood, None when it was refused.

        Served means: it was one request, and the one behind it is answered as well.
        """
        client = self.client("odd client")
        client.send(data + request("GET", "/echo", "X-Next: yes"))
        reply = client.response(f"a response: {why}")
        if reply.status != 200:
            assert reply.status == 400, f"{why}: an answer or 400 is owed, and came {reply}"
            rest = client.until_end(f"the end of the connection after the 400: {why}")
            assert not rest, f"{why}: nothing is answered behind a refusal, and came {rest}"
            return None
        behind = understood(client.response(f"a response to the request behind it: {why}"))
        assert field(behind, "x-next") == "yes", f"{why}: the request behind it is answered next, and came {behind}"
        return understood(reply)

    def stuck(self, *targets: str, size: int, last: bytes = b"") -> RawClient:
        """A client that asks for these files and reads nothing; the kernel takes less than `size` bytes for it.

        `last` is another request, sent behind those for the files.
        """
        slow = self.client("slow", slow=True)
        slow.connection.stop_reading()
        slow.send(b"".join(request("GET", target) for target in targets) + last)
        self.solution.settled()
        if self.solution.kernel_holds(slow.connection) >= size:
            raise NotReached("the scene could not be set: the kernel takes all that the client does not read")
        return slow


@pytest.fixture
def server(solution: Solution, chance: random.Random) -> Server:
    return Server(solution, chance)


def tag(reply: Answer) -> str:
    """The strong entity tag of a response."""
    etag = reply.header("etag") or ""
    strong = len(etag) > 1 and etag[0] == etag[-1] == '"' and '"' not in etag[1:-1]
    assert strong, f"a file has a strong ETag, and this one has {etag or 'none'}"
    return etag


def short(body: bytes) -> str:
    return repr(body) if len(body) <= 40 else f"{body[:20]!r}… ({len(body)} bytes)"


def told(statuses: Iterable[int]) -> str:
    return " or ".join(str(status) for status in statuses)


def understood(reply: Answer) -> dict[str, Any]:
    """What /echo says that it was sent."""
    assert reply.status == 200, f"/echo is answered with 200, and came {reply}"
    document: dict[str, Any] = reply.json()
    names = {"method": str, "target": str, "host": str, "fields": list, "body": str}
    right = isinstance(document, dict) and all(isinstance(document.get(key), kind) for key, kind in names.items())
    assert right, f"/echo tells method, target, host, fields and body, and told {document!r}"
    return document


def field(document: dict[str, Any], name: str) -> str | None:
    """The value of a field as /echo understood it; several lines may stand alone or be joined."""
    values = [value for key, value in document["fields"] if key == name]
    return ", ".join(values) if values else None


def refusals_and(server: Server, good: Sequence[bytes], owed: str) -> None:
    """The permitted twins: each of them is answered, on one connection."""
    client = server.client("good client")
    for data in good:
        document = understood(client.ask(data))
        assert document["body"] == owed, f"{short(data)} has the body {owed!r}, and was understood as {document}"


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=rfc(9110, "9.3.4", "PUT"))
@hints(
    "Print the bytes that come, and look at them before you parse them.",
    "A request is a line, field lines, an empty line, and as many bytes as Content-Length says.",
    "Read up to CRLF CRLF, split, then read exactly Content-Length bytes; answer with a Content-Length of your own.",
)
def test_put_then_get(server: Server) -> None:
    """What is PUT is what GET returns, byte for byte: 201 for a new file, 204 for another content, 404 once deleted."""
    body = b"\r\n\r\nGET / HTTP/1.1\r\n\r\n" + server.chance.randbytes(300) + b"\n"
    client = server.client()
    missing = client.ask(request("GET", server.target))
    made = client.ask(request("PUT", server.target, "Content-Type: image/x-kata", body=body))
    got = client.ask(request("GET", server.target))
    replaced = client.ask(request("PUT", server.target, body=b"second"))
    second = client.ask(request("GET", server.target))
    deleted = [client.ask(request("DELETE", server.target)) for _ in range(2)]
    gone = client.ask(request("GET", server.target))

    assert missing.status == 404, f"a file that nobody stored is 404, and came {missing}"
    assert made.status == 201, f"a new file is 201, and came {made}"
    assert (got.status, got.body) == (200, body), f"{short(body)} was stored, and came {got.status} {short(got.body)}"
    assert got.header("content-type") == "image/x-kata", f"the type is stored too, and is {got.header('content-type')}"
    assert replaced.status == 204, f"a file that is replaced is 204, and came {replaced}"
    assert (second.status, second.body) == (200, b"second"), f"the new content is owed, and came {second}"
    assert [reply.status for reply in deleted] == [204, 404], f"DELETE is 204, then 404, and came {deleted}"
    assert gone.status == 404, f"a file that was deleted is 404, and came {gone}"


@behaviour(stage=1, source=rfc(9110, "6.6.1", "Date"), needs="put_then_get")
def test_response_fields(server: Server) -> None:
    """A GET has Date, Content-Length, a strong ETag that changes with the content, and Last-Modified."""
    before = datetime.now(UTC).replace(microsecond=0)
    first = server.store(b"one")
    reply = server.get()
    dates = {}
    for name in ("date", "last-modified"):
        value = reply.header(name) or "missing"
        try:
            dates[name] = datetime.strptime(value, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        except ValueError:
            raise AssertionError(f"{name} reads like Sun, 06 Nov 1994 08:49:37 GMT, and is {value}") from None
    after = datetime.now(UTC)

    stale = timedelta(seconds=5)  # servers keep the text of the time for a while
    fresh = all(before - stale <= date <= after for date in dates.values())
    assert fresh, f"the file was stored just now, and the dates are {dates}"
    assert reply.all("content-length") == ["3"], f"Content-Length is 3, and is {reply.all('content-length')}"
    assert tag(reply) == first, "an ETag does not change while the content does not"
    tags = [first, *(server.store(other) for other in (b"two", b"six", b"ten"))]  # not all of them as a second turns
    assert len(set(tags)) == len(tags), f"another content has another ETag, and they are {tags}"


@behaviour(stage=1, source=rfc(9112, "5", "Field Syntax"))
def test_echo_tells(server: Server) -> None:
    """/echo tells method, target, host, fields and body: names without case, values without blanks around them."""
    client = server.client()
    raw = head("POST", "/echo?a=1&b=%20", "x-CASE:plain", "X-Blanks:  \t in  side \t ", "X-Empty:", "Content-Length: 3")
    document = understood(client.ask(raw + b"\x00\xff\n"))

    assert document["method"] == "POST", f"the method is POST, and /echo tells {document['method']}"
    assert document["target"] == "/echo?a=1&b=%20", f"the target is told as it came, not {document['target']}"
    assert document["host"] == HOST, f"the host is {HOST}, and /echo tells {document['host']}"
    for name, value in {"x-case": "plain", "x-blanks": "in  side", "x-empty": "", "content-length": "3"}.items():
        assert field(document, name) == value, f"{name} is {value!r}, and /echo tells {field(document, name)!r}"
    assert document["body"] == "\x00\xff\n", f"each byte of a body is a character, and /echo tells {document['body']!r}"


@behaviour(stage=1, source=rfc(9112, "9.3", "Persistence"), needs="echo_tells")
def test_keep_alive(server: Server) -> None:
    """A connection serves one request after the other, with and without bodies, also after a 404."""
    client = server.client()
    for number in range(6):
        words = f"{number} {server.word()}"
        reply = client.ask(request("POST", "/echo", body=words.encode()))
        assert understood(reply)["body"] == words, f"request {number + 1} on the connection had the body {words!r}"
        assert not reply.closes, "a connection of HTTP/1.1 stays open unless somebody says close"
        assert client.ask(request("GET", server.target)).status == 404, "a file that nobody stored is 404"
    for method in ("GET", "PUT"):
        reply = client.ask(head(method, "/echo", "Content-Length: 5") + b"hello")
        assert understood(reply)["body"] == "hello", "a length frames a body, whatever the method"
    reply = client.ask(request("GET", "/echo", "Connection: keep-alive"))
    assert understood(reply)["body"] == "", "a request without a length has no body"
    server.solution.settled()
    assert not client.over, "the connection stays open"


@behaviour(stage=1, source=rfc(9110, "9.3.2", "HEAD"), needs="put_then_get")
def test_head_has_no_body(server: Server) -> None:
    """HEAD is answered with the fields of GET and without its body, whatever the status."""
    server.store(b"some content")
    client = server.client()
    got = client.ask(request("GET", server.target))
    for _ in range(2):
        reply = client.ask(request("HEAD", server.target), "HEAD")
        assert (reply.status, reply.body) == (200, b""), f"HEAD has the status of GET and no body, and came {reply}"
        for name in ("content-length", "etag", "last-modified", "content-type"):
            assert reply.header(name) == got.header(name), f"{name} is as for GET, and is {reply.header(name)}"
    missing = client.ask(request("HEAD", server.marker), "HEAD")
    assert missing.status == 404, f"HEAD of what is not there is 404, and came {missing}"
    assert client.ask(request("GET", server.target)).body == b"some content", "and the connection goes on"


@behaviour(stage=1, source=rfc(9112, "9.6", "Tear-down"), needs="keep_alive")
@hints(
    "Connection is a list, its options have no case, and it may come on several lines.",
    "After a request with `close` answer it, say `Connection: close`, close, and read no further.",
    'Split all Connection lines at commas, strip, lower; if "close" is among them leave the loop after the answer.',
)
def test_close_is_the_last(server: Server) -> None:
    """A request that says close is answered with close, the connection ends, and nothing behind it is carried out."""
    for line in ("Connection: close", "connection: Foo , CLOSE", "Connection: x\r\nConnection: close"):
        client = server.client()
        client.send(request("POST", "/echo", line, body=b"last"))
        replies = client.until_end("one response and then the end of the connection")
        assert len(replies) == 1, f"{line!r}: one response and the end are owed, and came {replies}"
        assert understood(replies[0])["body"] == "last", "the request that says close is answered like any other"
        assert replies[0].closes, "the last response says Connection: close"
    server.ends_with(request("POST", "/echo", "Connection: close", body=b"last"), "a request that says close")


@behaviour(stage=1, points=2, source=rfc(9112, "7.1", "Chunked Transfer Coding"), needs="echo_tells")
@hints(
    "Read a line, then as many bytes as it says in hexadecimal, then an empty line; and again.",
    "The last chunk has size 0; behind it stand trailers, maybe none, and an empty line.",
    "Cut the size line at `;`, take hexadecimal digits only, and read the CRLF behind the data as well.",
)
def test_chunked_body(server: Server) -> None:
    """A chunked body is put together: sizes with letters in any case, with zeros before, and with extensions."""
    client = server.client()
    bodies = {
        chunks(b"hello", b" ", b"world"): "hello world",
        chunks(): "",
        chunks(b"x" * 27): "x" * 27,
        b"1B\r\n" + b"y" * 27 + b"\r\n0\r\n\r\n": "y" * 27,
        b"0005\r\nhello\r\n000\r\n\r\n": "hello",
        b'5;a=b;c="d"\r\nhello\r\n0;last\r\n\r\n': "hello",
        chunks(b"0\r\n\r\n", b"\r\n"): "0\r\n\r\n\r\n",
    }
    for number, (body, owed) in enumerate(bodies.items()):
        coding = "transfer-encoding:CHUNKED" if number % 2 else "Transfer-Encoding: chunked"
        document = understood(client.ask(head("POST", "/echo", coding) + body))
        assert document["body"] == owed, f"{body!r} is {owed!r} in chunks, and /echo tells {document['body']!r}"
    assert client.ask(head("PUT", server.target, "Transfer-Encoding: chunked") + chunks(b"a", b"b")).status == 201
    server.assert_stored(b"ab", "a file may come in chunks")


@behaviour(stage=1, source=rfc(9110, "15.5.6", "405 Method Not Allowed"), needs="put_then_get")
def test_unknown_targets_and_methods(server: Server) -> None:
    """An unknown target is 404, a method that a resource lacks 405 with Allow, an unknown one 501; the body is read."""
    server.store(b"content")
    client = server.client()
    reply = client.ask(request("POST", "/nowhere", body=b"GET /echo HTTP/1.1\r\n\r\n"))
    assert reply.status == 404, f"there is nothing at /nowhere: 404 is owed, and came {reply}"
    reply = client.ask(request("POST", server.target, body=b"GET /echo HTTP/1.1\r\n\r\n"))
    assert reply.status == 405, f"a file can't be POSTed to: 405 is owed, and came {reply}"
    allowed = {word.strip() for word in (reply.header("allow") or "").split(",")}
    assert allowed >= {"GET", "HEAD", "PUT", "DELETE"}, f"Allow names GET, HEAD, PUT and DELETE, and is {allowed}"
    other = server.client()
    for method in ("BREW", "get", "M-SEARCH"):
        reply = other.ask(request(method, server.target, body=b"x"))
        assert reply.status in (400, 405, 501), f"{method} is no method here: 501 or 405 is owed, and came {reply}"
        other = server.client()
    assert client.ask(request("GET", server.target)).body == b"content", "and the connection goes on after 404 and 405"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, source=rfc(9112, "2.1", "Message Format"), needs="chunked_body")
@hints(
    "TCP is a stream of bytes: one read may bring half a line, or three requests.",
    "Keep what is left over, and parse only what is complete; also CR and LF may come apart.",
    "Put everything into one buffer per connection, and take from its front: a line, or a number of bytes.",
)
def test_cut_anywhere(server: Server) -> None:
    """A request is the same wherever TCP cuts it, also between CR and LF, and when it comes byte by byte."""
    client = server.client()
    chunked = head("POST", "/echo", "Transfer-Encoding: chunked") + chunks(b"hello", b"!")
    plain = request("POST", "/echo", body=b"hello!")
    for data in (chunked, plain):
        ends = [cut for cut in range(1, len(data)) if set(data[cut - 1 : cut + 1]) & set(b"\r\n")]
        for cut in (*ends, len(data) - 3):
            client.send(data[:cut])
            if cut in ends:
                server.solution.turn()
            else:
                server.solution.settled()  # it is read before the rest is there
            assert not client.answered, "no response before the request is complete"
            client.send(data[cut:])
            assert understood(client.response())["body"] == "hello!", f"cut after {data[:cut][-20:]!r} it is the same"
    for at in range(len(chunked)):
        if at in (len(chunked) - 1, chunked.index(b"\n"), len(chunked) // 2):
            server.solution.settled()
            assert not client.answered, "no response before the request is complete"
        client.connection.send(chunked[at : at + 1])
        server.solution.turn()
    assert understood(client.response())["body"] == "hello!", "byte by byte it is the same"


@behaviour(stage=2, source=rfc(9112, "9.3.2", "Pipelining"), needs=("keep_alive", "head_has_no_body"))
def test_pipelined_in_order(server: Server) -> None:
    """Requests that come in one piece are each answered, in order, and each sees the effect of those before it."""
    client, target = server.client(), server.target
    data = b"".join(request("POST", "/echo", body=b"%d" % number) for number in range(20))
    client.send(data)
    bodies = [understood(reply)["body"] for reply in client.responses(20)]
    assert bodies == [str(number) for number in range(20)], f"twenty answers in order are owed, and came {bodies}"

    steps = [request("PUT", target, body=b"a"), request("GET", target), request("HEAD", target)]
    steps += [head("PUT", target, "Transfer-Encoding: chunked") + chunks(b"bc"), request("GET", target)]
    steps += [request("DELETE", target), request("GET", target)]
    client.send(b"".join(steps), "PUT", "GET", "HEAD", "PUT", "GET", "DELETE", "GET")
    came = [(reply.status, reply.body) for reply in client.responses(7)]
    assert [status for status, _ in came] == [201, 200, 200, 204, 200, 204, 404], f"one after the other, not {came}"
    assert [came[1][1], came[4][1]] == [b"a", b"bc"], f"each GET sees the PUT before it, and came {came}"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "10.1.1", "Expect"), needs="put_then_get")
@hints(
    "Who waits for whom? The client holds its body back until you say something.",
    "After the head, and before you read the body, send 100 Continue, or a final status at once.",
    "If Expect has 100-continue, the version is 1.1 and nothing of the body is there: write "
    "`HTTP/1.1 100 Continue` and an empty line.",
)
def test_expect_continue(server: Server) -> None:
    """Who expects 100-continue gets 100 at once or a final status, and sends its body; HTTP/1.0 gets no 100."""
    client = server.client()
    waits = ("Expect: 100-Continue", "Content-Length: 5")
    client.send(head("POST", "/echo", *waits))
    client.until_interim("100 Continue, though none of the body has come")
    client.send(b"hello")
    reply = client.response()
    assert (understood(reply)["body"], reply.interim) == ("hello", (100,)), f"one 100 is owed, and came {reply.interim}"

    client.send(head("POST", "/echo", "Transfer-Encoding: chunked", "Expect: 100-continue"))
    client.until_interim("100 Continue before a chunked body")
    client.send(chunks(b"hello"))
    assert understood(client.response())["body"] == "hello", "the body comes after the 100"
    reply = client.ask(head("POST", "/echo", *waits) + b"hello")
    assert understood(reply)["body"] == "hello", "a client need not wait for the 100"
    assert understood(client.ask(request("GET", "/echo", "Expect: 100-continue")))["body"] == "", "there is no body"

    refused = server.client().ask(head("PUT", server.target, "Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}"))
    assert refused.status in (413, 417), f"a body that is too large is refused before it comes: 413, not {refused}"
    old = server.client("old client")
    old.send(head("POST", "/echo", *waits, version="1.0"))
    server.solution.settled()
    assert not old.interim, "HTTP/1.0 knows no 100: the expectation is ignored"
    old.send(b"hello")
    assert understood(old.response())["body"] == "hello", "and its body is read"


LENGTHS = ["+5", "-5", "5x", "0x5", "5 5", "", "5_0", "\xb2", "5, 6", "9" * 40]


@behaviour(stage=2, points=3, source=rfc(9112, "6.3", "Message Body Length"), needs="echo_tells")
@hints(
    "What does your language take for a number that the grammar does not?",
    "A Content-Length is digits, and nothing else; two that differ are none.",
    "Match `[0-9]+`, bounded, before you call int(); anything else is 400, and the end of the connection.",
)
def test_bad_lengths_refused(server: Server) -> None:
    """A Content-Length that is no number, or two that differ, is 400 and the end of the connection."""
    for value in LENGTHS:
        data = head("POST", "/echo", f"Content-Length: {value}") + b"hello"
        server.refuse(data, f"Content-Length: {value}", (413, 400) if value.startswith("9") else (400,))
    for first, second in (("5", "6"), ("6", "5"), ("5", "")):
        data = head("POST", "/echo", f"Content-Length: {first}", f"Content-Length: {second}") + b"hello"
        server.refuse(data, f"Content-Length {first!r} and {second!r}")
    for lines in (["Content-Length: 5, 5"], ["Content-Length: 5", "Content-Length: 5"]):
        document = server.refuse_or_serve(head("POST", "/echo", *lines) + b"hello", f"{lines}: the same length twice")
        assert document is None or document["body"] == "hello", f"two equal lengths are 5, and came {document}"
    refusals_and(
        server, [head("POST", "/echo", f"Content-Length: {value}") + b"hello" for value in ("5", "005 ")], "hello"
    )


@behaviour(stage=2, hidden=True, points=5, source=rfc(9112, "6.1", "Transfer-Encoding"), needs="chunked_body")
@hints(
    "Two fields tell where the message ends; what if the proxy before you believes the other one?",
    "Refuse with 400, or believe Transfer-Encoding alone; in both cases the connection ends with the answer.",
    "Where both are present: raise 400, answer with Connection: close, and read nothing more.",
)
def test_length_and_chunks(server: Server) -> None:
    """With Content-Length and Transfer-Encoding both, a request is 400 or chunked, and the connection ends after it."""
    body = chunks(b"hello")
    smuggled = server.marked()
    for length in (3, len(body), len(body + smuggled), 0):
        for order in (1, -1):
            lines = [f"Content-Length: {length}", "Transfer-Encoding: chunked"][::order]
            client = server.client("ambiguous client")
            client.send(head("POST", "/echo", *lines) + body + smuggled)
            replies = client.until_end("the end of the connection after a request with both lengths")
            assert len(replies) == 1, f"{lines}: one answer and then the end are owed, and came {replies}"
            refused = replies[0].status == 400
            right = refused or understood(replies[0])["body"] == "hello"
            assert right, f"{lines}: 400, or what the chunks say, is owed, and came {replies[0]}"
            server.assert_unmarked(f"{lines}")
    refusals_and(server, [head("POST", "/echo", "Transfer-Encoding: chunked") + body], "hello")


CODINGS = [
    "chunked, gzip",
    "gzip",
    "identity",
    "chunked, identity",
    "xchunked",
    "chunked;q=1",
    "\x0bchunked",
    '"chunked"',
    "",
]


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "6.1", "Transfer-Encoding"), needs="chunked_body")
def test_other_codings_refused(server: Server) -> None:
    """A Transfer-Encoding that is anything but chunked is 400 or 501, and the end if chunked is not the last coding."""
    for value in CODINGS:
        data = head("POST", "/echo", f"Transfer-Encoding: {value}") + chunks(b"hello")
        server.refuse(data, f"Transfer-Encoding: {value!r}", (400, 501))
    reply = server.client("bad client").ask(
        head("POST", "/echo", "Transfer-Encoding: gzip, chunked") + chunks(b"hello")
    )
    assert reply.status in (400, 501), f"a coding that is not known: 501 or 400 is owed, and came {reply}"
    twice = head("POST", "/echo", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip") + chunks(b"hello")
    server.refuse(twice, "Transfer-Encoding: chunked, and on another line gzip", (400, 501))
    refusals_and(server, [head("POST", "/echo", "Transfer-Encoding:  chunked ") + chunks(b"hello")], "hello")


SIZES = [b"0x5", b"+5", b"-5", b"5_0", b"", b"g", b"\xb2", b"5h"]
HUGE = [b"100000005", b"10000000000000005"]  # 5, for who counts with 32 or 64 bits


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "7.1", "Chunked Transfer Coding"), needs="chunked_body")
@hints(
    "`int(text, 16)` takes more than hexadecimal digits.",
    "Signs, `0x`, underscores and blanks are no digits; and a size may be larger than any integer of yours.",
    "Match `[0-9A-Fa-f]{1,16}` in full, compare with MAX_BODY, and insist on CRLF behind the data.",
)
def test_bad_chunks_refused(server: Server) -> None:
    """A chunk size that is no hexadecimal number, or data that is longer than its size, is 400 and the end."""
    coding = "Transfer-Encoding: chunked"
    for size in SIZES:
        data = head("POST", "/echo", coding) + size + b"\r\nhello\r\n0\r\n\r\n"
        server.refuse(data, f"the chunk size {size!r}")
    for size in HUGE:
        client = server.client("huge client")
        client.send(head("POST", "/echo", coding) + size + b"\r\nhello\r\n0\r\n\r\n" + server.marked())
        server.solution.settled()
        replies = client.responses(client.answered)
        right = all(reply.status in (400, 413) for reply in replies)
        assert right, f"the chunk size {size!r} is refused, or so much is waited for, and came {replies}"
        server.assert_unmarked(f"the chunk size {size!r}")
    for body in (b"3\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"4\r\nhello\r\n0\r\n\r\n"):
        server.refuse(head("POST", "/echo", coding) + body, f"{body!r}: data of another length than its size")
    refusals_and(server, [head("POST", "/echo", coding) + b"5\r\nhello\r\n0\r\n\r\n"], "hello")


FIELD_LINES = {
    "Content-Length : 5": "a blank before the colon",
    "Content-Length\t: 5": "a tab before the colon",
    "No-Colon": "a line without a colon",
    ": no-name": "a field without a name",
    "X-N\xe4me: x": "a name with a character that is none of a token",
    "X Name: x": "a blank inside a name",
    "X-Nul: a\0b": "NUL in a value",
}


@behaviour(stage=2, points=3, source=rfc(9112, "5.1", "Field Line Parsing"), needs="echo_tells")
@hints(
    "Do you strip the name? Then `Content-Length : 5` is a length for you, and none for the proxy before you.",
    "A name is a token, right up to the colon.",
    "Match the whole line against token, colon, OWS, value, OWS; whatever does not match is 400.",
)
def test_bad_field_lines_refused(server: Server) -> None:
    """A field line with blanks before its colon, without colon or name, or with NUL is 400 and the end."""
    for line, why in FIELD_LINES.items():
        server.refuse(head("GET", "/echo", line), why)
    good = ["X!#$%&'*+-.^_`|~9: odd, and a token", "X-Latin: caf\xe9", "X: a\tb"]
    refusals_and(server, [head("GET", "/echo", line) for line in good], "")


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "2.2", "Message Parsing"), needs="echo_tells")
def test_odd_line_ends(server: Server) -> None:
    """An empty line before a request is ignored; folds, bare LF and bare CR are refused, or read as the RFC says."""
    client, posts = server.client(), [request("POST", "/echo", body=body) for body in (b"one", b"two", b"three")]
    client.send(b"\r\n" + posts[0])
    bodies = [understood(client.response("a response, since an empty line before a request is ignored"))["body"]]
    client.send(posts[1] + b"\r\n" + posts[2])
    bodies += [understood(reply)["body"] for reply in client.responses(2)]
    assert bodies == ["one", "two", "three"], f"an empty line before a request is ignored, and came {bodies}"
    folded = server.refuse_or_serve(
        f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\nX-Note: a\r\n \tContent-Length: 9\r\n\r\n".encode(), "a folded line"
    )
    if folded:
        note = (field(folded, "x-note") or "").split()
        assert note == ["a", "Content-Length:", "9"], f"a fold is a blank in the value before it, and came {folded}"
    lone = server.refuse_or_serve(f"GET /echo HTTP/1.1\nHost: {HOST}\nX-Note: a\n\n".encode(), "lines that end with LF")
    assert not lone or field(lone, "x-note") == "a", f"a line that ends with LF is one like others, and came {lone}"
    inside = server.refuse_or_serve(
        f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\nX-Note: a\nX-More: b\r\n\r\n".encode(), "a bare LF inside a field line"
    )
    if inside:
        more = (field(inside, "x-note"), field(inside, "x-more"))
        assert more == ("a", "b"), f"a bare LF ends a line or is refused, and is no part of a value: {inside}"
    bare = server.refuse_or_serve(head("GET", "/echo", "X-Note: a\rX-More: b"), "a bare CR inside a value")
    if bare:
        note_and_more = (field(bare, "x-note"), field(bare, "x-more"))
        assert note_and_more == ("a X-More: b", None), f"a bare CR is a blank, and came {bare}"
    early = server.refuse_or_serve(
        f"GET /echo HTTP/1.1\r\n X-Early: a\r\nHost: {HOST}\r\n\r\n".encode(), "a blank before the first field line"
    )
    assert not early or early["host"] == HOST, (
        f"a line with a blank before the first field is no field, and came {early}"
    )
    assert not early or field(early, "x-early") is None, f"a line with a blank before the first field is none: {early}"


@behaviour(stage=2, points=3, source=rfc(9112, "3.2", "Request Target"), needs="echo_tells")
@hints(
    "Clients name their host in Host; those that take you for a proxy name it in the request line, and in Host.",
    "HTTP/1.1 needs exactly one Host. Of `http://other.example/echo?x` the authority is the host, the rest the target.",
    "Count the Hosts and match each; if the target begins with `http://` cut off the authority, and use it as host.",
)
def test_host_rules(server: Server) -> None:
    """HTTP/1.1 without Host is 400, two or a bad one too; the host in a target of absolute form counts instead."""
    bad = [
        ([], "no Host"),
        (["Host: a", "Host: a"], "two Hosts"),
        (["Host: a", "host: b"], "two Hosts that differ"),
        (["Host: a b"], "a blank in Host"),
        (["Host: a/b"], "a path in Host"),
        (["Host: a@b"], "a user in Host"),
    ]
    for lines, why in bad:
        reply = server.client("bad client").ask(head("GET", "/echo", *lines, host=""))
        assert reply.status == 400, f"{why}: 400 is owed, and came {reply}"
    reply = server.client("bad client").ask(head("GET", "http://other.example/echo", host=""))
    assert reply.status == 400, f"no Host, though the target has one: 400 is owed, and came {reply}"
    client = server.client()
    for host in (HOST, "localhost:8080", "[::1]:80", "127.0.0.1", "UPPER.example"):
        document = understood(client.ask(head("GET", "/echo", host=host)))
        assert document["host"].lower() == host.lower(), f"Host is {host}, and /echo tells {document['host']}"
    document = understood(client.ask(head("GET", "HTTP://other.example:81/echo?x=/y")))
    assert document["host"] == "other.example:81", f"the host of the target counts, and /echo tells {document['host']}"
    assert document["target"] == "/echo?x=/y", f"the target is /echo?x=/y, and /echo tells {document['target']}"


LINES = {
    b"GET": "a method alone",
    b"GET  /echo HTTP/1.1 x": "four words",
    b"GET /e cho HTTP/1.1": "a blank in the target",
    b"GET /echo http/1.1": "a version in lower case",
    b"GET /echo HTTP/1": "half a version",
    b"GET /echo HTTP/1.1.1": "a version and a half",
    b"G@T /echo HTTP/1.1": "a method that is no token",
    b"GET /echo\x00 HTTP/1.1": "NUL in the target",
    b"GET /echo HTTP/\xb9.1": "a digit that is none",
}


GARBAGE = {
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) + b"\r\n\r\n",
    "a response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "UTF-16": "GET /echo HTTP/1.1\r\n\r\n".encode("utf-16") + b"\r\n\r\n",
}


@behaviour(stage=2, points=3, source=rfc(9112, "3", "Request Line"), needs="echo_tells")
def test_bad_request_lines_refused(server: Server) -> None:
    """A request line that is none is 400, or 501 or 505, and the end; garbage costs nobody else anything."""
    bystander = server.client("bystander")
    bystander.send(request("POST", "/echo", body=b"half")[:-2])
    for line, why in LINES.items():
        server.refuse(line + f"\r\nHost: {HOST}\r\n\r\n".encode(), why, (400, 501, 505))
    reply = server.client("bad client").ask(head("GET", "echo"))
    assert reply.status in (400, 404), f"a target without a slash: 400 is owed, and came {reply}"
    noise = server.chance.randbytes(4000).replace(b"\n", b"")
    for why, data in {**GARBAGE, "noise": noise + b"\r\n\r\n"}.items():
        client = server.client("stranger")
        client.send(data)
        replies = client.until_end(f"the end of the connection: {why}")
        assert all(reply.status >= 400 for reply in replies), f"{why} is no request, and came {replies}"
    bystander.send(b"lf")
    assert understood(bystander.response())["body"] == "half", "a request that was under way goes on"
    refusals_and(server, [head("GET", "/echo")], "")


@behaviour(stage=2, points=3, source=rfc(9110, "5.4", "Field Limits"), needs="echo_tells")
@hints(
    "Who decides how much you read: you, or the client?",
    "Compare before you read on, line by line.",
    "414 as soon as the request line goes on beyond MAX_TARGET, 431 as soon as all field lines together are too much.",
)
def test_limits(server: Server) -> None:
    """Within the limits a head is served; beyond them it is 414 or 431, before it is complete."""
    client, filler = server.client(), server.word()
    target = f"/echo?{filler}".ljust(MAX_TARGET, "x")
    assert understood(client.ask(head("GET", target)))["target"] == target, f"a target of {MAX_TARGET} bytes is served"
    line = f"X-Long: {filler}".ljust(MAX_FIELDS - 200, "x")
    assert field(understood(client.ask(head("GET", "/echo", line))), "x-long") == line[8:], "a long field is served"
    many = [f"X-{number}: {filler}" for number in range(100)]
    assert field(understood(client.ask(head("GET", "/echo", *many))), "x-99") == filler, "a hundred fields are served"

    refused = {
        "a target of twice MAX_TARGET": (414, head("GET", "/".ljust(2 * MAX_TARGET + 2, "x"))),
        "fields of thrice MAX_FIELDS": (431, head("GET", "/echo", line, "X-2" + line[1:], "X-3" + line[1:])),
        "3000 short fields, beyond MAX_FIELDS": (431, head("GET", "/echo", *(many * 30))),
    }
    for why, (status, data) in refused.items():
        reply = server.client("large client").ask(data)
        assert reply.status == status, f"{why}: {status} is owed, and came {reply}"
    endless = server.client("endless client")
    endless.send(b"GET /" + b"x" * (4 * MAX_TARGET + 4 * MAX_FIELDS))
    reply = endless.response("a refusal: the request line does not end")
    assert 400 <= reply.status < 500, f"414 is owed for a line that does not end, and came {reply}"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "15.5.14", "413 Content Too Large"), needs="chunked_body")
def test_large_bodies(server: Server) -> None:
    """A body of MAX_BODY bytes is stored; one more, announced or in chunks, is 413, and none of it is a request."""
    whole = server.chance.randbytes(1024) * (MAX_BODY // 1024)
    server.store(whole)
    server.assert_stored(whole, f"MAX_BODY is {MAX_BODY}")
    fake = server.marked()
    body = (fake * (MAX_BODY // len(fake) + 1))[: MAX_BODY + 1]
    pieces = chunks(*(body[at : at + 65536] for at in range(0, len(body), 65536)))
    for data, why in (
        (request("PUT", server.target, body=body), "announced"),
        (head("PUT", server.target, "Transfer-Encoding: chunked") + pieces, "in chunks"),
    ):
        client = server.client("large client")
        reply = client.ask(data)
        assert reply.status == 413, f"a byte more than MAX_BODY, {why}: 413 is owed, and came {reply}"
        server.solution.settled()
        assert client.over or not client.answered, f"{why}: nothing in a refused body is a request"
        server.assert_unmarked(f"a body that is too large, {why}")
    server.assert_stored(whole, "what is refused changes nothing")


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "7.1.2", "Chunked Trailer Section"), needs="chunked_body")
@hints(
    "Behind the last chunk there may be more lines.",
    "Read them like fields and then forget them; what ends the body is the empty line.",
    "After size 0 read lines until an empty one; never add them to the fields of the head.",
)
def test_trailers_are_no_fields(server: Server) -> None:
    """Trailers end with an empty line, are no fields of the head, and neither frame nor route anything."""
    client = server.client()
    coded = head("POST", "/echo", "Transfer-Encoding: chunked", "X-Head: yes")
    client.send(coded + chunks(b"hello", trailers=("X-Sum: 1", "X-Head: no")) + request("POST", "/echo", body=b"next"))
    document = understood(client.response())
    assert document["body"] == "hello", f"trailers are no part of the body, and /echo tells {document['body']!r}"
    came = (field(document, "x-head"), field(document, "x-sum"))
    assert came == ("yes", None), f"trailers are no fields of the head, and /echo tells {document['fields']}"
    assert understood(client.response())["body"] == "next", "the request behind the trailers is answered next"
    for line in (
        "Content-Length: 99",
        "Transfer-Encoding: chunked",
        "Host: evil.example",
        "Connection: close",
        "X : 1",
    ):
        served = server.refuse_or_serve(coded + chunks(b"hello", trailers=(line,)), f"a trailer {line}")
        assert not served or served["body"] == "hello", f"a trailer {line} frames nothing, and /echo tells {served}"
        assert not served or served["host"] == HOST, f"a trailer {line} is no field, and /echo tells {served}"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9112, "9.3", "Persistence"), needs="keep_alive")
def test_http_1_0(server: Server) -> None:
    """HTTP/1.0 needs no Host, gets no chunks, and its connection ends unless both sides say keep-alive."""
    client = server.client("old client")
    old = head("POST", "/echo", "Content-Length: 5", host="", version="1.0") + b"hello"
    client.send(old)
    replies = client.until_end("one response and then the end of the connection")
    assert len(replies) == 1, f"one response and the end are owed to HTTP/1.0, and came {replies}"
    assert understood(replies[0])["body"] == "hello", f"the request is answered, and came {replies[0]}"
    assert replies[0].end != "chunks", "HTTP/1.0 knows no Transfer-Encoding"
    server.ends_with(old, "a request of HTTP/1.0 without keep-alive")

    client = server.client("old client")
    reply = client.ask(head("GET", "/echo", "Connection: Keep-Alive", version="1.0"))
    assert understood(reply)["body"] == "", "a request of HTTP/1.0 with keep-alive is answered"
    if "keep-alive" in (reply.header("connection") or "").lower():
        assert understood(client.ask(head("GET", "/echo", version="1.0")))["body"] == "", "keep-alive was promised"
    coded = head("POST", "/echo", "Transfer-Encoding: chunked", version="1.0") + chunks(b"hello")
    server.ends_with(coded, "HTTP/1.0 knows no Transfer-Encoding")


@behaviour(stage=2, source=rfc(9110, "13.1.2", "If-None-Match"), needs="response_fields")
def test_conditional_get(server: Server) -> None:
    """If-None-Match, compared weakly, and If-Modified-Since are 304 for who has the file; the tag comes first."""
    etag = server.store(b"content")
    modified = server.get().header("last-modified") or ""
    then = parsedate_to_datetime(modified)
    earlier = format_datetime(then - timedelta(days=400), usegmt=True)
    old_forms = [then.strftime("%A, %d-%b-%y %H:%M:%S GMT"), then.strftime("%a %b %e %H:%M:%S %Y")]
    same = [f"If-None-Match: {value}" for value in (etag, f"W/{etag}", f'"x", {etag}', f'"x",W/{etag} ,"y"', "*")]
    same += [f"If-Modified-Since: {date}" for date in (modified, *old_forms)]
    same += [f"If-None-Match: {etag}\r\nIf-Modified-Since: {earlier}"]
    other = ['If-None-Match: "x"', f'If-None-Match: "x{etag[1:]}', 'If-None-Match: "x", W/"y"']
    other += [f"If-Modified-Since: {earlier}", "If-Modified-Since: yesterday", "If-Modified-Since: 0"]
    other += [f'If-None-Match: "x"\r\nIf-Modified-Since: {modified}']

    for method in ("GET", "HEAD"):
        for line in same:
            reply = server.owner.ask(request(method, server.target, line), method)
            assert (reply.status, reply.body) == (304, b""), f"{method} with {line!r}: 304 is owed, and came {reply}"
            assert reply.header("etag") == etag, f"a 304 has the ETag of the 200, and came {reply.header('etag')}"
        for line in other:
            reply = server.owner.ask(request(method, server.target, line), method)
            assert reply.status == 200, f"{method} with {line!r}: 200 is owed, and came {reply}"
    assert server.get(server.marker, "If-None-Match: *").status == 404, "what is not there is 404"


@behaviour(stage=2, hidden=True, points=3, source=rfc(9110, "13.1.1", "If-Match"), needs="response_fields")
def test_conditional_writes(server: Server) -> None:
    """If-Match, compared strongly, If-None-Match and If-Unmodified-Since guard PUT and DELETE: 412 changes nothing."""
    etag = server.store(b"first")
    earlier = format_datetime(datetime.now(UTC) - timedelta(days=400), usegmt=True)
    later = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    guards = ['If-Match: "x"', f"If-Match: W/{etag}", "If-None-Match: *", f"If-None-Match: {etag}"]
    guards += [f"If-Unmodified-Since: {earlier}"]
    client = server.client()
    for line in guards:
        client.send(
            request("PUT", server.target, line, body=b"GET /echo HTTP/1.1\r\n\r\n") + request("GET", server.target)
        )
        refused, after = client.responses(2)
        assert refused.status == 412, f"PUT with {line}: 412 is owed, and came {refused}"
        assert after.body == b"first", f"a 412 changes nothing, and its body is read: next came {after}"
    reply = client.ask(request("DELETE", server.target, 'If-Match: "x"'))
    assert reply.status == 412, f"DELETE with another tag: 412 is owed, and came {reply}"
    reply = client.ask(request("PUT", server.marker, "If-Match: *", body=b"x"))
    assert reply.status in (404, 412), f"If-Match: * wants a file to be there: 412 is owed, and came {reply}"

    allowed = [f'If-Match: "x", {etag}', "If-Match: *", 'If-None-Match: "x"', f"If-Unmodified-Since: {later}"]
    for line in allowed:
        reply = client.ask(request("PUT", server.target, line, body=b"second"))
        assert reply.status == 204, f"PUT with {line}: 204 is owed, and came {reply}"
        server.assert_stored(b"second", f"PUT with {line} is carried out")
        server.store(b"first")
    reply = client.ask(request("PUT", server.marker, "If-None-Match: *", body=b"new"))
    assert reply.status == 201, f"If-None-Match: * where nothing is: 201 is owed, and came {reply}"


RANGES = {
    "0-0": (0, 1),
    "2-4": (2, 5),
    "7-": (7, 10),
    "-3": (7, 10),
    "0-99": (0, 10),
    "-99": (0, 10),
    "9-9": (9, 10),
    "0-9": (0, 10),
}


@behaviour(stage=2, points=3, source=rfc(9110, "14.2", "Range"), needs="response_fields")
@hints(
    "Three forms: first-last, first-, and -number of bytes from the end.",
    "What begins behind the end is 416, what ends behind it is cut, and what is no range is ignored.",
    "206 with `Content-Range: bytes 2-4/10` and just those bytes; 416 with `Content-Range: bytes */10`.",
)
def test_ranges(server: Server) -> None:
    """A range of bytes is 206 with Content-Range, one behind the end 416, and other units and methods ignore it."""
    etag = server.store(b"0123456789")
    for text, (begin, end) in RANGES.items():
        reply = server.get("", f"Range: bytes={text}")
        assert reply.status == 206, f"bytes={text} of ten: 206 is owed, and came {reply}"
        assert reply.body == b"0123456789"[begin:end], f"bytes={text} are {begin} to {end - 1}, and came {reply.body!r}"
        place = reply.header("content-range")
        assert place == f"bytes {begin}-{end - 1}/10", f"Content-Range tells where they stand, and is {place}"
        assert tag(reply) == etag, "a part has the ETag of the whole"
    for text in ("10-", "10-20", "-0", "99999999999999999999-"):
        reply = server.get("", f"Range: bytes={text}")
        assert reply.status == 416, f"bytes={text} of ten: 416 is owed, and came {reply}"
        assert reply.header("content-range") == "bytes */10", (
            f"a 416 tells the size, not {reply.header('content-range')}"
        )
    for line in ("Range: lines=1-2", 'Range: bytes=0-1\r\nIf-Range: "x"', f"Range: bytes=0-1\r\nIf-Range: W/{etag}"):
        reply = server.get("", line)
        assert (reply.status, reply.body) == (200, b"0123456789"), f"{line!r}: the whole is owed, and came {reply}"
    for text in ("5-3", "a-b", "", "-", "+1-4", "1_0-", "1-2-3"):
        reply = server.get("", f"Range: bytes={text}")
        assert reply.status in (200, 400, 416), f"bytes={text} is no range: 200 is owed, and came {reply}"
    reply = server.get("", f"Range: bytes=0-1\r\nIf-Range: {etag}")
    assert (reply.status, reply.body) == (206, b"01"), (
        f"If-Range names the file as it is: 206 is owed, and came {reply}"
    )
    reply = server.get("", f"Range: bytes=0-1\r\nIf-None-Match: {etag}")
    assert reply.status == 304, f"a condition comes before the range: 304 is owed, and came {reply}"
    reply = server.owner.ask(request("HEAD", server.target, "Range: bytes=0-1"), "HEAD")
    assert reply.status == 200, f"a range is for GET alone, and HEAD got {reply}"
    several = server.get("", "Range: bytes=0-1,4-5")
    assert several.status in (200, 206), f"several ranges are parts, or the whole, and came {several}"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, points=4, source=brief("C5", "one connection never holds another"), needs="chunked_body")
def test_unfinished_hold_nobody(server: Server) -> None:
    """Requests that are not complete hold nobody up, wherever they stop; complete, each gets its own answer."""
    parts = []
    for number in range(24):
        word = f"{number} {server.word()}"
        first = head("POST", "/echo", f"X-Mine: {word}", "Transfer-Encoding: chunked")
        whole = first + chunks(word.encode(), b".")
        cut = [0, 1, 20, len(first) - 1, len(first), len(first) + 5, len(whole) - 4, len(whole) - 1][number % 8]
        parts.append((server.client(f"client {number}"), word, whole[:cut], whole[cut:]))
    for client, _, begin, _ in parts:
        client.send(begin)
    server.solution.settled()
    server.store(b"meanwhile")
    server.assert_stored(b"meanwhile", "others are served meanwhile")
    assert not any(client.answered or client.over for client, *_ in parts), "who is not complete is waited for"
    for client, _, _, rest in parts:
        client.send(rest)
    for client, word, *_ in parts:
        document = understood(client.response())
        came = (document["body"], field(document, "x-mine"))
        assert came == (word + ".", word), f"{client.name} sent {word!r}, and /echo tells {came}"


@behaviour(
    stage=3, hidden=True, points=5, source=brief("C5", "a client that does not read"), needs="pipelined_in_order"
)
@hints(
    "What does your write do when the client's window is full?",
    "A write that blocks holds its own connection only: a thread for each, or a write that is awaited.",
    "With asyncio `await writer.drain()` after each write; with threads one thread a connection.",
)
def test_unread_hold_nobody(server: Server) -> None:
    """A client that does not read holds nobody up, and gets everything, in order, when it reads again."""
    body = server.chance.randbytes(KIB) * (BULK // KIB)
    server.store(body)
    slow = server.stuck(server.target, server.target, server.marker, size=2 * BULK)
    server.store(b"meanwhile", server.file())
    server.assert_stored(body, "others are served meanwhile")
    slow.connection.read_again()
    first, second, third = slow.responses(3)
    assert first.body == second.body == body, "everything is owed to a client that was slow"
    assert third.status == 404, f"in order, also the last, and came {third}"


@behaviour(stage=3, hidden=True, points=5, source=rfc(9110, "13.2.1", "When to Evaluate"), needs="conditional_writes")
@hints(
    "Between the look and the write, who else may have written?",
    "The condition is looked at when the body is complete, in one step with the change.",
    "Read the body first; then compare and store without an await, or under one lock.",
)
def test_one_write_wins(server: Server) -> None:
    """Of several conditional PUTs for one version exactly one wins; the others get 412, and change nothing."""
    etag = server.store(b"first")
    for guard, target, won in ((f"If-Match: {etag}", server.target, 204), ("If-None-Match: *", server.marker, 201)):
        bodies = [f"{server.word()} {number}".encode() for number in range(4)]
        clients = [server.client(f"writer {number}") for number in range(4)]
        for client, body in zip(clients, bodies, strict=True):
            client.send(request("PUT", target, guard, body=body)[:-1])
        server.solution.settled()
        assert not any(client.answered for client in clients), "no PUT is answered before it is complete"
        with server.solution.frozen():
            for client, body in zip(clients, bodies, strict=True):
                client.send(body[-1:])
        statuses = [client.response().status for client in clients]
        assert sorted(statuses) == sorted([won, 412, 412, 412]), f"{guard}: one wins, and came {statuses}"
        server.assert_stored(bodies[statuses.index(won)], "the winner's content is stored", target)


@behaviour(stage=3, hidden=True, points=5, source=rfc(9110, "8.8.3", "ETag"), needs="unread_hold_nobody")
def test_download_of_one_version(server: Server) -> None:
    """Who downloads a file while it is replaced or deleted gets one version, the one that the ETag names."""
    old, new = b"old " * (BULK // 4), b"new!" * (BULK // 4)
    etag = server.store(old)
    slow = server.stuck(server.target, size=BULK)
    other = server.store(new)
    server.assert_stored(new, "the new version is there at once")
    slow.connection.read_again()
    reply = slow.response()
    assert reply.status == 200, f"the download goes on, and came {reply.status}"
    expected = {etag: old, other: new}.get(tag(reply))
    whole = reply.body == expected  # what differs in megabytes takes minutes to tell, and tells nothing
    assert whole, f"one version is owed, {tag(reply)}, and {reply.body.count(b'new!')} parts are new"


@behaviour(stage=3, hidden=True, points=3, source=rfc(9112, "9.6", "Tear-down"), needs="pipelined_in_order")
@hints(
    "The end of input is not the end of the conversation.",
    "A client may say all it has to say, close its side, and read.",
    "When read returns nothing: answer what is complete, then close; don't abort what is being answered.",
)
def test_half_close_is_answered(server: Server) -> None:
    """A client that closes its side after its requests still gets all its answers, and then the end."""
    body = server.chance.randbytes(KIB) * (BULK // KIB)
    server.store(body)
    last = request("POST", "/echo", body=b"last words")
    client = server.stuck(server.target, server.target, size=2 * BULK, last=last)
    client.connection.half_close()
    server.solution.settled()
    client.connection.read_again()
    replies = client.until_end("three responses and then the end of the connection")
    assert len(replies) == 3, f"three responses are owed to a client that closed its side, and came {len(replies)}"
    assert replies[0].body == replies[1].body == body, "the answers are whole"
    assert understood(replies[2])["body"] == "last words", "also the last"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, points=5, source=rfc(9112, "8", "Handling Incomplete Messages"), needs="chunked_body")
@hints(
    "How do you know that a body is complete?",
    "The end of the connection completes nothing: neither a length nor chunks.",
    "If input ends before the last byte, or before the last chunk and its empty line: store nothing, and close.",
)
def test_upload_is_all_at_once(server: Server) -> None:
    """An upload is seen by nobody before it is complete; one that breaks off, by FIN or RST, changes nothing."""
    server.store(b"before")
    whole = request("PUT", server.target, body=b"after, and complete")
    chunked = head("PUT", server.target, "Transfer-Encoding: chunked") + chunks(b"after", b"chunks")
    broken_off = [(data, "fin") for data in (whole[:-1], whole[:-19], chunked[:-1], chunked[:-5], chunked[:-7])]
    broken_off += [(data, "reset") for data in (whole[:-1], chunked[:-1], chunked[:-12])]
    for data, ending in broken_off:
        client = server.client("vanishing client")
        client.send(data)
        server.solution.settled()
        if ending == "fin":
            client.connection.half_close()
            replies = client.until_end("the end of the connection: the request broke off")
            assert all(reply.status >= 400 for reply in replies), f"it is no success, and came {replies}"
        else:
            server.assert_stored(b"before", f"{short(data[-12:])} and no more is no upload yet")
            client.hang_up()
        server.solution.settled()
        server.assert_stored(b"before", f"{short(data[-12:])} and then a {ending} is no upload")

    one, two = server.client("one"), server.client("two")
    one.send(whole[:-9])
    two.send(chunked[:-9])
    server.solution.settled()
    server.assert_stored(b"before", "two halves of an upload are none")
    one.send(whole[-9:])
    assert one.response().status == 204, "an upload that is complete is stored"
    server.assert_stored(b"after, and complete", "an upload that is complete is stored")
    two.send(chunked[-9:])
    assert two.response().status == 204, "another is complete after it"
    server.assert_stored(b"afterchunks", "of two uploads the one that is complete last remains")


def timeout(server: Server) -> int:
    """REQUEST_TIMEOUT_MS, and KEEP_ALIVE_MS, as they are now."""
    return int(server.solution.settings["REQUEST_TIMEOUT_MS"])


def give_more_time(server: Server) -> None:
    longer = 4 * timeout(server)
    server.solution.kill()
    server.solution.restart(REQUEST_TIMEOUT_MS=longer, KEEP_ALIVE_MS=longer)


def quick(server: Server, data: bytes) -> tuple[RawClient, Answer]:
    """Ask when time-outs are short: the request is there when the connection is.

    Where a time-out strikes all the same, on a slow machine, the server is given more time.
    """
    for more in range(3):
        if more:
            give_more_time(server)
        for _ in range(3):
            client = server.client("quick client")
            with server.solution.frozen():
                client.send(data)
            server.solution.until(lambda: client.answered or client.over, "a response", client.name)  # noqa: B023
            if client.answered and (reply := client.response()).status != 408:
                return client, reply
    raise Broken(f"a request that comes in one piece is answered, however short {' and '.join(TIMED)} are")


def let_time_out(server: Server, *clients: RawClient, dripping: RawClient | None = None) -> float:
    """Let ten times the time-out pass, or less if all are over: timers of the kernel can't be seen.

    Returns the longest pause between two drips, in ms.
    """
    longest, before = 0.0, waiting.now()
    for _ in range(50):
        if all(client.over for client in clients):
            return longest
        waiting.elapse(server.solution, timeout(server) / 5)
        if dripping and not dripping.over:
            dripping.connection.send(b".")
        longest, before = max(longest, 1000 * (waiting.now() - before)), waiting.now()
    server.solution.settled()  # whoever was late is at work now
    return longest


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    alone=True,
    settings=TIMED,
    source=rfc(9112, "9.5", "Failures and Timeouts"),
    needs="chunked_body",
)
@hints(
    "A client that sends a byte every now and then is never silent.",
    "The time for a head counts from its first byte, not from its last one; that for a body begins with each read.",
    "One deadline around the reading of the whole head: `asyncio.timeout(REQUEST_TIMEOUT)`, and one for each read "
    "of a body.",
)
def test_slow_requests_are_cut_off(server: Server) -> None:
    """REQUEST_TIMEOUT_MS ends a head that is not complete, also if it drips on, and a body of which nothing comes."""
    _, reply = quick(server, head("GET", "/echo"))
    assert understood(reply)["method"] == "GET", "who is quick is served"
    coded = head("PUT", server.target, "Transfer-Encoding: chunked")
    stalled = {
        "a head that drips": b"GET /echo HTTP/1.1\r\nX-Drip: ",
        "a body that is not complete": request("PUT", server.target, body=b"0123456789")[:-5],
        "chunks without the last": coded + chunks(b"01234")[:-5],
        "half a chunk": coded + b"5\r\n012",
        "no request at all": b"",
    }
    for more in range(3):
        clients = [server.client(why) for why in stalled]
        with server.solution.frozen():
            for client, data in zip(clients, stalled.values(), strict=True):
                client.send(data)
        pause = let_time_out(server, *clients, dripping=clients[0])
        if not clients[0].over or pause < timeout(server) / 2 or more == 2:
            break
        give_more_time(server)  # a drip was late: whoever ends a connection after such a pause may wait for every byte
    told = f"REQUEST_TIMEOUT_MS is {timeout(server)}"
    assert clients[0].over, f"{told}, ten times that are over, and a head that drips is still read"
    for client in clients:
        replies = client.until_end(f"the end of the connection: {told}")
        assert [reply.status for reply in replies] in ([], [408], [400]), f"408 or nothing is owed, and came {replies}"
    assert quick(server, request("GET", server.target))[1].status == 404, "half a body is not stored"
    assert quick(server, request("PUT", server.target, body=b"0123456789"))[1].status == 201, "a whole one is"


@behaviour(stage=4, alone=True, settings=TIMED, source=rfc(9112, "9.5", "Failures and Timeouts"), needs="keep_alive")
def test_idle_connection_is_closed(server: Server) -> None:
    """A connection that is idle for KEEP_ALIVE_MS after a response is closed, politely and without a word."""
    client, reply = quick(server, head("GET", "/echo"))
    assert understood(reply)["method"] == "GET", "a request is answered"
    let_time_out(server, client)
    replies = client.until_end(f"the end of an idle connection: KEEP_ALIVE_MS is {timeout(server)}")
    assert [reply.status for reply in replies] in ([], [408]), f"nothing was asked, and came {replies}"
    assert not client.connection.was_reset, "an idle connection is closed with FIN, not reset"


@behaviour(stage=4, hidden=True, points=5, source=rfc(9112, "9.6", "Tear-down"), needs="chunked_body")
@hints(
    "What does the kernel send when you close a socket that has unread input?",
    "A RST, and it may take your answer with it; so stop writing first, and go on reading for a while.",
    "After the answer `shutdown(SHUT_WR)`, read and throw away until the client closes or 2 s are over, then close.",
)
def test_refusal_can_be_read(server: Server) -> None:
    """A client that is still sending when it is refused is not reset: the server stops writing first, and reads on."""
    size = MAX_BODY + 8 * 65536
    refusals = {
        "a body that is too large": (head("PUT", server.target, f"Content-Length: {size}"), 413),
        "a bad chunk": (head("PUT", server.target, "Transfer-Encoding: chunked") + b"nonsense\r\n", 400),
    }
    for why, (data, status) in refusals.items():
        for _ in range(5):
            began = waiting.now()
            client = server.client("sending client")
            client.send(data + bytes(65536))
            reply = client.response()
            assert reply.status == status, f"{why}: {status} is owed, and came {reply}"
            for _ in range(4):
                client.send(bytes(65536))
                server.solution.settled()
            was_reset, took = client.connection.was_reset, waiting.now() - began
            client.connection.close()
            if took < READS_ON:
                break
        else:
            raise NotReached(f"the scene could not be set: {READS_ON:.0f} s were over before all was sent")
        assert not was_reset, f"{why}: the client was reset while it was sending; the answer may be lost"
    assert server.client().ask(request("PUT", server.target, body=b"x")).status == 201, "and others are served"


@behaviour(stage=4, points=4, source=brief("C5", "clients that vanish"), needs="put_then_get")
def test_vanished_readers(server: Server) -> None:
    """Clients that hang up before or while their answer is sent cost nobody else anything."""
    server.store(bytes(BULK))
    bystander = server.client("bystander")
    bystander.send(request("POST", "/echo", body=b"still here")[:-1])
    slow = [server.stuck(server.target, server.target, size=2 * BULK) for _ in range(3)]
    with server.solution.frozen():
        for number in range(8):
            client = server.client(f"gone {number}")
            client.send(request("GET", server.target) * 3)
            client.hang_up()
        for client in slow:
            client.hang_up()
    server.solution.settled()
    bystander.send(b"e")
    assert understood(bystander.response())["body"] == "still here", "a request that was under way goes on"
    assert len(server.get().body) == BULK, "and the file is still served, whole"


@behaviour(stage=4, hidden=True, points=5, alone=True, source=brief("C7", "SIGTERM"), needs="unread_hold_nobody")
@hints(
    "What is under way when the signal comes: a request without its end, a response that is not read yet?",
    "Stop accepting, close who is idle, and let the others finish; then exit.",
    "On SIGTERM close the listener and the idle connections, answer the rest with Connection: close, wait for them.",
)
def test_sigterm_finishes(server: Server) -> None:
    """After SIGTERM idle connections end and nobody is accepted; requests and responses under way are finished."""
    body = server.chance.randbytes(KIB) * (BULK // KIB)
    server.store(body)
    idle, late = server.client("idle client"), server.client("uploading client")
    assert understood(idle.ask(head("GET", "/echo")))["method"] == "GET", "a request is answered before"
    late.send(request("POST", "/echo", body=b"hello")[:-2])
    slow = server.stuck(server.target, size=BULK)
    server.solution.terminate()
    assert not idle.until_end("the end of an idle connection after SIGTERM"), "nothing was asked on it"
    server.solution.until(lambda: not server.solution.listening(), "to stop listening after SIGTERM")
    new = server.client("new client")
    new.send(head("GET", "/echo"))
    assert not new.until_end("an end: after SIGTERM nobody is accepted"), "after SIGTERM nobody is accepted"
    assert server.solution.exit_status() is None, "the server has exited, and requests were under way"
    late.send(b"lo")
    assert understood(late.response())["body"] == "hello", "a request that was under way is answered"
    assert not late.until_end("the end of the connection, after its answer"), "and then its connection ends"
    slow.connection.read_again()
    assert slow.response().body == body, "a response that was under way is sent whole"
    for client in (idle, late, new, slow):
        client.connection.close()
    status = server.solution.until_exit("to exit once nothing is under way")
    assert status in STOPPED, f"it ends with status 0, or by the signal, and not with {status}"


@behaviour(
    stage=4, hidden=True, points=3, alone=True, settings=HASTY, source=brief("C7", "SHUTDOWN_MS"), needs="keep_alive"
)
def test_sigterm_is_bounded(server: Server) -> None:
    """After SHUTDOWN_MS the server exits, whoever has not finished by then."""
    late, quick = server.client("uploading client"), server.client("quick client")
    assert understood(quick.ask(request("POST", "/echo", body=b"hello")))["body"] == "hello", "a request is answered"
    late.send(request("POST", "/echo", body=b"hello")[:-2])
    server.solution.settled()
    server.solution.terminate()
    owed = "to exit after SHUTDOWN_MS, though a request is not complete"
    server.solution.until(lambda: late.over or server.solution.exit_status() is not None, owed)
    late.connection.close()
    status = server.solution.until_exit(owed)
    assert status in STOPPED, f"it ends with status 0, or by the signal, and not with {status}"
    replies = late.responses(late.answered)
    assert all(reply.status >= 400 for reply in replies), f"half a request is no success, and came {replies}"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(
    stage=5,
    hidden=True,
    points=8,
    alone=True,
    source=brief("C5", "no more than one response"),
    needs="unread_hold_nobody",
)
@hints(
    "Two hundred requests for a megabyte each, and a client that does not read: where do the answers wait?",
    "Don't answer the next request while the client has not taken the last answer; then TCP holds it back.",
    "`await writer.drain()` before you read the next request, and let nobody write into a queue without a bound.",
)
def test_unread_answers_take_no_memory(server: Server) -> None:
    """A client that asks for 200 MiB in one go and reads nothing takes a few responses' worth of memory."""
    server.store(bytes(MAX_BODY))
    assert len(server.get().body) == MAX_BODY, "the file is served"
    server.solution.settled()
    before = server.solution.memory_bytes()
    clients = [server.stuck(*([server.target] * 50), size=50 * MIB) for _ in range(4)]
    grown = server.solution.memory_bytes() - before
    assert grown < 100 * MIB, f"200 MiB are asked for and nothing is read, and {grown / MIB:.0f} MiB are held for it"
    assert not any(client.over for client in clients), "and they wait for the client, not for its end"
    assert len(server.get().body) == MAX_BODY, "others are served meanwhile"


@behaviour(
    stage=5, hidden=True, points=6, source=brief("C1", "hundreds of connections"), needs="unfinished_hold_nobody"
)
def test_crowd_leaves_nothing(server: Server) -> None:
    """A crowd of connections is served side by side; when they are gone, so are their sockets."""
    server.get()
    server.solution.settled()
    before = server.solution.sockets()
    clients = [server.client(f"client {number}") for number in range(CROWD)]
    for number, client in enumerate(clients):
        client.send(request("POST", "/echo", body=b"%d" % number))
    for number, client in enumerate(clients):
        assert understood(client.response())["body"] == str(number), "each of the crowd gets its own answer"
    for number, client in enumerate(clients):
        if number % 4 == 1:
            client.send(head("GET", "/echo", "Connection: close"))
            client.response()
        elif number % 4 == 2:
            client.send(b"nonsense\r\n\r\n")
        (client.hang_up if number % 4 == 3 else client.connection.close)()
    server.solution.settled()
    if (left := server.solution.sockets() - before) >= 8:  # some are closed by a timer
        owed = f"to close the sockets of {CROWD} clients that are gone; {left} are still open"
        server.solution.until(lambda: server.solution.tree.sockets() - before < 8, owed)
