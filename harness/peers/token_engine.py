"""The engine behind the kata `chat_stream`: it makes tokens when it is told to, and sees who hangs up on it.

A `Generation` is one request for tokens, and stays open until a behaviour ends it: by `done`, `fail`, `refuse`, or one
of the ways in which an engine breaks (`finish`, `cut_off`, `drop`). Nothing is said by a timer. All generations may be
refused for a while (`refusing`), or nobody is there (`down`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from harness.solution.program import Solution
from harness.wire.http1 import NO_HEADERS, Headers, Incoming, Server

NAME = "engine"
PATH = "/generate"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SHOWN = 24


def line(document: Any) -> bytes:
    return json.dumps(document).encode() + b"\n"


def token_line(token: bytes) -> bytes:
    return line({"token": base64.b64encode(token).decode()})


def done_line(reason: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3) -> bytes:
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return line({"done": {"finish_reason": reason, **counts}})


class Generation:
    """One request for tokens."""

    def __init__(self, engine: Engine, incoming: Incoming, document: dict[str, Any]) -> None:
        self.engine, self.incoming, self.document = engine, incoming, document
        self.begun = False  # the head of the answer is out
        self.over = False  # the engine has ended it

    @property
    def prompt(self) -> object:
        """What the last message says."""
        messages = self.document.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        return last.get("content") if isinstance(last, dict) else None

    @property
    def stopped(self) -> bool:
        """The solution has hung up before the engine was done."""
        return not self.over and self.incoming.gone

    @property
    def taken(self) -> int:
        """Bytes of the answer that the solution has read."""
        connection = self.incoming.line.connection
        return connection.sent - (self.engine.solution.unread(connection) or 0)

    # -- what it says -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Send the head of the answer, which says nothing of what comes."""
        if not self.begun:
            self.begun = True
            self._send(HEAD, "200 application/x-ndjson")

    def say(self, *tokens: bytes) -> None:
        """Tokens, each on a line and in a chunk of its own."""
        self.begin()
        for token in tokens:
            shown = partial("token {}{}".format, token[:SHOWN], "…" if len(token) > SHOWN else "")
            self._send(_chunk(token_line(token)), shown)

    def call(self, index: int, identifier: str, name: str) -> None:
        """A tool call begins."""
        self.write(line({"tool_call": {"index": index, "id": identifier, "name": name}}))

    def arguments(self, index: int, data: bytes) -> None:
        """More bytes of the arguments of a tool call."""
        self.write(line({"tool_call": {"index": index, "arguments": base64.b64encode(data).decode()}}))

    def write(self, data: bytes) -> None:
        """These bytes are a chunk of the body, whatever they are."""
        self.begin()
        self._send(_chunk(data), partial(_text, data[:80]))

    def done(self, reason: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3) -> None:
        """All is said, and the body ends."""
        self.write(done_line(reason, prompt_tokens, completion_tokens))
        self.finish()

    def fail(self, message: str) -> None:
        """The generation fails, and the body ends."""
        self.write(line({"error": {"message": message}}))
        self.finish()

    def finish(self) -> None:
        """The proper end of the body, whatever was said before."""
        self.begin()
        self.over = True
        if not self.incoming.gone:
            self.incoming.line.connection.send(LAST_CHUNK)
            self.incoming.line.answered()

    def cut_off(self) -> None:
        """Close (FIN) without the proper end of the body."""
        self.over = True
        self.incoming.line.connection.half_close()

    def refuse(self, status: int, message: str) -> None:
        """Answer with this status after all."""
        self.over = True
        self.incoming.answer(status, json.dumps({"error": {"message": message}}).encode())

    def drop(self) -> None:
        """Hang up (RST)."""
        self.over = True
        self.incoming.drop()

    def _send(self, data: bytes, label: Any) -> None:
        if not self.incoming.gone:
            record = self.engine.solution.record
            record.add("message", NAME, record.solution, label, data, NAME)
            self.incoming.line.connection.send(data)


class Engine:
    """POST /generate."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.server = Server(solution.network, NAME, solution.record.solution, self._asked)
        self.generations: list[Generation] = []
        self._forget()

    def _forget(self) -> None:
        for generation in self.generations:
            if not generation.over and not generation.incoming.gone:
                generation.drop()
        self.generations = []
        self.malformed: list[str] = []
        self._refusal: tuple[int, bytes, Headers] | None = None

    def environment(self) -> dict[str, str]:
        return {"ENGINE_URL": self.server.url}

    def begin(self) -> None:
        self._forget()
        self.server.listener.open()

    # -- what was seen ------------------------------------------------------------------------------------------

    @property
    def prompts(self) -> list[object]:
        """What was asked for, oldest first."""
        return [generation.prompt for generation in self.generations]

    def asked(self, prompt: str) -> Generation | None:
        return next((each for each in self.generations if each.prompt == prompt), None)

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def refusing(self, status: int, message: str, headers: Headers = NO_HEADERS) -> Iterator[None]:
        """Every request of the block gets this status instead of a generation."""
        self._refusal = status, json.dumps({"error": {"message": message}}).encode(), headers
        yield
        self._refusal = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens, and whoever was connected is hung up on."""
        self.solution.record.down(NAME, "refuses connections")
        self.server.close_connections()
        self.server.listener.close()
        yield
        self.server.listener.open()
        self.solution.record.up(NAME, "is back")

    # -- serving ------------------------------------------------------------------------------------------------

    def _asked(self, incoming: Incoming) -> None:
        document = _object(incoming.body)
        if (incoming.method, incoming.target) != ("POST", PATH) or document is None:
            self.malformed.append(f"{incoming.method} {incoming.target} with {incoming.body[:80]!r}")
            incoming.answer(400, b'{"error": {"message": "this is no request for tokens"}}')
            return
        generation = Generation(self, incoming, document)
        self.generations.append(generation)
        if self._refusal:
            status, body, headers = self._refusal
            generation.over = True
            incoming.answer(status, body, extra=headers)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _text(data: bytes) -> str:
    return data.decode(errors="replace").strip()


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Pieces of these sizes, and then of the last of them, up to the end."""
    at = 0
    for number in range(len(data)):
        if at >= len(data):
            return
        size = sizes[min(number, len(sizes) - 1)]
        yield data[at : at + size]
        at += size
