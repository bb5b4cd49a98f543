"""A WebSocket server from the first byte on: an echo, and rooms whose members hear each other.

It starts, listens and ends, and answers 501 to everything. Fill in what raises NotImplementedError, from top to bottom,
and then what is too simple; the rules R1 to R12 are in README.md beside this file. request.py is given: it reads the
head of a request, and makes responses. You may change anything: only what is on the wire counts.
"""

import asyncio
import os
import re
import signal
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from request import Refused, Request, read_request, response

HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
MAX_MESSAGE = int(os.environ.get("MAX_MESSAGE", 1 << 20))
MAX_PENDING = int(os.environ.get("MAX_PENDING", 16 << 20))
HANDSHAKE_TIMEOUT = int(os.environ.get("HANDSHAKE_TIMEOUT_MS", 10_000)) / 1000
PING_INTERVAL = int(os.environ.get("PING_INTERVAL_MS", 60_000)) / 1000
PONG_TIMEOUT = int(os.environ.get("PONG_TIMEOUT_MS", 60_000)) / 1000
CLOSE_TIMEOUT = int(os.environ.get("CLOSE_TIMEOUT_MS", 5000)) / 1000
ORIGINS = [origin for origin in os.environ.get("ORIGINS", "").split(",") if origin]
SUBPROTOCOLS = os.environ.get("SUBPROTOCOLS", "").split(",")

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
ROOM = re.compile(r"/rooms/([A-Za-z0-9_-]{1,64})")

Message = tuple[int, bytes]  # TEXT or BINARY, and the payload


# -- the opening handshake ------------------------------------------------------------------------------------------


def accept(request: Request) -> bytes:
    """R1 to R3: `response(101, headers)` for a proper handshake; raise Refused(status, why, headers) for any other.

    `request.lines(name)` are the values of all lines of a field, `request.items(name)` those of a list.
    """
    raise NotImplementedError("accept() in solution.py")


# -- frames ---------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """R5: the client broke the protocol; a Close with this code says so, and the connection ends."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True)
class Head:
    fin: bool
    opcode: int
    length: int
    key: bytes


def frame(opcode: int, payload: bytes) -> bytes:
    """R5: a whole frame, as servers send it. `struct.pack(">BBH", ...)` may help."""
    raise NotImplementedError("frame() in solution.py")


class Connection:
    """One client, from its handshake to the end of its TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.opened = False
        self.closing = False  # a Close was sent: nothing may follow it
        self.task = asyncio.current_task()

    # -- in

    async def head(self) -> Head:
        """R5: read the head of the next frame, `await self.reader.readexactly(2)` first; Failed if it breaks a rule."""
        raise NotImplementedError("Connection.head() in solution.py")

    def payload(self, head: Head) -> AsyncIterator[bytes]:
        """R5: read a payload, and yield it unmasked, in the pieces that come: `await self.reader.read(most)`."""
        raise NotImplementedError("Connection.payload() in solution.py")

    async def message(self) -> Message | None:
        """R5, R6, R7: the next message, from all its fragments; None when the client has closed.

        Control frames are served on the way. A text is checked as it comes: `codecs.getincrementaldecoder("utf-8")()`.
        """
        raise NotImplementedError("Connection.message() in solution.py")

    def control(self, opcode: int, payload: bytes) -> bool:
        """R7: serve a Ping, a Pong or a Close; True when the connection ends with it."""
        raise NotImplementedError("Connection.control() in solution.py")

    # -- out

    def send(self, opcode: int, payload: bytes) -> None:
        """R9: append to what waits for this client, and never wait. How much is too much?

        `self.writer.transport.get_write_buffer_size()` is what waits; `self.writer.transport.abort()` cuts.
        """
        self.writer.write(frame(opcode, payload))

    def close(self, payload: bytes) -> None:
        """R7: send a Close; nothing is sent behind it."""
        self.send(CLOSE, payload)
        self.closing = True

    def go_away(self) -> None:
        """R11: the server stops. A Close with 1001, and an end for who does not answer in CLOSE_TIMEOUT."""
        self.writer.close()

    async def end(self) -> None:
        """R7: close the TCP connection, behind everything that waits, but don't wait for longer than CLOSE_TIMEOUT.

        A socket that is closed with unread input sends a reset, which may destroy the Close that says why. So send a
        FIN (`self.writer.write_eof()`), and read on until the client closes as well.
        """
        self.writer.close()

    async def heartbeat(self) -> None:
        """R10: ask a client that is silent whether it still lives, and cut it when it does not answer."""
        await asyncio.Event().wait()


# -- the services ---------------------------------------------------------------------------------------------------


async def echo(connection: Connection) -> None:
    """R8: send every message back. R9: and if the client does not read?"""
    raise NotImplementedError("echo() in solution.py")


async def meet(connection: Connection, name: str) -> None:
    """R8: hand every message to all other members of that room. Forget who leaves, and rooms that are empty (R12)."""
    raise NotImplementedError("meet() in solution.py")


def service(target: str) -> Callable[[Connection], Awaitable[None]]:
    """What a path offers. Raises Refused."""
    path = target.partition("?")[0]
    if path == "/echo":
        return echo
    if found := ROOM.fullmatch(path):
        return lambda connection: meet(connection, found[1])
    raise Refused(404, "there is nothing here")


# -- the server -----------------------------------------------------------------------------------------------------

connections: set[Connection] = set()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connection = Connection(reader, writer)
    connections.add(connection)
    try:
        await converse(connection)
    except NotImplementedError as missing:
        if not connection.opened:
            writer.write(response(501, {}, f"not implemented yet: {missing}\n"))
        print(f"not implemented yet: {missing}", flush=True)
    except Refused as why:
        writer.write(response(why.status, why.headers, f"{why}\n"))
    except Failed as why:
        connection.close(struct.pack(">H", why.code) + str(why).encode())
    except (asyncio.IncompleteReadError, TimeoutError, OSError):
        pass  # the client has gone, or never said what it wants
    finally:
        await connection.end()
        connections.discard(connection)


async def converse(connection: Connection) -> None:
    async with asyncio.timeout(HANDSHAKE_TIMEOUT):
        request = await read_request(connection.reader)
    conversation = service(request.target)
    connection.writer.write(accept(request))
    connection.opened = True
    heartbeat = asyncio.create_task(connection.heartbeat())
    try:
        await conversation(connection)
    finally:
        heartbeat.cancel()


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = await asyncio.start_server(serve, HOST, PORT, backlog=512)
    await stopping.wait()
    server.close()
    for connection in connections:
        connection.go_away()
    if tasks := [connection.task for connection in connections]:
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)


if __name__ == "__main__":
    asyncio.run(main())
