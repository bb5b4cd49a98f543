"""The servers behind a balancer: three of them, each on a port of its own, answering what and when they are told to.

An `Arrival` is one request at one of them, from its head on; its verbs (`answer`, `begin`, `send`, `finish`, `drop`)
are the response, down to the single byte. If nothing else is said a complete request is answered at once with 200, the
upstream's name in X-Upstream, and its own body, or else its target, as the body. Requests for `CHECKED` are active
checks where the settings ask for any: they are held until `pass_check` or `fail_check`, so nothing goes on by itself.
What no client of a server may send (no HTTP, two lengths for one body) is kept in `offences`.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import h11

from harness import waiting
from harness.solution.program import Solution
from harness.verdicts import NotReached
from harness.wire.http1 import readable
from harness.wire.raw_http import as_sent
from harness.wire.tcp import Connection, Listener

NAMES = ("a", "b", "c")
CHECKED = "/healthz"
SYN_SENT = 2  # the first byte of TCP_INFO (Linux)


class Arrival:
    """One request at one upstream, and the response to it."""

    def __init__(self, line: Line, head: h11.Request) -> None:
        self.line, self.upstream = line, line.upstream
        self.method, self.target = head.method.decode(), head.target.decode("latin-1")
        self.fields = [(key.decode(), value.decode("latin-1")) for key, value in head.headers]
        self.body = bytearray()
        self.complete = False  # its last byte has come
        self.answered = False  # the last byte of its response was sent
        self.hold = 0  # its number in the record

    def all(self, name: str) -> list[str]:
        """The values of all lines of that name."""
        return [value for key, value in self.fields if key == name]

    def elements(self, name: str) -> list[str]:
        """The elements of a field that is a list, wherever its lines end."""
        return [part.strip() for value in self.all(name) for part in value.split(",") if part.strip()]

    @property
    def gone(self) -> bool:
        """Its connection has ended."""
        return not self.line.open

    @property
    def waits(self) -> bool:
        """It is not answered yet, and somebody still waits for that."""
        return not self.answered and not self.gone

    def answer(self, status: int = 200, body: bytes = b"", *fields: str) -> None:
        """A complete response."""
        self._released()
        self.begin(status, f"Content-Length: {len(body)}", *fields, then=body)
        self.finish()

    def begin(self, status: int, *fields: str, then: bytes = b"") -> None:
        """The head of a response, each of `fields` a whole line, and these bytes behind it."""
        self._released()
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"X-Upstream: {self.upstream.name}", *fields]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._write(f"{status} {readable(then[:100])}".rstrip(), head + then)

    def interim(self, status: int, *fields: str) -> None:
        """An interim response (1xx)."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *fields, "", ""]
        self._write(f"{status} (interim)", "\r\n".join(lines).encode("latin-1"))

    def send(self, data: bytes) -> None:
        """Bytes of the response, as they are."""
        self._released()
        self._write(as_sent(data[:200]), data)

    def finish(self) -> None:
        """What was sent is the whole response: another request may follow on the connection."""
        self.answered = True
        self.line.go_on()

    def drop(self) -> None:
        """Hang up (RST)."""
        self._released()
        self.line.connection.hang_up()

    def close(self) -> None:
        """FIN behind what was sent: nothing more comes."""
        self._released()
        self.line.connection.half_close()

    def _write(self, label: str, data: bytes) -> None:
        self.line.told(label, data)
        self.line.connection.send(data)

    def _released(self) -> None:
        if self.hold:
            self.upstream.record.release(self.upstream.party, "lets it go", self.hold)
            self.hold = 0


class Line:
    """One connection to an upstream: requests one after the other, each answered before the next is read."""

    def __init__(self, upstream: Upstream, connection: Connection, number: int) -> None:
        self.upstream, self.connection, self.number = upstream, connection, number
        self.arrival: Arrival | None = None
        self._http = h11.Connection(h11.SERVER)
        self._raw = bytearray()
        connection.on_bytes = self._parse

    @property
    def open(self) -> bool:
        return not self.connection.ended and not self.connection.closed

    def told(self, label: str, data: bytes) -> None:
        record, party = self.upstream.record, self.upstream.party
        record.add("message", party, record.solution, f"({self.number}) {label}", data, party)

    def say(self, data: bytes) -> None:
        """Bytes that nobody asked for."""
        self.told(as_sent(data), data)
        self.connection.send(data)

    def go_on(self) -> None:
        """If request and response are both complete, read the next request, or close if that was the last."""
        arrival = self.arrival
        if not (arrival and arrival.complete and arrival.answered) or self.connection.closed:
            return
        self.arrival = None
        self._http.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))  # h11 only follows
        self._http.send(h11.EndOfMessage())
        if self._http.our_state is h11.MUST_CLOSE:
            self.connection.half_close()
            return
        self._http.start_next_cycle()
        self._take_events()

    def _parse(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        if data:
            self._raw += data[: 1 << 12]
            try:
                self._http.receive_data(data)
                self._take_events()
            except h11.RemoteProtocolError as error:
                self.upstream.offences.append(f"what comes to {self.upstream.party} is no HTTP request: {error}")
                connection.hang_up()
        if connection.ended:
            connection.close()

    def _take_events(self) -> None:
        while True:
            match self._http.next_event():
                case h11.Request() as head:
                    self._begun(head)
                case h11.Data() as piece:
                    assert self.arrival
                    self.arrival.body += piece.data
                case h11.EndOfMessage():
                    assert self.arrival
                    self.arrival.complete = True
                    self.upstream.completed(self.arrival)
                    self.go_on()
                    return  # what else has come is read when this one is answered
                case _:
                    return

    def _begun(self, head: h11.Request) -> None:
        arrival = self.arrival = Arrival(self, head)
        data, self._raw = bytes(self._raw), bytearray()
        label = f"({self.number}) {arrival.method} {arrival.target}"
        self.upstream.record.add(
            "message", self.upstream.record.solution, self.upstream.party, label, data, self.upstream.party
        )
        if arrival.all("content-length") and arrival.all("transfer-encoding"):
            self.upstream.offences.append(
                f"{arrival.method} {arrival.target} has two lengths: Content-Length and Transfer-Encoding"
            )
        self.upstream.begun(arrival)


class Upstream:
    """One server."""

    def __init__(self, all_of_them: Upstreams, name: str) -> None:
        self.all, self.name, self.party = all_of_them, name, f"upstream {name}"
        self.solution = all_of_them.solution
        self.record, self.offences = self.solution.record, all_of_them.offences
        self.lines: list[Line] = []
        self.accepts = 0
        self.check: Arrival | None = None  # the last one
        self.listener = Listener(self.solution.network, self.party, self.record.solution, self._accept, "http")

    @property
    def arrivals(self) -> list[Arrival]:
        """The requests that came here, without checks, oldest first."""
        return [each for each in self.all.arrivals if each.upstream is self]

    @property
    def open_lines(self) -> list[Line]:
        self.lines = [line for line in self.lines if line.open]
        return self.lines

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens; every connection is reset."""
        self.record.down(self.party, "goes down")
        self.listener.close()
        self.hang_up()
        yield
        self.listener.open()
        self.record.up(self.party, "is back")

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Connects are neither accepted nor refused, since the queue of the listener is full. Raises NotReached."""
        self.record.down(self.party, "accepts nobody")
        self.listener.close()
        self.hang_up()
        with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            deaf.bind(self.listener.address)
            deaf.listen(0)
            for sock in (first, second):
                sock.setblocking(False)
                sock.connect_ex(self.listener.address)
            if second.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != SYN_SENT:
                raise NotReached("a full queue holds nobody up on this system")
            yield
        self.listener.open()
        self.record.up(self.party, "is back")

    def hang_up(self) -> None:
        for line in self.open_lines:
            line.connection.hang_up()

    def close_idle(self) -> None:
        """FIN on every connection on which nothing is under way."""
        for line in self.open_lines:
            if not line.arrival:
                line.connection.half_close()

    def until_check(self) -> Arrival:
        """Wait for an active check, and return it. Raises Broken."""
        self.solution.until(lambda: self.check and self.check.waits, "a check (GET /healthz)", self.party)
        assert self.check
        return self.check

    def pass_check(self) -> None:
        self.fail_check(200)

    def fail_check(self, status: int) -> None:
        """Answer the check, with 0 by hanging up; the next one proves that this answer was taken in."""
        check = self.until_check()
        if status:
            check.answer(status, b"", "Connection: close")
        else:
            check.drop()
        self.solution.until(lambda: self.check is not check, "the next check (GET /healthz)", self.party)

    # -- serving ------------------------------------------------------------------------------------------------

    def _accept(self, connection: Connection) -> None:
        self.accepts += 1
        self.record.add("open", self.record.solution, self.party, f"({self.accepts}) connects", connection=self.party)
        self.lines.append(Line(self, connection, self.accepts))

    def begun(self, arrival: Arrival) -> None:
        if arrival.target == CHECKED and self.all.are_checked:
            self.check = arrival
            return
        self.all.arrivals.append(arrival)
        self.all.at_head(arrival)

    def completed(self, arrival: Arrival) -> None:
        if arrival is self.check:
            if self.all.passing is not None and self not in self.all.passing:
                arrival.answer(200, b"", "Connection: close")
        elif not arrival.answered and not arrival.gone:
            self.all.serve(arrival)


class Upstreams:
    """All of them, as the balancer knows them."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.are_checked = int(solution.settings.get("CHECK_INTERVAL_MS", 0)) > 0
        self.offences: list[str] = []
        self.arrivals: list[Arrival] = []
        self.passing: tuple[Upstream, ...] | None = None
        self.serve: Callable[[Arrival], None] = self.answer
        self._at_head: Callable[[Arrival], None] | None = None
        self.each = [Upstream(self, name) for name in NAMES]

    def environment(self) -> dict[str, str]:
        return {"UPSTREAMS": ",".join("{}:{}".format(*each.listener.address) for each in self.each)}

    def begin(self) -> None:
        for arrival in self.arrivals:
            if arrival.waits:
                arrival.drop()
        self.arrivals = []
        self.offences.clear()
        self.passing, self.serve, self._at_head = None, self.answer, None
        for each in self.each:
            each.listener.open()

    # -- what was seen ------------------------------------------------------------------------------------------

    @property
    def held(self) -> list[Arrival]:
        """The complete requests that wait for an answer, oldest first."""
        return [each for each in self.arrivals if each.complete and each.waits]

    def seen(self, target: str) -> list[Arrival]:
        """Where a target was asked for, oldest first."""
        return [each for each in self.arrivals if each.target == target]

    def counts(self, arrivals: list[Arrival] | None = None) -> list[int]:
        """How many of these requests (by default: of all) came to each upstream."""
        number = Counter(each.upstream.name for each in (self.arrivals if arrivals is None else arrivals))
        return [number[name] for name in NAMES]

    def until_held(self, number: int = 1) -> list[Arrival]:
        """Wait until so many requests wait for an answer, because the scene needs them."""
        wanted = f"{number} requests that wait at the upstreams"
        waiting.until_reached(self.solution, lambda: len(self.held) >= number, wanted)
        return self.held

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, serve: Callable[[Arrival], None]) -> Iterator[None]:
        """Complete requests are served like this until the block ends."""
        before, self.serve = self.serve, serve
        yield
        self.serve = before

    @contextmanager
    def meeting(self, at_head: Callable[[Arrival], None]) -> Iterator[None]:
        """This happens when the head of a request has come, whether its body has or not."""
        self._at_head = at_head
        yield
        self._at_head = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep back all responses until the block ends."""
        with self.serving(self._hold):
            yield
        self.release()

    def hold_no_more(self) -> None:
        """What comes from now on is answered; what is held stays held."""
        self.serve = self.answer

    def release(self) -> None:
        """Answer everything that is held, but for what has got a part of its response already."""
        self.serve = self.answer
        for arrival in self.held:
            if arrival.hold:
                self.answer(arrival)

    @contextmanager
    def passing_checks(self, but: Upstream) -> Iterator[None]:
        """Every check is passed at once, but for those of one upstream, which never answers any."""
        self.passing = (but,)
        for each in self.each:
            if each is not but and each.check and each.check.waits:
                each.check.answer(200, b"", "Connection: close")
        yield
        self.passing = None

    def answer(self, arrival: Arrival) -> None:
        """What is answered if nothing else is said."""
        body = b"" if arrival.method == "HEAD" else bytes(arrival.body) or arrival.target.encode()
        arrival.answer(200, body)

    def at_head(self, arrival: Arrival) -> None:
        if self._at_head:
            self._at_head(arrival)
        elif "100-continue" in arrival.elements("expect"):
            arrival.interim(100)

    def _hold(self, arrival: Arrival) -> None:
        arrival.hold = self.solution.record.hold(arrival.upstream.party, f"({arrival.line.number}) holds the response")
