"""Blocking sockets and two threads for each client: one reads and decides, one writes what waits.

One lock guards all rooms. Whoever speaks holds it while the message is put into everybody's queue: that is the order.
"""

import base64
import codecs
import contextlib
import hashlib
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from collections import deque

MAX_MESSAGE = int(os.environ.get("MAX_MESSAGE", 1 << 20))
MAX_PENDING = int(os.environ.get("MAX_PENDING", 16 << 20))
HANDSHAKE_TIMEOUT = int(os.environ.get("HANDSHAKE_TIMEOUT_MS", 10_000)) / 1000
PING_INTERVAL = int(os.environ.get("PING_INTERVAL_MS", 60_000)) / 1000
PONG_TIMEOUT = int(os.environ.get("PONG_TIMEOUT_MS", 60_000)) / 1000
CLOSE_TIMEOUT = int(os.environ.get("CLOSE_TIMEOUT_MS", 5_000)) / 1000
ORIGINS = [origin.strip() for origin in os.environ.get("ORIGINS", "").split(",") if origin.strip()]
SUBPROTOCOLS = [name.strip() for name in os.environ.get("SUBPROTOCOLS", "").split(",") if name.strip()]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SLICE = 65536

lobby = threading.Condition()  # guards the three below; notified when a client has gone
rooms: dict[str, set["Client"]] = {}
clients: set["Client"] = set()
stopping = False


class Gone(Exception):
    """The client has ended its side, or was silent for too long."""


class Mistake(Exception):
    """The client broke a rule; the argument is the code of the Close that says so."""


class Refused(Exception):
    """A handshake that is answered with this status line, and these fields."""


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65536:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


def unmasked(data: bytes, mask: bytes, at: int) -> bytes:
    key = (mask * 2)[at % 4 : at % 4 + 4]
    key = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)
        self.asked = False
        self.room: str | None = None
        self.open = False

        self.changed = threading.Condition()  # guards what is below
        self.waiting: deque[bytes] = deque()
        self.pending = 0
        self.last = False  # nothing may follow: a Close is in the queue
        self.finish = False  # end our side when the queue is empty
        self.dead = False

    # Writing

    def put(self, data: bytes, last: bool = False) -> None:
        with self.changed:
            if self.last or self.dead:
                return
            self.waiting.append(data)
            self.pending += len(data)
            self.last = last
            if self.pending > MAX_PENDING and self.room:
                self._cut()
            self.changed.notify_all()

    def write(self) -> None:
        try:
            while True:
                with self.changed:
                    while not self.waiting and not self.finish and not self.dead:
                        self.changed.wait()
                    if self.dead:
                        return
                    if not self.waiting:
                        break
                    data = memoryview(self.waiting.popleft())
                for start in range(0, len(data), SLICE):
                    part = data[start : start + SLICE]
                    self.sock.sendall(part)
                    with self.changed:
                        self.pending -= len(part)
                        self.changed.notify_all()
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()

    def cut(self) -> None:
        with self.changed:
            self._cut()

    def _cut(self) -> None:
        self.dead = True
        self.changed.notify_all()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # wakes both threads

    def until_some_is_read(self) -> None:
        with self.changed:
            while self.pending > MAX_PENDING and not self.dead:
                self.changed.wait()

    # Reading

    def fill(self, deadline: float | None = None) -> None:
        """Waits for the next bytes; asks a client that is silent whether it is there."""
        while True:
            if deadline is not None:
                seconds = deadline - time.monotonic()
            else:
                seconds = PONG_TIMEOUT if self.asked else PING_INTERVAL
            if self.poll.poll(max(seconds, 0) * 1000):
                break
            if deadline is not None or self.asked:
                raise Gone
            self.put(frame(PING, b"there?"))
            self.asked = True
        try:
            data = self.sock.recv(SLICE)
        except OSError:
            raise Gone from None
        if not data:
            raise Gone
        self.asked = False
        self.received += data

    def take(self, size: int) -> bytes:
        while len(self.received) < size:
            self.fill()
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def header(self) -> tuple[bool, int, int, bytes]:
        first, second = self.take(2)
        fin, opcode, size = bool(first & 0x80), first & 0x0F, second & 0x7F
        if first & 0x70 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) or not second & 0x80:
            raise Mistake(1002)
        if opcode >= CLOSE and (size > 125 or not fin):
            raise Mistake(1002)
        if size == 126:
            (size,) = struct.unpack("!H", self.take(2))
            if size < 126:
                raise Mistake(1002)
        elif size == 127:
            (size,) = struct.unpack("!Q", self.take(8))
            if size < 65536 or size >> 63:
                raise Mistake(1002)
        return fin, opcode, size, self.take(4)

    def messages(self):
        """Yields each message as (opcode, payload); ends behind the client's Close."""
        kind, body, decoder = None, bytearray(), None
        while True:
            self.until_some_is_read()
            fin, opcode, size, mask = self.header()
            if opcode >= CLOSE:
                payload = unmasked(self.take(size), mask, 0)
                if opcode == PING:
                    self.put(frame(PONG, payload))
                elif opcode == CLOSE:
                    self.put(frame(CLOSE, closing(payload)), last=True)
                    return
                continue
            if (opcode == CONTINUATION) != (kind is not None):
                raise Mistake(1002)
            if opcode != CONTINUATION:
                kind, body = opcode, bytearray()
                decoder = codecs.getincrementaldecoder("utf-8")() if kind == TEXT else None
            if len(body) + size > MAX_MESSAGE:
                raise Mistake(1009)
            at = 0
            while at < size or fin:
                if at < size and not self.received:
                    self.fill()
                part = unmasked(self.take(min(size - at, len(self.received))), mask, at)
                at += len(part)
                body += part
                if decoder:
                    try:
                        decoder.decode(part, final=fin and at == size)
                    except UnicodeDecodeError:
                        raise Mistake(1007) from None
                if at == size:
                    break
            if fin:
                yield kind, bytes(body)
                kind = None

    def head(self) -> bytes:
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT
        while (end := self.received.find(b"\r\n\r\n")) < 0:
            if len(self.received) > SLICE:
                raise Refused("431 Request Header Fields Too Large")
            self.fill(deadline)
        head = bytes(self.received[:end])
        del self.received[: end + 4]
        return head

    # A life

    def live(self) -> None:
        writer = threading.Thread(target=self.write, daemon=True)
        writer.start()
        try:
            self.serve()
        except Refused as refused:
            self.put(f"HTTP/1.1 {refused}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode(), last=True)
            self.end()
        except Mistake as mistake:
            leave(self)
            self.put(frame(CLOSE, struct.pack("!H", mistake.args[0])), last=True)
            self.end()
        except Gone:
            pass
        finally:
            leave(self)
            self.cut()
            writer.join()
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()
            with lobby:
                clients.discard(self)
                lobby.notify()

    def serve(self) -> None:
        path, response = handshake(self.head())
        with lobby:
            if stopping:
                raise Refused("503 Service Unavailable")
            self.open = True
            if path != "/echo":
                self.room = path.removeprefix("/rooms/")
                rooms.setdefault(self.room, set()).add(self)
            self.put(response)
        for opcode, payload in self.messages():
            if path == "/echo":
                self.put(frame(opcode, payload))
                continue
            with lobby:
                for member in rooms[self.room] - {self}:
                    member.put(frame(opcode, payload))
        leave(self)
        self.end()

    def end(self) -> None:
        """Ends our side behind what waits, and gives the client some time to end its own."""
        with self.changed:
            self.finish = True
            self.changed.notify_all()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        with contextlib.suppress(Gone):
            while True:
                self.received.clear()
                self.fill(deadline)


def leave(client: Client) -> None:
    with lobby:
        members = rooms.get(client.room, set())
        members.discard(client)
        if client.room in rooms and not members:
            del rooms[client.room]


def closing(payload: bytes) -> bytes:
    """The payload of the Close that answers one with this."""
    if not payload:
        return b""
    if len(payload) == 1:
        raise Mistake(1002)
    (code,) = struct.unpack("!H", payload[:2])
    if not (1000 <= code <= 1003 or 1007 <= code <= 1011 or 3000 <= code <= 4999):
        raise Mistake(1002)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Mistake(1007) from None
    return payload[:2]


def handshake(head: bytes) -> tuple[str, bytes]:
    """The path that a request opens, and the response to it."""
    line, *rest = head.decode("latin-1").split("\r\n")
    fields: dict[str, list[str]] = {}
    for field in rest:
        name, colon, value = field.partition(":")
        if not colon or name != name.strip():
            raise Refused("400 Bad Request")
        fields.setdefault(name.lower(), []).append(value.strip())

    def items(name: str) -> list[str]:
        return [item.strip() for value in fields.get(name, []) for item in value.split(",")]

    method, path, version = [*line.split(" "), "", ""][:3]
    path = path.partition("?")[0]
    if not re.fullmatch(r"/echo|/rooms/[A-Za-z0-9_-]{1,64}", path):
        raise Refused("404 Not Found")
    if method != "GET" or version != "HTTP/1.1":
        raise Refused("400 Bad Request")
    if "websocket" not in [item.lower() for item in items("upgrade")]:
        raise Refused("426 Upgrade Required\r\nUpgrade: websocket")
    if "upgrade" not in [item.lower() for item in items("connection")]:
        raise Refused("400 Bad Request")
    if items("sec-websocket-version") != ["13"]:
        raise Refused("426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13")
    if ORIGINS and "origin" in fields and fields["origin"][0] not in ORIGINS:
        raise Refused("403 Forbidden")
    keys = fields.get("sec-websocket-key", [])
    try:
        if len(keys) != 1 or len(base64.b64decode(keys[0], validate=True)) != 16:
            raise Refused("400 Bad Request")
    except ValueError:
        raise Refused("400 Bad Request") from None
    accept = base64.b64encode(hashlib.sha1(keys[0].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    response += f"Sec-WebSocket-Accept: {accept.decode()}\r\n"
    spoken = [name for name in items("sec-websocket-protocol") if name in SUBPROTOCOLS]
    if spoken:
        response += f"Sec-WebSocket-Protocol: {spoken[0]}\r\n"
    return path, (response + "\r\n").encode()


def stop() -> None:
    """Say good-bye to all, and wait until they have gone, but not for ever."""
    global stopping
    with lobby:
        stopping = True
        for client in clients:
            if client.open:
                client.put(frame(CLOSE, struct.pack("!H", 1001)), last=True)
            else:
                client.cut()
        lobby.wait_for(lambda: not clients, CLOSE_TIMEOUT)


def terminate(*_: object) -> None:
    raise SystemExit


def main() -> None:
    signal.signal(signal.SIGTERM, terminate)
    listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=1024)
    try:
        while True:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = Client(sock)
            with lobby:
                clients.add(client)
            threading.Thread(target=client.live, daemon=True).start()
    finally:
        listener.close()
        stop()


if __name__ == "__main__":
    main()
