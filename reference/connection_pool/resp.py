"""Given: one connection to the RESP2 server. It tells facts, and never decides whether it may be used again."""

import asyncio
import contextlib
import os
import socket
from typing import Any

COMMAND_TIMEOUT = int(os.environ.get("COMMAND_TIMEOUT_MS", 20_000)) / 1000

Reply = Any  # bytes, int, str (a status), None (nil), or a list of replies


class ReplyError(Exception):
    """The server answered `-ERR ...` or the like: a reply as good as any other, and the connection is fine."""


class ConnectionLost(Exception):
    """The server closed or reset the connection before the reply was complete."""


class ProtocolError(ConnectionLost):
    """What came is no RESP2: nothing that follows can be trusted."""


class CommandTimeout(ConnectionLost):
    """No reply within COMMAND_TIMEOUT_MS. It may still come."""


class Connection(asyncio.Protocol):
    """A TCP connection to the server. These are the facts:

    unanswered  commands that were sent and whose replies were not read
    unread      bytes that came and were not read as part of a reply
    eof         the server has closed
    in_multi    between MULTI and EXEC
    opened_at   when it was opened, on the clock of loop.time()
    calls       how many commands it was given
    used, idle_since    for the pool to write: whether it was lent before, and since when it lies idle
    """

    def __init__(self) -> None:
        self.unanswered = self.calls = 0
        self.eof = self.in_multi = self.used = False
        self.opened_at = self.idle_since = asyncio.get_running_loop().time()
        self._buffer = bytearray()
        self._arrived: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connect, and no more: AUTH is up to you. Raises OSError."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    @property
    def unread(self) -> int:
        return len(self._buffer)

    async def call(self, *words: str | bytes) -> Reply:
        """Send a command and wait for its reply. Raises ReplyError, ConnectionLost, ProtocolError, CommandTimeout."""
        if self.eof:
            raise ConnectionLost("the server has closed the connection")
        self.calls += 1
        self.unanswered += 1
        self.transport.write(encode(words))
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                reply = await self._read_reply()
        except TimeoutError:
            raise CommandTimeout(f"no reply within {COMMAND_TIMEOUT:g} s") from None
        self.unanswered -= 1
        if isinstance(reply, ReplyError):
            raise reply
        if words[0] == "MULTI":
            self.in_multi = True
        elif words[0] in ("EXEC", "DISCARD"):
            self.in_multi = False
        return reply

    def close(self) -> None:
        """Close at once, whatever is under way: when this returns, the FIN is out."""
        if not self.transport.is_closing():
            with contextlib.suppress(OSError):  # the server was faster
                self.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            self.transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    def eof_received(self) -> None:
        self.eof = True
        self._wake()

    def connection_lost(self, _: Exception | None) -> None:
        self.eof = True
        self._wake()

    def _wake(self) -> None:
        if self._arrived and not self._arrived.done():
            self._arrived.set_result(None)

    async def _read_reply(self) -> Reply:
        while (parsed := parse(bytes(self._buffer))) is None:
            if self.eof:
                raise ConnectionLost("the server closed the connection instead of answering")
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        reply, used = parsed
        del self._buffer[:used]
        return reply


def encode(words: tuple[str | bytes, ...]) -> bytes:
    """A command, as an array of bulk strings."""
    parts = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def parse(data: bytes) -> tuple[Reply, int] | None:
    """The first reply in `data` and its length; None while it is incomplete. Raises ProtocolError."""
    line, found, _ = data.partition(b"\r\n")
    if not found:
        if data[:1] not in (b"", b"+", b"-", b":", b"$", b"*"):
            raise ProtocolError(f"no reply begins with {data[:1]!r}")
        return None
    kind, rest, at = line[:1], line[1:], len(line) + 2
    try:
        match kind:
            case b"+":
                return rest.decode(), at
            case b"-":
                return ReplyError(rest.decode(errors="replace")), at
            case b":":
                return int(rest), at
            case b"$" if int(rest) < 0:
                return None, at
            case b"$":
                return _bulk(data, at, int(rest))
            case b"*":
                return _array(data, at, int(rest))
    except ValueError:
        pass
    raise ProtocolError(f"this is no reply: {line[:40]!r}")


def _bulk(data: bytes, at: int, length: int) -> tuple[Reply, int] | None:
    end = at + length
    if len(data) < end + 2:
        return None
    if data[end : end + 2] != b"\r\n":
        raise ProtocolError("a bulk string is longer than it says")
    return data[at:end], end + 2


def _array(data: bytes, at: int, number: int) -> tuple[Reply, int] | None:
    replies = []
    for _ in range(number):
        if (parsed := parse(data[at:])) is None:
            return None
        replies.append(parsed[0])
        at += parsed[1]
    return replies, at
