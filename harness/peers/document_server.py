"""The servers behind the kata `polling`: each request waits until the behaviour answers it, and is told when it came.

A place is a URL; its polls are kept in the order of arrival, over all places too. Nothing is answered by a timer, so a
solution that waits for its answer rests, and nothing overtakes what a behaviour looks at. `always` is the exception: a
place whose polls are answered as they come, for redirects on the way.

Two moments count: `at`, when a request was read (never before it was sent), and `answered_at`, just before its answer
left (never after it could arrive). Between an `answered_at` and the next `at` lies at least what the solution waited.
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

from harness import waiting
from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.http1 import Incoming, Server, readable
from harness.wire.tcp import Connection

NAME, MIRROR = "server", "mirror"
LENGTH, CHUNKS, CLOSE = "Content-Length", "chunks", "the end of the connection"  # how a body is delimited
NO_BODY = (204, 304)
PIECE = 1000  # bytes of a chunk


class Poll:
    """One request for a document."""

    def __init__(self, place: Place, incoming: Incoming) -> None:
        self.place, self.incoming = place, incoming
        self.at = waiting.now()
        self.answered_at = 0.0
        self.answered = False

    @property
    def connection(self) -> Connection:
        return self.incoming.line.connection

    @property
    def gone(self) -> bool:
        """The solution has given this poll up."""
        return self.connection.ended or self.connection.closed

    @property
    def conditions(self) -> dict[str, str]:
        """The preconditions of the request, by their field names in lower case; several lines are joined."""
        found: dict[str, list[str]] = {}
        for name, value in self.incoming.headers:
            if name.startswith("if-"):
                found.setdefault(name, []).append(value)
        return {name: ", ".join(values) for name, values in found.items()}

    # -- verbs --------------------------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes = b"", *fields: str, framing: str = LENGTH) -> None:
        """A whole answer; each of `fields` is a field line."""
        last = framing == CLOSE or self.incoming.line.is_last
        lines = [*fields, *([] if status in NO_BODY else _delimited(body, framing))]
        lines += ["Connection: close"] if last else []
        data = _head(status, lines) + (b"" if status in NO_BODY else _framed(body, framing))
        self._tell(f"{status} {' · '.join(fields)} {readable(body)}".strip(), data)
        self.connection.send(data)
        self.answered = True
        if framing == CLOSE:
            self.connection.half_close()
        elif not self.gone:
            self.incoming.line.answered()

    def redirect(self, status: int, location: str) -> None:
        self.answer(status, b"over there", f"Location: {location}")

    def begin(self, status: int, *fields: str) -> None:
        """A head, and no body yet: `send` goes on, and `hang_up` or `finish` ends it."""
        data = _head(status, [*fields])
        self._tell(f"{status} {' · '.join(fields)} (a head alone)", data)
        self.connection.send(data)

    def send(self, data: bytes) -> None:
        """Some more bytes of the answer."""
        if not self.answered_at:
            self._tell(f"{readable(data)!r}", data)
        self.answered_at = waiting.now()
        self.connection.send(data)

    def complete(self) -> None:
        """What was sent is the whole answer; the connection stays."""
        self.answered = True
        if not self.gone:
            self.incoming.line.answered()

    def finish(self) -> None:
        """End the connection politely (FIN), whatever was sent of the answer."""
        self._tell("closes", b"")
        self.answered = True
        self.connection.half_close()

    def hang_up(self) -> None:
        """Reset (RST)."""
        self._tell("", b"")
        self.answered = True
        self.connection.hang_up()

    def _tell(self, label: str, data: bytes) -> None:
        server = self.incoming.server
        if data:
            self.place.server.record.add("message", server.name, server.peer, label, data, server.name)
        self.answered_at = waiting.now()


class Place:
    """What is polled at one URL."""

    def __init__(self, server: DocumentServer, http: Server, target: str) -> None:
        self.server, self.http, self.target = server, http, target
        self.polls: list[Poll] = []
        self.always: Callable[[Poll], None] | None = None
        self.taken = 0  # polls that a behaviour has waited for

    @property
    def url(self) -> str:
        return self.http.url + self.target

    @property
    def host(self) -> str:
        """The Host of its requests."""
        return self.http.url.removeprefix("http://")

    def next(self, owed: str = "") -> Poll:
        """Wait for the next poll that was not taken yet, and take it. Raises Broken if none comes."""
        wanted = self.taken + 1
        owed = owed or f"poll number {wanted} of {self.target}"
        self.server.solution.until(lambda: len(self.polls) >= wanted or self.server.faults, owed, self.http.name)
        if self.server.faults:
            raise Broken(f"the {self.http.name} is owed {owed}; {self.server.faults[0]}")
        self.taken = wanted
        return self.polls[wanted - 1]


class DocumentServer:
    """Two servers, so that a redirect may lead to another one."""

    def __init__(self, solution: Solution) -> None:
        self.solution, self.record = solution, solution.record
        self.main = Server(solution.network, NAME, solution.record.solution, self._asked)
        self.mirror = Server(solution.network, MIRROR, solution.record.solution, self._asked)
        self.polls: list[Poll] = []  # of all places, in the order of arrival
        self._places: dict[tuple[str, str], Place] = {}

    def environment(self) -> dict[str, str]:
        return {}

    def begin(self) -> None:
        for poll in self.polls:
            if not poll.answered and not poll.gone:
                poll.connection.hang_up()
        self.polls, self._places = [], {}
        for server in (self.main, self.mirror):
            server.faults.clear()
            server.listener.open()

    @property
    def faults(self) -> list[str]:
        """What came and is no HTTP."""
        return self.main.faults + self.mirror.faults

    def place(self, target: str, http: Server | None = None) -> Place:
        """What is at that path and query, on the main server if nothing is said."""
        http = http or self.main
        return self._places.setdefault((http.name, target), Place(self, http, target))

    @contextmanager
    def down(self, http: Server) -> Iterator[None]:
        """Nobody listens there."""
        self.record.down(http.name, "refuses connections")
        http.close_connections()
        http.listener.close()
        yield
        http.listener.open()
        self.record.up(http.name, "is back")

    def _asked(self, incoming: Incoming) -> None:
        place = self.place(incoming.target, incoming.server)
        poll = Poll(place, incoming)
        place.polls.append(poll)
        self.polls.append(poll)
        if place.always:
            place.always(poll)


def _head(status: int, fields: list[str]) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *fields, "", ""]).encode("latin-1")


def _delimited(body: bytes, framing: str) -> list[str]:
    """The field that says where the body ends, if any does."""
    if framing == LENGTH:
        return [f"Content-Length: {len(body)}"]
    return ["Transfer-Encoding: chunked"] if framing == CHUNKS else []


def _framed(body: bytes, framing: str) -> bytes:
    return b"".join(chunks(body)) + b"0\r\n\r\n" if framing == CHUNKS else body


def chunks(body: bytes) -> list[bytes]:
    """The chunks of a body, without the last, empty one."""
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
