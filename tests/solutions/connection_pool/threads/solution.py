"""A correct `connection_pool` of another design: a thread for each client, blocking sockets, one lock around the pool.

Who waits, waits in `select` for two things at once: what it wants (a turn in the pool, bytes of redis) and the end of
its client. So nobody has to be cancelled from outside, and everybody cleans up after itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import h11


def number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


UPSTREAM = os.environ.get("UPSTREAM_HOST", "127.0.0.1"), number("UPSTREAM_PORT", 6379)
PASSWORD = os.environ.get("UPSTREAM_PASSWORD", "").encode()
POOL_MAX = number("POOL_MAX", 4)
ACQUIRE, CONNECT, COMMAND, IDLE, LIFETIME, DRAIN = (
    number(name, default) / 1000
    for name, default in {
        "ACQUIRE_TIMEOUT_MS": 20_000,
        "CONNECT_TIMEOUT_MS": 20_000,
        "COMMAND_TIMEOUT_MS": 20_000,
        "IDLE_TIMEOUT_MS": 0,
        "MAX_LIFETIME_MS": 0,
        "DRAIN_TIMEOUT_MS": 5_000,
    }.items()
)
KEYED = re.compile(r"/(kv|counter|swap)/([A-Za-z0-9_.-]{1,128})")


class Failure(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Lost(Failure):
    """The connection ended before the first byte of a reply."""


class Left(Exception):
    """The client of this thread has gone."""


class Refused(Exception):
    """An error reply."""


def has_left(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def until_readable(wanted: socket.socket, client: socket.socket, seconds: float) -> bool:
    """Wait for bytes; False when the time is over. Raises Left."""
    end = time.monotonic() + seconds
    watched = [wanted, client]
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], left)
        if wanted in ready:
            return True
        if client in ready:
            if has_left(client):
                raise Left
            watched = [wanted]  # it has sent its next request already, and is there
    return False


class Upstream:
    """One connection to redis."""

    def __init__(self) -> None:
        self.sock = socket.create_connection(UPSTREAM, CONNECT)
        self.sock.settimeout(COMMAND)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = bytearray()
        self.opened = self.since = time.monotonic()
        self.in_step = True  # every reply was read
        self.in_multi = self.used = False

    def call(self, client: socket.socket, *words: bytes, limit: float = COMMAND) -> Any:
        self.in_step, end = False, time.monotonic() + limit
        text = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        try:
            self.sock.sendall(text)
        except OSError as error:
            raise Lost(502, f"redis is gone: {error}") from None
        while (found := parse(bytes(self.data))) is None:
            self.receive(client, end - time.monotonic())
        reply, used = found
        del self.data[:used]
        self.in_step = True
        if isinstance(reply, Refused):
            raise reply
        self.in_multi = words[0] == b"MULTI" or (self.in_multi and words[0] != b"EXEC")
        return reply

    def receive(self, client: socket.socket, seconds: float) -> None:
        if not until_readable(self.sock, client, seconds):
            raise Failure(504, "redis does not answer")
        try:
            data = self.sock.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise (Failure if self.data else Lost)(502, "redis closed the connection")
        self.data += data

    @property
    def fit(self) -> bool:
        now = time.monotonic()
        silent = self.in_step and not self.data and not select.select([self.sock], [], [], 0)[0]
        young = not (IDLE and now - self.since > IDLE) and not (LIFETIME and now - self.opened > LIFETIME)
        return silent and young and not self.in_multi

    def close(self) -> None:
        self.sock.close()


def parse(data: bytes) -> tuple[Any, int] | None:
    """The first reply and its length, None while it is incomplete. Raises Failure."""
    if data[:1] not in (b"", b"+", b"-", b":", b"$", b"*"):
        raise Failure(502, "this is no RESP")
    line, found, _ = data.partition(b"\r\n")
    if not found:
        return None
    kind, rest, at = line[:1], line[1:], len(line) + 2
    if kind == b"+":
        return rest, at
    if kind == b"-":
        return Refused(rest.decode()), at
    if not re.fullmatch(rb"-?\d+", rest):
        raise Failure(502, "this is no RESP")
    value = int(rest)
    if kind == b":":
        return value, at
    if value < 0:
        return None if kind == b"*" else (None, at)
    if kind == b"$":
        return (data[at : at + value], at + value + 2) if len(data) >= at + value + 2 else None
    replies = []
    for _ in range(value):
        if (item := parse(data[at:])) is None:
            return None
        replies.append(item[0])
        at += item[1]
    return replies, at


class Turn:
    """A place in line: a socket pair that becomes readable when something was given."""

    def __init__(self) -> None:
        self.bell, self.ring = socket.socketpair()
        self.given = False
        self.connection: Upstream | None = None  # None: a slot

    def give(self, connection: Upstream | None) -> None:
        self.given, self.connection = True, connection
        self.ring.send(b"!")

    def close(self) -> None:
        self.bell.close()
        self.ring.close()


class Pool:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[Upstream] = []
        self.line: deque[Turn] = deque()
        self.slots = POOL_MAX

    @contextlib.contextmanager
    def connection(self, client: socket.socket) -> Iterator[Upstream]:
        connection = self.acquire(client)
        try:
            yield connection
        finally:
            connection.used, connection.since = True, time.monotonic()
            self.give_back(connection)

    def give_back(self, connection: Upstream | None) -> None:
        """A connection, or None for a slot, goes to the first in line."""
        if connection and not connection.fit:
            connection.close()
            connection = None
        with self.lock:
            if self.line:
                self.line.popleft().give(connection)
            elif connection:
                self.idle.append(connection)
            else:
                self.slots += 1

    def acquire(self, client: socket.socket) -> Upstream:
        turn = None
        with self.lock:
            connection = None if self.line else self.take_idle()
            if self.line or not (connection or self.slots):
                turn = Turn()
                self.line.append(turn)
            elif not connection:
                self.slots -= 1
        if turn:
            connection = self.wait(turn, client)
        return connection or self.open(client)

    def take_idle(self) -> Upstream | None:
        for stale in [each for each in self.idle if not each.fit]:
            self.idle.remove(stale)
            stale.close()
            self.slots += 1
        return self.idle.pop() if self.idle else None

    def wait(self, turn: Turn, client: socket.socket) -> Upstream | None:
        try:
            in_time = until_readable(turn.bell, client, ACQUIRE)
        except Left:
            self.leave(turn)
            raise
        else:
            if not in_time:
                self.leave(turn)
                raise Failure(503, "no connection became free")
            if has_left(client):  # bell and departure in one moment
                self.give_back(turn.connection)
                raise Left
            return turn.connection
        finally:
            turn.close()

    def leave(self, turn: Turn) -> None:
        with self.lock:
            if not turn.given:
                self.line.remove(turn)
                return
        self.give_back(turn.connection)

    def open(self, client: socket.socket) -> Upstream:
        connection = None
        try:
            connection = Upstream()
            if PASSWORD:
                connection.call(client, b"AUTH", PASSWORD, limit=CONNECT)
            return connection
        except BaseException:
            if connection:
                connection.close()
            self.give_back(None)
            raise

    def execute(self, client: socket.socket, *words: bytes, safe: bool) -> Any:
        reused = False
        try:
            with self.connection(client) as connection:
                reused = connection.used
                return connection.call(client, *words)
        except Lost:
            if not (safe and reused):
                raise
        with self.connection(client) as connection:
            return connection.call(client, *words)


POOL = Pool()


def answer(client: socket.socket, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    if path == "/healthz":
        return 200, b"ok"
    found = KEYED.fullmatch(path)
    kind, key = (found[1], found[2].encode()) if found else ("", b"")
    match method, kind:
        case "GET", "kv":
            value = POOL.execute(client, b"GET", key, safe=True)
            return (404, b"no such key") if value is None else (200, value)
        case "PUT", "kv":
            POOL.execute(client, b"SET", key, body, safe=True)
            return 204, b""
        case "POST", "counter":
            return 200, b"%d" % POOL.execute(client, b"INCR", key, safe=False)
        case "POST", "swap":
            with POOL.connection(client) as connection:
                for words in ((b"MULTI",), (b"GET", key), (b"SET", key, body)):
                    connection.call(client, *words)
                old = connection.call(client, b"EXEC")[0]
            if isinstance(old, Refused):
                raise old
            return (204, b"") if old is None else (200, old)
    return 404, b"no such endpoint"


def handle(client: socket.socket, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    try:
        return answer(client, method, path, body)
    except Failure as failure:
        return failure.status, str(failure).encode()
    except (Refused, OSError) as error:
        return 502, str(error).encode()


def serve(client: socket.socket) -> None:
    """One client: its requests, one after the other."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(OSError, Left, h11.RemoteProtocolError):
        http = h11.Connection(h11.SERVER)
        while http.our_state is h11.IDLE:
            head, body = request(client, http)
            BUSY.add(client)
            try:
                status, content = handle(client, head.method.decode(), head.target.decode(), body)
                headers = [("Content-Length", str(len(content)))] if status != 204 else []
                headers += [("Retry-After", "1")] if status == 503 else []
                events = h11.Response(status_code=status, headers=headers), h11.Data(content), h11.EndOfMessage()
                client.sendall(b"".join(http.send(event) or b"" for event in events))
            finally:
                BUSY.discard(client)
            if http.our_state is h11.DONE:
                http.start_next_cycle()


def request(client: socket.socket, http: h11.Connection) -> tuple[h11.Request, bytes]:
    head, body = None, bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(client.recv(1 << 16))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            raise Left
    assert head
    return head, bytes(body)


BUSY: set[socket.socket] = set()


def main() -> None:
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), number("PORT", 8000)), backlog=512)
    stop, ring = socket.socketpair()
    ring.setblocking(False)
    signal.set_wakeup_fd(ring.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    start: Callable[[socket.socket], None] = lambda client: threading.Thread(  # noqa: E731
        target=serve, args=(client,), daemon=True
    ).start()
    while stop not in (ready := select.select([listener, stop], [], [])[0]):
        if listener in ready:
            start(listener.accept()[0])
    listener.close()
    end = time.monotonic() + DRAIN
    while BUSY and time.monotonic() < end:
        time.sleep(0.005)
    os._exit(0)


if __name__ == "__main__":
    main()
