"""Event streams as a browser reads them: a subscriber on a recorded connection, strict where the standard is.

HTTP framing is judged by h11, lines and fields by the rules of the HTML standard. What no client could read ends up in
`fault`, and every wait for the stream tells it.
Source: HTML, 9.2.5 Parsing an event stream, 9.2.6 Interpreting an event stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import h11

from harness.solution.program import Solution
from harness.story.record import Label
from harness.verdicts import Broken
from harness.wire.tcp import Connection

BOM = "\ufeff"
SHOWN = 40
PIECE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # str.splitlines knows more ends of a line than the standard


@dataclass(frozen=True, slots=True)
class Event:
    """An event as it is dispatched. `id` is the last one that the stream told, `own_id` whether this block did."""

    id: str
    type: str
    data: str
    own_id: bool = True


class Parser:
    """From bytes to events, however they are cut."""

    def __init__(self, dispatch: Callable[[Event], None]) -> None:
        self._dispatch = dispatch
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._after_cr, self._begun = "", False, False
        self._data: list[str] = []
        self._type = self._last_id = ""
        self._own_id = False
        self.retry: int | None = None
        self.comments = 0
        self.lines = 0  # since the last blank line, comments aside

    @property
    def at_boundary(self) -> bool:
        """No block is half sent."""
        return not self._text and not self.lines

    def feed(self, data: bytes) -> None:
        """Raises ValueError for what is no UTF-8."""
        text = self._decoder.decode(data)
        if text and not self._begun:
            self._begun = True
            if text.startswith(BOM):
                raise ValueError("the stream begins with a byte order mark")
        for piece in PIECE.findall(text):
            self._take(piece)

    def _take(self, piece: str) -> None:
        if self._after_cr and piece == "\n" and not self._text:
            self._after_cr = False  # the second half of a CR LF
            return
        self._after_cr = piece.endswith("\r")
        self._text += piece
        if self._text.endswith(("\r", "\n")):
            line, self._text = self._text.rstrip("\r\n"), ""
            self._line(line)

    def _line(self, line: str) -> None:
        if not line:
            self._block_ends()
        elif line.startswith(":"):
            self.comments += 1
        else:
            self.lines += 1
            name, _, value = line.partition(":")
            self._field(name, value.removeprefix(" "))

    def _field(self, name: str, value: str) -> None:
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id" if "\0" not in value:
                self._last_id, self._own_id = value, True
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value)

    def _block_ends(self) -> None:
        if self._data:
            self._dispatch(Event(self._last_id, self._type or "message", "\n".join(self._data), self._own_id))
        self._data, self._type, self._own_id, self.lines = [], "", False, 0


class Subscriber:
    """One client that follows a stream. Creating it sends the request; `events` holds what has come."""

    def __init__(
        self,
        solution: Solution,
        name: str,
        target: str,
        last_id: str | bytes | None = None,
        version: str = "1.1",
        stuck: bool = False,
    ) -> None:
        """A `stuck` one stops reading with the head, and its kernel takes little on its behalf."""
        self.solution, self.name, self._stuck = solution, name, stuck
        self.events: list[Event] = []
        self.taken = 0  # how many of them were waited for
        self.status: int | None = None
        self.headers: list[tuple[str, str]] = []
        self.complete = False  # the response has its proper end
        self.fault = ""
        self.parser = Parser(self._arrived)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 17)
        self.connection = solution.connect(name, slow_reader=stuck)
        self.connection.on_bytes = self._parse
        self._ask(target, last_id, version)

    # -- waiting ------------------------------------------------------------------------------------------------

    def until_head(self) -> None:
        """Wait for the head, and for the block that announces `retry`. Raises Broken."""
        self.solution.until(lambda: self.status or self._over, "the head of a stream, at once", self.name)
        if self.status is None:
            raise Broken(f"{self.name} is owed a response; {self.fault or 'the connection was closed instead'}")

    def subscribed(self) -> Subscriber:
        """Wait until the stream has begun. Raises Broken when it is none."""
        self.until_head()
        if self.status != 200:
            raise Broken(f"{self.name} is owed a stream: 200, and came {self.status}")
        return self

    def until(self, number: int, owed: str = "") -> list[Event]:
        """Wait for that many events in all, and return them. Raises Broken."""
        what = owed or f"event {number}"
        self.solution.until(lambda: len(self.events) >= number or self._over, what, self.name)
        if len(self.events) < number:
            raise Broken(f"{self.name} is owed {what}; {self.fault or 'the stream ended before'}")
        self.check()
        self.taken = max(self.taken, number)
        return self.events[:number]

    def until_end(self) -> list[Event]:
        """Wait for the proper end of the stream, and return all its events. Raises Broken."""
        self.solution.until(lambda: self._over, "the end of the stream", self.name)
        self.check()
        if not self.complete:
            raise Broken(f"{self.name} is owed a proper end of the response; the connection broke off")
        if not self.parser.at_boundary:
            raise Broken(f"{self.name}: the stream ends in the middle of an event")
        return self.events

    def check(self) -> None:
        if self.fault:
            raise Broken(f"what came to {self.name} is no event stream: {self.fault}")

    def header(self, name: str) -> str:
        """The values of all fields of that name, joined."""
        return ", ".join(value for key, value in self.headers if key == name)

    def hang_up(self) -> None:
        self.connection.hang_up()

    @property
    def _over(self) -> bool:
        return self.complete or bool(self.fault) or self.connection.ended

    # -- reading ------------------------------------------------------------------------------------------------

    def _ask(self, target: str, last_id: str | bytes | None, version: str) -> None:
        host, port = self.solution.address
        lines = [f"GET {target} HTTP/{version}", f"Host: {host}:{port}", "Accept: text/event-stream"]
        lines.append("Accept-Encoding: gzip")
        head = "\r\n".join(lines).encode()
        label = f"GET {target}"
        if last_id is not None:
            value = last_id if isinstance(last_id, bytes) else last_id.encode()
            head += b"\r\nLast-Event-ID: " + value
            label += f" Last-Event-ID: {value.decode(errors='replace')[:SHOWN]}"
        data = head + b"\r\n\r\n"
        self._http.send(h11.Request(method="GET", target=target, headers=[("Host", host)]))
        self._http.send(h11.EndOfMessage())
        record = self.solution.record
        record.add("message", self.name, record.solution, label, data, self.name)
        self.connection.send(data)

    def _parse(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        try:
            if data:
                self._http.receive_data(data)
            if connection.eof:
                self._http.receive_data(b"")
            self._take_events()
        except h11.RemoteProtocolError as error:
            self.fault = f"this is not how HTTP frames a body: {error}"
        except ValueError as error:
            self.fault = str(error)

    def _take_events(self) -> None:
        while not self.complete:
            match self._http.next_event():
                case h11.Response() as head:
                    self.status = head.status_code
                    self.headers = [(key.decode(), value.decode("latin-1")) for key, value in head.headers]
                    self._told(f"{self.status} {self.header('content-type')}")
                    if self._stuck:
                        self.connection.stop_reading()
                case h11.Data() as piece:
                    before = self.parser.comments
                    self.parser.feed(bytes(piece.data))
                    if self.parser.comments > before:
                        self._told(": (a comment)")
                case h11.EndOfMessage():
                    self.complete = True
                    self._told("(the end of the response)")
                case _:
                    return

    def _arrived(self, event: Event) -> None:
        self.events.append(event)
        start, more = event.data[:SHOWN], "…" if len(event.data) > SHOWN else ""
        self._told(partial(_dispatched, event.id if event.own_id else "", event.type, start, more), event.data.encode())

    def _told(self, label: Label, data: bytes = b"") -> None:
        record = self.solution.record
        record.add("message", record.solution, self.name, label, data, self.name)


def _dispatched(own_id: str, kind: str, start: str, more: str) -> str:
    own = f"id {own_id} " if own_id else ""
    return f"{own}{kind}: {repr(start)[1:-1]}{more}"
