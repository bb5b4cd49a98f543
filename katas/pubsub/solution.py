"""A message broker that speaks the NATS client protocol.

It starts, listens and ends, and refuses every line that it is sent. Fill in what is marked TODO,
from top to bottom of `Connection` first; the rules W1 to W14 are in README.md beside this file.
You may change anything, and throw all of it away: only the bytes on the wire are looked at.
"""

import asyncio
import json
import os
import signal
from dataclasses import dataclass


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


HOST = os.environ.get("HOST", "127.0.0.1")
PORT = setting("PORT", 4222)
MAX_PAYLOAD = setting("MAX_PAYLOAD", 1 << 20)
MAX_PENDING = setting("MAX_PENDING", 64 << 20)
WRITE_DEADLINE = setting("WRITE_DEADLINE_MS", 10_000) / 1000
PING_INTERVAL = setting("PING_INTERVAL_MS", 120_000) / 1000
PING_MAX_OUT = setting("PING_MAX_OUT", 2)

CRLF = b"\r\n"
UNKNOWN_OPERATION = "Unknown Protocol Operation"
PAYLOAD_VIOLATION = "Maximum Payload Violation"
LINE_EXCEEDED = "Maximum Control Line Exceeded"
STALE_CONNECTION = "Stale Connection"
INVALID_SUBJECT = "Invalid Subject"


@dataclass(eq=False, slots=True)
class Subscription:
    connection: "Connection"
    sid: bytes
    subject: bytes
    queue: bytes | None
    delivered: int = 0  # since SUB
    max: int | None = None  # what UNSUB asked for


class Subjects:
    """Every subscription, kept so that a subject finds those it matches.

    A list is enough for the first four stages. For W14 make it a tree: one level for each token
    of the pattern, so that subscriptions with the same beginning share the path to it.
    """

    @staticmethod
    def valid(pattern: bytes) -> bool:
        """TODO W4: may a client subscribe to this?"""
        raise NotImplementedError

    def insert(self, subscription: Subscription) -> None:
        """TODO W4: `*` and `>` are special only where they are a whole token."""
        raise NotImplementedError

    def remove(self, subscription: Subscription) -> None:
        """TODO W14: without a look at the others, and without leaving empty branches behind."""
        raise NotImplementedError

    def match(self, subject: bytes) -> list[Subscription]:
        """TODO W4, W14: follow the tokens of the subject; a publisher's `*` is just a name."""
        raise NotImplementedError


class Broker:
    """Who is connected, who wants what, and how a message gets to them."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.subjects = Subjects()

    def publish(self, publisher: "Connection", subject: bytes, reply: bytes | None, payload: bytes) -> None:
        """TODO W5, W6: one MSG for each plain subscription, and for one member of each group.

        Decide who receives it before the first byte is written. Leave out the publisher's own
        subscriptions if it asked for no echo (W3). Count each delivery, and drop a subscription
        that has reached its max.
        """
        raise NotImplementedError

    async def shut_down(self) -> None:
        """TODO W13: write out what waits, for no longer than WRITE_DEADLINE, then close."""
        for connection in self.connections:
            connection.close()


class Connection(asyncio.Protocol):
    """One client: its bytes in, its bytes out, its subscriptions, its end."""

    transport: asyncio.Transport

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.buffer = bytearray()
        self.subscriptions: dict[bytes, Subscription] = {}
        self.verbose = False
        self.echo = True

    # --- called by the event loop

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.broker.connections.add(self)
        self.greet()

    def data_received(self, data: bytes) -> None:
        self.feed(data)

    def eof_received(self) -> None:
        """TODO W12: what was complete is done by now. What is still owed to this client?"""
        self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.broker.connections.discard(self)

    # --- bytes in

    def greet(self) -> None:
        """TODO W2: a client library needs to know more than this."""
        info = {"server_id": f"BROKER{os.getpid()}"}
        self.send(b"INFO %b\r\n" % json.dumps(info).encode())

    def feed(self, data: bytes) -> None:
        """TODO W1, W8: carry out every frame that is complete, keep the rest for later.

        There are two states: a control line comes next, or the payload of a PUB. This only
        cuts lines and refuses them.
        """
        self.buffer += data
        while (end := self.buffer.find(CRLF)) >= 0:
            del self.buffer[: end + len(CRLF)]
            self.error("not implemented")

    def on_connect(self, options: bytes) -> None:
        """TODO W3: verbose and echo."""
        raise NotImplementedError

    def on_sub(self, subject: bytes, queue: bytes | None, sid: bytes) -> None:
        """TODO W3, W4: and what if that sid is taken, or the subject is invalid?"""
        raise NotImplementedError

    def on_unsub(self, sid: bytes, most: int) -> None:
        """TODO W3: now, or once `most` messages have been delivered since SUB."""
        raise NotImplementedError

    def heartbeat(self) -> None:
        """TODO W10: PING a silent client; give up after PING_MAX_OUT without an answer."""
        raise NotImplementedError

    # --- bytes out

    def send(self, data: bytes) -> None:
        """TODO W11: this never waits. How much may wait for a client that does not read?"""
        self.transport.write(data)

    def error(self, text: str) -> None:
        self.send(b"-ERR '%b'\r\n" % text.encode())

    def close(self) -> None:
        """TODO W9 (F5), W12: what has to be gone before the socket is?"""
        self.transport.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    broker = Broker()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(broker), HOST, PORT, backlog=1024)
    await stop.wait()
    server.close()
    await broker.shut_down()


if __name__ == "__main__":
    asyncio.run(main())
