"""The carrier behind the kata `grpc`: a gRPC service with one method, which answers when it is told to.

What it does to a call is a named verb: `holding()` keeps calls back until `release()`, `failing(CODE)` refuses them,
`hang_up()` resets the connection. Nothing here is answered late by a timer. It books a `request_id` once, however often
it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset

from harness import waiting
from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.grpc import Code, Messages, Metadata, framed, milliseconds, values
from harness.wire.http2 import Http2
from harness.wire.protobuf import Field, Message, Values
from harness.wire.tcp import Connection, Listener

NAME = "carrier"
PATH = "/carrier.v1.Carrier/Book"

BOOK = Message("BookRequest", request_id=Field(1, "string"), sku=Field(2, "string"), quantity=Field(3, "int"))
BOOKING = Message("Booking", tracking=Field(1, "string"))


@dataclass
class Asked:
    """One call that arrived, and what became of it."""

    line: Line
    stream: int
    metadata: Metadata
    request: Values = field(default_factory=lambda: BOOK.decode(b""))
    answered: bool = False
    cancelled: bool = False  # by RST_STREAM, or by the end of its connection
    hold: int = 0  # its number in the record
    messages: Messages = field(default_factory=Messages)

    @property
    def timeout(self) -> float | None:
        """The value of grpc-timeout in milliseconds, None without one."""
        found = values(self.metadata, "grpc-timeout")
        try:
            return milliseconds(found[0]) if found else None
        except ValueError as error:
            raise Broken(f"what the carrier was called with is no gRPC: {error}") from None

    @property
    def waits(self) -> bool:
        return not self.answered and not self.cancelled


class Line:
    """One connection from the solution."""

    def __init__(self, carrier: Carrier, connection: Connection) -> None:
        self.carrier, self.connection = carrier, connection
        self.calls: dict[int, Asked] = {}
        self.http2 = Http2(connection, False, self._event)
        feed = connection.on_bytes
        assert feed is not None

        def fed(connection: Connection) -> None:
            feed(connection)
            if self.http2.fault:
                carrier.solution.record.note(NAME, self.http2.fault)
            if connection.ended or self.http2.fault:
                self._gone()

        connection.on_bytes = fed

    def _take(self, asked: Asked, data: bytes) -> None:
        try:
            for message in asked.messages.feed(data):
                asked.request = BOOK.decode(message)
        except ValueError as error:
            self.carrier.solution.record.note(NAME, f"what came is no BookRequest: {error}")
            self.http2.reset(asked.stream, ErrorCodes.PROTOCOL_ERROR)
            asked.cancelled = True

    def _gone(self) -> None:
        for asked in self.calls.values():
            asked.cancelled = asked.cancelled or not asked.answered
        self.connection.close()

    def _event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                metadata = [(str(name), str(value)) for name, value in event.headers or ()]
                self.calls[event.stream_id or 0] = Asked(self, event.stream_id or 0, metadata)
            case DataReceived() if asked := self.calls.get(event.stream_id or 0):
                self._take(asked, event.data or b"")
            case StreamEnded() if (asked := self.calls.get(event.stream_id or 0)) and asked.waits:
                self.carrier.arrived(asked)
            case StreamReset() if (asked := self.calls.get(event.stream_id or 0)) and not asked.answered:
                asked.cancelled = True
                self.carrier.told(f"cancels {asked.request.get('request_id', '')} (RST_STREAM)", by_solution=True)


class Carrier:
    """carrier.v1.Carrier/Book, as often as it is asked, one booking for each request_id."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.asked: list[Asked] = []  # complete ones
        self.booked: dict[str, Values] = {}  # by request_id, for ever
        self._held: list[Asked] = []
        self._holding = False
        self._failing: tuple[Code, str] | None = None
        self._failures = 0
        self.listener = Listener(solution.network, NAME, solution.record.solution, self._accept, "http2")

    # -- the scene ----------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        host, port = self.listener.address
        return {"CARRIER": f"{host}:{port}"}

    def begin(self) -> None:
        for asked in self._held:
            if asked.waits:
                self._refuse(asked, Code.ABORTED, "the behaviour is over")
        self.asked, self._held, self._holding, self._failing = [], [], False, None

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep calls back until `release()` or the end of the block."""
        self._holding = True
        yield
        self.release()

    def release(self) -> None:
        """Book and answer everything that is held and still wanted, and hold no more."""
        self._holding = False
        held, self._held = self._held, []
        for asked in held:
            self.solution.record.release(NAME, "lets it go", asked.hold)
            if asked.waits:
                self._book(asked)

    @contextmanager
    def failing(self, code: Code, message: str = "no", times: int = 1 << 30) -> Iterator[None]:
        """Refuse the next calls of the block, so many `times`, with that status."""
        self._failing, self._failures = (code, message), times
        yield
        self._failing = None

    def hang_up(self) -> None:
        """Reset every connection, whatever is held on it."""
        for connection in list(self.solution.network.parties(Connection)):
            if connection.name == NAME:
                connection.hang_up()
        for asked in self.asked:
            asked.cancelled = asked.cancelled or not asked.answered

    def until_asked(self, number: int, owed: str = "a booking at the carrier") -> None:
        """Wait until so many calls have arrived, because the behaviour is about just that. Raises Broken."""
        self.solution.until(lambda: len(self.asked) >= number, owed, NAME)

    def until_held(self, number: int = 1) -> None:
        """Wait until `number` calls are held back."""
        waiting.until_reached(
            self.solution, lambda: len(self.waiting_now) >= number, f"{number} held calls at the carrier"
        )

    def until_cancelled(self, why: str, left: int = 0) -> None:
        """Wait until no more than so many calls are `left` that are waited for here. Raises Broken."""
        self.solution.until(lambda: len(self.waiting_now) <= left, f"a cancelled call: {why}", NAME)

    @property
    def waiting_now(self) -> list[Asked]:
        """The held calls that somebody still waits for."""
        return [asked for asked in self._held if asked.waits]

    def bookings(self, sku: str) -> list[str]:
        """The ids of the requests for which that SKU was booked."""
        return [name for name, request in self.booked.items() if request["sku"] == sku]

    # -- serving ------------------------------------------------------------------------------------------------

    def _accept(self, connection: Connection) -> None:
        self.solution.record.add("open", self.solution.record.solution, NAME, "connects", connection=NAME)
        Line(self, connection)

    def arrived(self, asked: Asked) -> None:
        self.told(f"Book {BOOK.told(BOOK.encode(**asked.request))}{_within(asked)}", by_solution=True)
        self.asked.append(asked)
        if dict(asked.metadata).get(":path") != PATH:
            self._refuse(asked, Code.UNIMPLEMENTED, "there is no such method")
        elif self._failing and self._failures > 0:
            self._failures -= 1
            self._refuse(asked, *self._failing)
        elif self._holding:
            asked.hold = self.solution.record.hold(NAME, "holds it")
            self._held.append(asked)
        else:
            self._book(asked)

    def _book(self, asked: Asked) -> None:
        request_id = asked.request["request_id"]
        self.booked.setdefault(request_id, asked.request)
        message = BOOKING.encode(tracking=tracking_of(request_id))
        asked.answered = True
        self.told(f"Booking {BOOKING.told(message)}")
        http2 = asked.line.http2
        http2.headers(asked.stream, [(":status", "200"), ("content-type", "application/grpc")])
        http2.data(asked.stream, framed(message))
        http2.headers(asked.stream, [("grpc-status", "0")], end=True)

    def _refuse(self, asked: Asked, code: Code, message: str) -> None:
        asked.answered = True
        self.told(f"{code.name} {message}")
        fields = [(":status", "200"), ("content-type", "application/grpc")]
        fields += [("grpc-status", str(int(code))), ("grpc-message", message)]
        asked.line.http2.headers(asked.stream, fields, end=True)

    def told(self, label: str, by_solution: bool = False) -> None:
        record = self.solution.record
        parties = (record.solution, NAME) if by_solution else (NAME, record.solution)
        record.add("message", *parties, label, b"", NAME)


def _within(asked: Asked) -> str:
    """The deadline of a call, rounded, so that a story is the same each time."""
    try:
        return f" within {asked.timeout / 1000:.2g} s" if asked.timeout else ""
    except Broken:
        return " within what is no time"


def tracking_of(request_id: str) -> str:
    """What the carrier answers to that id, each time."""
    return f"track-{request_id}"
