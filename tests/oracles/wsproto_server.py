"""A server on wsproto as the server of the kata `websocket`: `--subject=tests/oracles/wsproto_server.py`.

wsproto reads and makes the bytes; what moves them, and the services, are as small as they can be.
"""

import asyncio
import os
import re
import signal
from contextlib import suppress

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

KATA = "websocket"
NEEDS = "wsproto"
PACKAGE = "python3-wsproto, or pip install wsproto"
DEVIATIONS = {
    "sloppy_handshakes": "it takes HTTP/1.0 and any key; RFC 6455 4.2.1 wants 1.1, and 16 bytes in base64",
}

ROOM = re.compile(r"/rooms/([A-Za-z0-9_-]{1,64})")
MAX_MESSAGE, MAX_PENDING = int(os.environ["MAX_MESSAGE"]), int(os.environ["MAX_PENDING"])
ORIGINS = [origin for origin in os.environ["ORIGINS"].split(",") if origin]
SUBPROTOCOLS = os.environ["SUBPROTOCOLS"].split(",")
HIGH_WATER = 1 << 16  # bytes that wait for a client of the echo before it is not read from
clients: set["Client"] = set()
rooms: dict[str, set["Client"]] = {}


def seconds(name: str) -> float:
    return int(os.environ[name]) / 1000


class Client(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.ws = WSConnection(ConnectionType.SERVER)
        self.parts, self.size, self.room = [], 0, None
        self.heard, self.over = self.loop.time(), False
        self.lost = self.loop.create_future()
        self.timer = self.loop.call_later(seconds("HANDSHAKE_TIMEOUT_MS"), self.transport.abort)
        clients.add(self)
        transport.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data):
        self.heard = self.loop.time()
        if self.over:
            return
        try:
            self.ws.receive_data(data)
            for event in self.ws.events():
                self.on(event)
                if self.over:
                    return
        except RemoteProtocolError as error:
            self.write(self.ws.send(error.event_hint or RejectConnection()))
            self.finish()

    def on(self, event):
        match event:
            case Request():
                self.open(event)
            case Ping():
                self.write(self.ws.send(event.response()))
            case CloseConnection():
                with suppress(LocalProtocolError):
                    self.write(self.ws.send(event.response()))
                self.finish()
            case Message():
                self.take(event)

    def open(self, request):
        path = request.target.partition("?")[0]
        found = ROOM.fullmatch(path)
        origins = [value.decode() for name, value in request.extra_headers if name == b"origin"]
        if path != "/echo" and not found:
            return self.reject(404)
        if ORIGINS and any(origin not in ORIGINS for origin in origins):
            return self.reject(403)
        chosen = next((each for each in request.subprotocols if each in SUBPROTOCOLS), None)
        if found:
            self.room = rooms.setdefault(found[1], set())
            self.room.add(self)
            self.name = found[1]
        self.write(self.ws.send(AcceptConnection(subprotocol=chosen)))
        self.timer.cancel()
        self.timer = self.loop.call_later(seconds("PING_INTERVAL_MS"), self.beat)

    def reject(self, status):
        self.write(self.ws.send(RejectConnection(status_code=status, has_body=True)))
        self.write(self.ws.send(RejectData(data=b"refused\n")))
        self.finish()

    def take(self, event):
        self.size += len(event.data.encode() if isinstance(event, TextMessage) else event.data)
        self.parts.append(event.data)
        if self.size > MAX_MESSAGE:
            return self.close(1009)
        if not event.message_finished:
            return
        whole, self.parts, self.size = type(self.parts[0])().join(self.parts), [], 0
        kind = TextMessage if isinstance(event, TextMessage) else BytesMessage
        if self.room is None:
            self.write(self.ws.send(kind(data=whole)))
        else:
            for member in self.room - {self}:
                member.deliver(kind(data=whole))

    def deliver(self, message):
        if self.ws.state is ConnectionState.OPEN:
            self.write(self.ws.send(message))
            if self.transport.get_write_buffer_size() > MAX_PENDING:
                self.leave()
                self.transport.abort()

    def write(self, data):
        self.transport.write(data)

    def close(self, code):
        with suppress(LocalProtocolError):
            self.write(self.ws.send(CloseConnection(code=code)))
        self.finish()

    def beat(self):
        idle, asked = self.loop.time() - self.heard, self.loop.time()
        if idle < seconds("PING_INTERVAL_MS"):
            self.timer = self.loop.call_later(seconds("PING_INTERVAL_MS") - idle, self.beat)
        elif self.ws.state is ConnectionState.OPEN:
            self.write(self.ws.send(Ping(b"?")))
            self.timer = self.loop.call_later(seconds("PONG_TIMEOUT_MS"), self.judge, asked)

    def judge(self, asked):
        self.beat() if self.heard > asked else self.transport.abort()

    def go_away(self):
        with suppress(LocalProtocolError):
            self.write(self.ws.send(CloseConnection(code=1001)))
        self.loop.call_later(seconds("CLOSE_TIMEOUT_MS"), self.transport.abort)

    def finish(self):
        self.over = True
        self.transport.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(seconds("CLOSE_TIMEOUT_MS"), self.transport.abort)

    def pause_writing(self):
        if self.room is None and not self.over:
            self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()

    def leave(self):
        if self.room is not None:
            self.room.discard(self)
            if not self.room and rooms.get(self.name) is self.room:
                del rooms[self.name]

    def connection_lost(self, _):
        self.timer.cancel()
        self.leave()
        clients.discard(self)
        self.lost.set_result(None)


async def main():
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    server = await loop.create_server(Client, os.environ["HOST"], int(os.environ["PORT"]), backlog=512)
    await stopping.wait()
    server.close()
    lost = [client.lost for client in clients]
    for client in list(clients):
        client.go_away()
    if lost:
        await asyncio.wait(lost, timeout=seconds("CLOSE_TIMEOUT_MS"))


asyncio.run(main())
