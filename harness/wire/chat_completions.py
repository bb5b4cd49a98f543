"""A client of OpenAI's chat completions on a recorded connection: an answer as a whole, or a stream of chunks.

HTTP framing is judged by h11, lines and fields by the parser of event streams, which is as strict as a browser. What no
client could read ends up in `fault`, and every wait tells it. What the chunks hold is for behaviours to judge.
Source: OpenAI, Chat Completions, streaming; HTML, 9.2 Server-sent events.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, TypeGuard

import h11

from harness.solution.program import Solution
from harness.story.record import Label
from harness.verdicts import Broken
from harness.wire.event_stream import Event, Parser
from harness.wire.http1 import Headers, Response, described, readable
from harness.wire.tcp import Connection

DONE = "[DONE]"
SHOWN = 40
WIDE = 1 << 20  # bytes
NO_HEADERS: Headers = []


def shown(text: str) -> str:
    """The beginning of a text, as it is quoted in a sentence."""
    return repr(text[:SHOWN]) + (f"… ({len(text)} characters)" if len(text) > SHOWN else "")


class Completion:
    """One request and what comes back. Creating it sends the request."""

    def __init__(
        self,
        solution: Solution,
        name: str,
        method: str,
        target: str,
        headers: Headers,
        body: bytes,
        version: str = "1.1",
        stuck: bool = False,
    ) -> None:
        """A `stuck` one stops reading with the head, and its kernel takes little on its behalf."""
        self.solution, self.name, self._stuck = solution, name, stuck
        self.status: int | None = None
        self.headers: Headers = []
        self.chunks: list[dict[str, Any]] = []  # of a stream, in the order of arrival
        self.errors: list[dict[str, Any]] = []  # of a stream: events that say an error
        self.done = False  # [DONE] has come
        self.complete = False  # the response has its proper end
        self.fault = ""
        self.size = 0  # characters of content so far
        self.parser = Parser(self._arrived)
        self._body = bytearray()  # of an answer that is no stream
        self._pieces: list[str] = []
        self._http = h11.Connection(h11.CLIENT)
        self.connection = solution.connect(name, slow_reader=stuck)
        self.connection.on_bytes = self._parse
        self._send(method, target, headers, body, version)

    # -- what has come ------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing more can come."""
        return self.complete or bool(self.fault) or self.connection.ended

    @property
    def is_stream(self) -> bool:
        return self.status == 200 and self.header("content-type").startswith("text/event-stream")

    @property
    def text(self) -> str:
        """The content of all chunks so far."""
        return "".join(self._pieces)

    @property
    def choices(self) -> list[dict[str, Any]]:
        """The choice of each chunk that has one."""
        return [chunk["choices"][0] for chunk in self.chunks if chunk["choices"]]

    @property
    def reasons(self) -> list[str]:
        """What the chunks say why it ended: one reason at most, in a good stream."""
        return [choice["finish_reason"] for choice in self.choices if choice.get("finish_reason") is not None]

    @property
    def call_deltas(self) -> list[dict[str, Any]]:
        """The pieces of tool calls of all chunks so far."""
        deltas = [choice["delta"] for choice in self.choices]
        return [call for delta in deltas for call in delta.get("tool_calls") or []]

    def header(self, name: str) -> str:
        """The values of all fields of that name, joined."""
        return ", ".join(value for key, value in self.headers if key == name)

    # -- waiting ------------------------------------------------------------------------------------------------

    def until(self, happened: Callable[[], object], owed: str) -> None:
        """Wait until something is so. Raises Broken when it can't be any more."""
        self.solution.until(lambda: happened() or self.over, owed, self.name)
        if self.fault:
            raise Broken(f"what came to {self.name} is no answer of this API: {self.fault}")
        if not happened():
            raise Broken(f"{self.name} is owed {owed}; {self.instead}")

    def until_head(self) -> None:
        self.until(lambda: self.status, "the head of a response")

    def until_stream(self) -> None:
        """Wait until a stream has begun. Raises Broken when it is none."""
        self.until(lambda: self.status, "a stream")
        if not self.is_stream:
            raise Broken(f"{self.name} is owed a stream: 200, text/event-stream; {self.instead}")

    def until_text(self, text: str) -> None:
        """Wait until just this is the content so far. Raises Broken."""
        self.until(lambda: self.size >= len(text), f"the text {shown(text)}")
        if self.text != text:
            raise Broken(f"{self.name} is owed the text {shown(text)}, and got {shown(self.text)}")

    def until_end(self) -> None:
        """Wait for the proper end of the response. Raises Broken."""
        self.until(lambda: self.complete, "the end of the response")
        if self.is_stream and not self.parser.at_boundary:
            raise Broken(f"{self.name}: the stream ends in the middle of an event")

    def until_done(self) -> None:
        """Wait for a stream that ends as it should: [DONE], and the proper end. Raises Broken."""
        self.until(lambda: self.done, f"data: {DONE}")
        self.until_end()

    def response(self) -> Response:
        """Wait for an answer that is no stream. Raises Broken."""
        self.until_end()
        if self.is_stream:
            raise Broken(f"{self.name} is owed an answer as a whole, and got a stream")
        self.connection.close()
        assert self.status is not None
        return Response(self.status, self.headers, bytes(self._body))

    def hang_up(self) -> None:
        self.connection.hang_up()

    def leave(self) -> None:
        """Close, as a program does that wants no more of the answer."""
        record = self.solution.record
        record.add("fin", self.name, record.solution, "closes (FIN)", connection=self.connection.name)
        self.connection.close()

    def read_again(self) -> None:
        """A stuck one reads, and its kernel takes more at a time."""
        self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE)
        self.connection.read_again()

    @property
    def instead(self) -> str:
        """What came, where something else was owed."""
        if self.errors:
            return f"it was told an error: {shown(json.dumps(self.errors[-1]))}"
        if self.status not in (None, 200) or (self._body and not self.is_stream):
            return f"{self.status} came: {readable(bytes(self._body))}"
        return "the stream ended before" if self.complete else "the connection ended before"

    # -- sending ------------------------------------------------------------------------------------------------

    def _send(self, method: str, target: str, headers: Headers, body: bytes, version: str) -> None:
        host, port = self.solution.address
        fields = [("Host", f"{host}:{port}"), *headers]
        if body or method == "POST":
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/{version}", *(f"{key}: {value}" for key, value in fields), "", ""]
        data = "\r\n".join(lines).encode("latin-1") + body
        # h11 only reads here: it is told of a request so that it knows which response to expect.
        self._http.send(h11.Request(method=method, target=target, headers=[("Host", host)]))
        self._http.send(h11.EndOfMessage())
        record = self.solution.record
        record.add("message", self.name, record.solution, described(method, target, [], body), data, self.name)
        self.connection.send(data)

    # -- reading ------------------------------------------------------------------------------------------------

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
            if not connection.eof:  # what breaks off there is no fault of form: the connection has ended
                self.fault = f"this is not how HTTP frames a response: {error}"
        except ValueError as error:
            self.fault = str(error)

    def _take_events(self) -> None:
        while not self.complete:
            match self._http.next_event():
                case h11.Response() as head:
                    self._begin(head)
                case h11.Data() as piece if self.is_stream:
                    before = self.parser.comments
                    self.parser.feed(bytes(piece.data))
                    if self.parser.comments > before:
                        self._told(": (a comment)")
                case h11.Data() as piece:
                    self._body += piece.data
                case h11.EndOfMessage():
                    self.complete = True
                    self._told("(the end of the response)" if self.is_stream else self._answer, bytes(self._body))
                case h11.InformationalResponse():
                    continue
                case _:
                    return

    def _begin(self, head: h11.Response) -> None:
        self.status = head.status_code
        self.headers = [(key.decode(), value.decode("latin-1")) for key, value in head.headers]
        if self.is_stream:
            self._told(f"{self.status} {self.header('content-type')}")
        if self._stuck:
            self.connection.stop_reading()

    def _answer(self) -> str:
        return f"{self.status} {readable(bytes(self._body))}"

    def _arrived(self, event: Event) -> None:
        document = None if event.data == DONE else _parsed(event.data)
        self._told(_label(document, event.data))
        if event.type != "message" or event.own_id:
            raise ValueError("an event has a data line and nothing else, and this one has a type or an id")
        if self.done:
            raise ValueError(f"an event came behind {DONE}: {shown(event.data)}")
        if event.data == DONE:
            self.done = True
        elif not isinstance(document, dict):
            raise ValueError(f"the data of an event is a JSON object, and not {shown(event.data)}")
        elif "error" in document:
            self.errors.append(document)
        else:
            self._add(document)

    def _add(self, chunk: dict[str, Any]) -> None:
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not all(_is_choice(choice) for choice in choices[:1]):
            raise ValueError(f"a chunk has `choices`, each with a `delta`: {shown(json.dumps(chunk))}")
        self.chunks.append(chunk)
        content = choices[0]["delta"].get("content") if choices else None
        if isinstance(content, str) and content:
            self._pieces.append(content)
            self.size += len(content)

    def _told(self, label: Label, data: bytes = b"") -> None:
        record = self.solution.record
        record.add("message", record.solution, self.name, label, data, self.name)


def _parsed(data: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _label(document: Any, data: str) -> Label:
    """What an event says, as a story tells it; written only if the story is told."""
    if not isinstance(document, dict) or "error" in document:
        return partial("data: {}{}".format, data[:SHOWN], "…" if len(data) > SHOWN else "")
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not _is_choice(choice):
        return partial("usage {}".format, document.get("usage")) if choices == [] else f"data: {data[:SHOWN]}"
    content, more = choice["delta"].get("content"), [key for key in choice["delta"] if key != "content"]
    text = content[:SHOWN] if isinstance(content, str) else ""
    return partial(_words, text, [*more, *([choice.get("finish_reason")] if choice.get("finish_reason") else [])])


def _words(content: str, more: list[Any]) -> str:
    return " ".join(["delta", *map(str, more), *([repr(content)] if content else [])])


def _is_choice(choice: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(choice, dict) and isinstance(choice.get("delta"), dict)
