"""A WebSocket server from the first byte on: an echo, and rooms whose members hear each other.

What keeps the promises, and where:

- `Connection.head` refuses a bad frame by its head, before any of its payload has come.
- `Connection.message` reads payloads piece by piece, so text is checked as it arrives, and the limit holds for the sum
  of all fragments. Control frames are served on the way, also in the middle of a message.
- `Connection.send` never waits: it appends to what waits for that one client, and cuts it above MAX_PENDING. So a slow
  member holds up nobody, and since nothing is awaited while a message is handed out, all members see one order.
- The echo waits until its client has read enough: who does not read is not read from.
- `Connection.end` sends the FIN behind everything else and reads on until the client closes too: a socket that is
  closed with unread input sends a reset, which may destroy the Close that says why.
"""

import asyncio
import base64
import binascii
import codecs
import hashlib
import os
import re
import signal
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
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
OPCODES = {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}
CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)}
ROOM = re.compile(r"/rooms/([A-Za-z0-9_-]{1,64})")
PIECE = 1 << 16  # bytes that are read, unmasked and checked at once

Message = tuple[int, bytes]  # TEXT or BINARY, and the payload


# -- the opening handshake ------------------------------------------------------------------------------------------


def accept(request: Request) -> bytes:
    """The 101 for a proper handshake. Raises Refused for any other (RFC 6455, 4.2)."""
    if request.method != "GET":
        raise Refused(405, "a handshake is a GET", {"Allow": "GET"})
    if request.version != "HTTP/1.1" or len(request.lines("host")) != 1:
        raise Refused(400, "HTTP/1.1 and one Host are needed")
    if "websocket" not in map(str.lower, request.items("upgrade")):
        raise Refused(426, "Upgrade: websocket is needed", {"Upgrade": "websocket"})
    if "upgrade" not in map(str.lower, request.items("connection")):
        raise Refused(400, "Connection: Upgrade is needed")
    if request.lines("sec-websocket-version") != ["13"]:
        raise Refused(426, "only version 13 is spoken here", {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"})
    if any(ORIGINS and origin not in ORIGINS for origin in request.lines("origin")):
        raise Refused(403, "pages of that origin are not served")
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_key(request)}
    shared = [name for name in request.items("sec-websocket-protocol") if name in SUBPROTOCOLS]
    return response(101, headers | ({"Sec-WebSocket-Protocol": shared[0]} if shared else {}))


def accept_key(request: Request) -> str:
    keys = request.lines("sec-websocket-key")
    try:
        if len(keys) != 1 or len(base64.b64decode(keys[0], validate=True)) != 16:
            raise Refused(400, "one Sec-WebSocket-Key is needed, 16 bytes in base64")
    except binascii.Error:
        raise Refused(400, "the Sec-WebSocket-Key is no base64") from None
    return base64.b64encode(hashlib.sha1((keys[0] + GUID).encode()).digest()).decode()


# -- frames ---------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """The client broke the protocol: a Close with this code says so, and the connection ends."""

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
    """A whole frame, as servers send it: unmasked, with the length in its shortest form."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, size)
    return head + payload


def unmask(data: bytes, key: bytes, offset: int) -> bytes:
    """XOR with the key, of which byte `offset` comes first; as whole numbers, since a loop would take its time."""
    turned = key[offset % 4 :] + key[: offset % 4]
    stream = (turned * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(data), "big")


def check_close(payload: bytes) -> None:
    """Raises Failed, or UnicodeDecodeError, for what no Close may hold (RFC 6455, 5.5.1 and 7.4)."""
    if len(payload) == 1 or (payload and int.from_bytes(payload[:2], "big") not in CODES):
        raise Failed(1002, "this is no code")
    payload[2:].decode()


class Connection:
    """One client, from its handshake to the end of its TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.loop = asyncio.get_running_loop()
        self.heard = self.loop.time()
        self.opened = False
        self.closing = False  # a Close was sent: nothing may follow it
        self.task = asyncio.current_task()

    # -- in

    async def message(self) -> Message | None:
        """The next message. Control frames are served on the way; None when the client has closed."""
        kind, whole, text = 0, bytearray(), None
        while True:
            head = await self.head()
            if head.opcode >= CLOSE:
                if self.control(head.opcode, b"".join([piece async for piece in self.payload(head)])):
                    return None
                continue
            if (head.opcode == CONTINUATION) != bool(kind):
                raise Failed(1002, "the fragments of two messages are mixed")
            if len(whole) + head.length > MAX_MESSAGE:
                raise Failed(1009, f"messages have at most {MAX_MESSAGE} bytes")
            if head.opcode == TEXT:
                text = codecs.getincrementaldecoder("utf-8")()
            kind = kind or head.opcode
            async for piece in self.payload(head):
                whole += piece
                if text:
                    text.decode(piece)
            if head.fin:
                if text:
                    text.decode(b"", final=True)
                return kind, bytes(whole)

    async def head(self) -> Head:
        """The head of the next frame. Raises Failed for one that no client may send (RFC 6455, 5.2)."""
        first, second = await self.reader.readexactly(2)
        self.heard = self.loop.time()
        fin, opcode, length, shortest = bool(first & 0x80), first & 0x0F, second & 0x7F, 0
        if first & 0x70 or opcode not in OPCODES:
            raise Failed(1002, "reserved bits and opcodes have no meaning here")
        if not second & 0x80:
            raise Failed(1002, "clients mask their frames")
        if opcode >= CLOSE and (not fin or length > 125):
            raise Failed(1002, "a control frame is whole, and has at most 125 bytes")
        if length == 126:
            (length,), shortest = struct.unpack(">H", await self.reader.readexactly(2)), 126
        elif length == 127:
            (length,), shortest = struct.unpack(">Q", await self.reader.readexactly(8)), 1 << 16
        if length < shortest or length >> 63:
            raise Failed(1002, "a length has its shortest form, and 63 bits at most")
        return Head(fin, opcode, length, await self.reader.readexactly(4))

    async def payload(self, head: Head) -> AsyncIterator[bytes]:
        """A payload, unmasked, in the pieces in which it comes."""
        done = 0
        while done < head.length:
            piece = await self.reader.read(min(head.length - done, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", head.length - done)
            self.heard = self.loop.time()
            yield unmask(piece, head.key, done)
            done += len(piece)

    def control(self, opcode: int, payload: bytes) -> bool:
        """Serve a control frame; True when the connection ends with it."""
        if opcode == PING:
            self.send(PONG, payload)
        elif opcode == CLOSE:
            check_close(payload)
            self.close(payload[:2])
        return opcode == CLOSE

    # -- out

    def send(self, opcode: int, payload: bytes) -> None:
        """Append to what waits for this client; never wait."""
        if not self.closing:
            self.writer.write(frame(opcode, payload))
            if self.writer.transport.get_write_buffer_size() > MAX_PENDING:
                self.abort()

    def close(self, payload: bytes) -> None:
        self.send(CLOSE, payload)
        self.closing = True

    def go_away(self) -> None:
        """The server stops: ask for the client's Close, and wait for it only so long."""
        if not self.opened:
            self.abort()
        self.close(struct.pack(">H", 1001) + b"the server stops")
        self.loop.call_later(CLOSE_TIMEOUT, self.abort)

    def abort(self) -> None:
        self.closing = True
        self.writer.transport.abort()

    async def end(self) -> None:
        """Close the TCP connection, once everything that waits has been sent and the client has closed as well."""
        self.closing = True
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                self.writer.write_eof()
                while await self.reader.read(PIECE):
                    pass
        self.writer.transport.abort()

    async def heartbeat(self) -> None:
        """Ask a client that is silent whether it still lives, and cut it when it does not answer."""
        while True:
            idle = self.loop.time() - self.heard
            if idle < PING_INTERVAL:
                await asyncio.sleep(PING_INTERVAL - idle)
                continue
            asked = self.loop.time()
            self.send(PING, b"are you there?")
            await asyncio.sleep(PONG_TIMEOUT)
            if self.heard < asked:
                return self.abort()


# -- the services ---------------------------------------------------------------------------------------------------


async def echo(connection: Connection) -> None:
    while message := await connection.message():
        connection.send(*message)
        await connection.writer.drain()  # who does not read is not read from


rooms: dict[str, set[Connection]] = {}


async def meet(connection: Connection, name: str) -> None:
    room = rooms.setdefault(name, set())
    room.add(connection)
    try:
        while message := await connection.message():
            for member in [member for member in room if member is not connection]:
                member.send(*message)
    finally:
        room.discard(connection)
        if not room:
            del rooms[name]


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
    except Refused as why:
        writer.write(response(why.status, why.headers, f"{why}\n"))
    except Failed as why:
        connection.close(struct.pack(">H", why.code) + str(why).encode())
    except UnicodeDecodeError:
        connection.close(struct.pack(">H", 1007) + b"this is no UTF-8")
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
    connection.opened, connection.heard = True, connection.loop.time()
    heartbeat = asyncio.create_task(connection.heartbeat())
    try:
        await conversation(connection)  # it begins before anything else can happen: who has the 101 is in
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
