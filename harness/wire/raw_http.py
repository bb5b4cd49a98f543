"""A client of HTTP/1.1 whose every byte a behaviour decides, and a strict reading of what comes back.

For solutions whose subject is the message itself. Requests are bytes, well-formed or not; any number of them may be
sent before the first response is read. Responses are read one after the other: their bodies are framed by h11, which
nobody here wrote; what h11 forgives (a bare LF, fields that contradict each other) is not forgiven here.
Source: RFC 9112, RFC 9110.
"""

from __future__ import annotations

import re
from collections import deque

import h11

from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.http1 import Headers, Response, readable
from harness.wire.tcp import Connection

SHOWN = 100  # bytes of a request in a story
LONGEST_HEAD = 1 << 16
STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9] [\t -~\x80-\xff]*")
FIELD_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*")


class Answer(Response):
    """A final response, and the interim ones (1xx) that came before it."""

    def __init__(self, status: int, headers: Headers, body: bytes, interim: tuple[int, ...], end: str) -> None:
        super().__init__(status, headers, body)
        self.interim = interim
        self.end = end  # how its body was delimited: "length", "chunks", "close", or "none" where there can't be one

    def all(self, name: str) -> list[str]:
        """The values of all fields of that name."""
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def closes(self) -> bool:
        """It says that the connection ends with it."""
        options = ",".join(self.all("connection")).lower().split(",")
        return "close" in [option.strip() for option in options]


def head(method: str, target: str, *fields: str, host: str = "kata.example", version: str = "1.1") -> bytes:
    """The head of a well-formed request; each of `fields` is a whole field line. An empty `host` leaves Host out."""
    lines = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def request(method: str, target: str, *fields: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """A well-formed request, with Content-Length where it has a body or its method suggests one."""
    length = [f"Content-Length: {len(body)}"] if body or method in ("PUT", "POST") else []
    return head(method, target, *fields, *length, version=version) + body


def chunks(*pieces: bytes, trailers: tuple[str, ...] = ()) -> bytes:
    """A body in these chunks."""
    whole = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return whole + "\r\n".join(["0", *trailers, "", ""]).encode()


class RawClient:
    """One connection. `send` does not wait; `response` does."""

    def __init__(self, solution: Solution, name: str, slow_reader: bool = False) -> None:
        self.solution, self.name = solution, name
        self.connection = solution.connect(name, slow_reader)
        self.connection.on_bytes = self._arrived
        self.interim: list[int] = []  # 1xx that came for the response that is awaited now
        self.fault = ""
        self._asked: deque[str] = deque()
        self._came: deque[Answer] = deque()
        self._unread = bytearray()
        self._http: h11.Connection | None = None  # while a body is read
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._last = False  # a response has said that it is the last one

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *asked: str) -> None:
        """Send bytes. `asked` are the methods of the requests in them; only HEAD matters, since its answer is short."""
        self._asked += asked
        record = self.solution.record
        record.add("message", self.name, record.solution, as_sent(data), data, self.name)
        self.connection.send(data)

    def ask(self, data: bytes, *asked: str) -> Answer:
        """Send one request, and wait for its response."""
        self.send(data, *asked)
        return self.response()

    def hang_up(self) -> None:
        self.connection.hang_up()

    # -- waiting ------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing more can come."""
        return bool(self.fault) or self.connection.ended

    @property
    def answered(self) -> int:
        """How many complete responses have come and were not taken yet."""
        return len(self._came)

    @property
    def status(self) -> int:
        """The status of the response that comes now, or was not taken yet; 0 before its head has come."""
        return self._came[0].status if self._came else self._head.status_code if self._http and self._head else 0

    @property
    def so_far(self) -> bytes:
        """What has come of its body, be it complete or not."""
        return self._came[0].body if self._came else bytes(self._body) if self._http else b""

    def response(self, owed: str = "a response") -> Answer:
        """Wait for the next response, and take it. Raises Broken when none comes, or what comes is no HTTP."""
        self.solution.until(lambda: self._came or self.over, owed, self.name)
        if not self._came:
            raise Broken(f"{self.name} is owed {owed}; {self.fault or 'the connection was closed instead'}")
        return self._came.popleft()

    def responses(self, number: int) -> list[Answer]:
        """The next responses."""
        return [self.response(f"{number} responses") for _ in range(number)]

    def until_interim(self, owed: str = "100 Continue") -> None:
        """Wait for an interim response. Raises Broken when the final one comes first, or none."""
        self.solution.until(lambda: self.interim or self._came or self.over, owed, self.name)
        if not self.interim:
            came = self._came[0] if self._came else self.fault or "the end of the connection"
            raise Broken(f"{self.name} is owed {owed}, and came {came}")

    def until_end(self, owed: str = "the end of the connection") -> list[Answer]:
        """Wait until the solution has closed, and take all responses that came before. Raises Broken."""
        self.solution.until(lambda: self.over, owed, self.name)
        if self.fault:
            raise Broken(f"{self.name} is owed {owed}; {self.fault}")
        rest, self._came = list(self._came), deque()
        return rest

    # -- reading ------------------------------------------------------------------------------------------------

    def _arrived(self, connection: Connection) -> None:
        self._unread += connection.inbox
        connection.inbox.clear()
        try:
            while not self.fault and self._step():
                pass
            if connection.ended and not self.fault and (self._unread or self._http):
                self.fault = "the connection ends in the middle of a response"
        except h11.RemoteProtocolError as error:
            self.fault = f"what came is no HTTP response: {error}"

    def _step(self) -> bool:
        """Read one head or one piece of a body; False when more bytes are needed."""
        return self._read_body() if self._http else self._read_head()

    def _read_head(self) -> bool:
        if self._unread and self._last:
            self.fault = f"bytes came after a response that said close: {bytes(self._unread[:40])!r}"
            return False
        end = self._unread.find(b"\r\n\r\n")
        lines = self._unread[:end].split(b"\r\n") if end >= 0 else self._unread.split(b"\r\n")[:-1]
        if lines and (why := mistake(lines)):
            self.fault = f"what came is no HTTP response: {why}"
        elif end < 0 and len(self._unread) > LONGEST_HEAD:
            self.fault = "what came is no HTTP response: its head does not end"
        if end < 0 or self.fault:
            return False
        data = bytes(self._unread[: end + 4])
        del self._unread[: end + 4]
        self._begin(data)
        return True

    def _begin(self, data: bytes) -> None:
        method = self._asked[0] if self._asked else "GET"
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "kata.example")]))
        http.send(h11.EndOfMessage())
        http.receive_data(data)
        event = http.next_event()
        assert isinstance(event, h11.Response | h11.InformationalResponse), event
        self.fault = contradiction(event)
        if isinstance(event, h11.InformationalResponse):
            self.interim.append(event.status_code)
            self._told(f"{event.status_code} (interim)", data)
            return
        self._http, self._head, self._body = http, event, bytearray()

    def _read_body(self) -> bool:
        assert self._http
        if self._unread:
            self._http.receive_data(bytes(self._unread))
            self._unread.clear()
        elif self.connection.eof:
            self._http.receive_data(b"")
        while True:
            match self._http.next_event():
                case h11.Data() as piece:
                    self._body += piece.data
                case h11.EndOfMessage():
                    self._complete()
                    return True
                case _:
                    return False

    def _complete(self) -> None:
        assert self._head
        assert self._http
        method = self._asked.popleft() if self._asked else "GET"
        fields = [(key.decode(), value.decode("latin-1")) for key, value in self._head.headers]
        status = self._head.status_code
        end = framing(method, status, dict(fields))
        answer = Answer(status, fields, bytes(self._body), tuple(self.interim), end)
        self._unread += self._http.trailing_data[0]
        self._http, self._last, self.interim = None, answer.closes, []
        self._came.append(answer)
        self._told(f"{status} {readable(answer.body) or self._head.reason.decode('latin-1')}", answer.body)

    def _told(self, label: str, data: bytes) -> None:
        record = self.solution.record
        record.add("message", record.solution, self.name, label, data, self.name)


def framing(method: str, status: int, fields: dict[str, str]) -> str:
    """How the body of a response is delimited (RFC 9112 §6.3)."""
    if method == "HEAD" or status in (204, 304):
        return "none"
    if "transfer-encoding" in fields:
        return "chunks"
    return "length" if "content-length" in fields else "close"


def mistake(lines: list[bytearray]) -> str:
    """What is wrong with the lines of a response's head, "" if nothing is."""
    if not STATUS_LINE.fullmatch(lines[0]):
        return f"its first line is {bytes(lines[0][:60])!r}"
    wrong = [bytes(line) for line in lines[1:] if not FIELD_LINE.fullmatch(line)]
    return f"{wrong[0][:60]!r} is no field line" if wrong else ""


def contradiction(response: h11.Response | h11.InformationalResponse) -> str:
    """What a server must not send, though a client may know what to make of it; "" if there is nothing."""
    names = {key for key, _ in response.headers}
    framed = names & {b"content-length", b"transfer-encoding"}
    if len(framed) == 2:
        return "a response has either Content-Length or Transfer-Encoding, and this one has both"
    if framed and (response.status_code < 200 or response.status_code == 204):
        return f"a {response.status_code} has no body, and no {framed.pop().decode()} either"
    return ""


def as_sent(data: bytes) -> str:
    """The beginning of what was sent, every byte visible."""
    shown = repr(data[:SHOWN])[2:-1].replace("\\r\\n", "␍␊")
    return shown + (f"… ({len(data)} bytes)" if len(data) > SHOWN else "")
