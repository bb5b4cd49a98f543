"""A thread for each connection, with blocking sockets. The hello is peeked at (MSG_PEEK), so that an ordinary
SSLSocket with the context of its site can do the rest; one watchdog ends handshakes that take too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import threading
import time
from collections import deque
from pathlib import Path

HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8443))
SITES = Path(os.environ["SITES"])
HANDSHAKE = int(os.environ.get("HANDSHAKE_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 2000)) / 1000
LONGEST_HELLO, LARGEST_NOTE, MOST_BYTES, PIECE = 65_536, 1 << 20, 1 << 26, b"x" * 65_536
LONGEST_HEAD = 32_768

threading.stack_size(256 * 1024)
notes: dict[str, bytes] = {}
stopping = threading.Event()
stop_reads, stop_writes = os.pipe()  # the end of the second makes the first readable, for everybody


# -- sites ----------------------------------------------------------------------------------------------------------


def context_of(entry: dict) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(SITES.parent / entry["chain"], SITES.parent / entry["key"])
    if entry.get("client_ca"):
        context.load_verify_locations(SITES.parent / entry["client_ca"])
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Table:
    """All sites of one reading of the list; it never changes."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # of each name the first name of its site
        self.contexts: dict[str, ssl.SSLContext] = {}
        for entry in json.loads(SITES.read_text()):
            first = entry["names"][0].lower()
            self.contexts[first] = context_of(entry)
            for name in entry["names"]:
                self.names.setdefault(name.lower(), first)
        self.default = next(iter(self.contexts))

    def site(self, name: str) -> str:
        parent = name.partition(".")[2]
        return self.names.get(name) or self.names.get(f"*.{parent}") or self.default


table = Table()


def reload() -> None:
    global table
    try:
        table = Table()
    except Exception as error:  # whatever it is, the old table is still good
        print(f"the old sites stay: {type(error).__name__}", flush=True)


# -- the hello ------------------------------------------------------------------------------------------------------


class NoHello(Exception):
    pass


def peek(sock: socket.socket, number: int) -> bytes:
    """The first bytes of what has come, without taking them; waits until so many are there."""
    data = sock.recv(number, socket.MSG_PEEK | socket.MSG_WAITALL)
    if len(data) < number:
        raise NoHello("it ended in the middle")
    return data


def peek_hello(sock: socket.socket) -> bytes:
    """The body of the ClientHello, out of as many records as it has."""
    message, end = b"", 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4]):
        start = peek(sock, end + 1)[end:]
        if start != b"\x16":
            raise NoHello("no handshake")
        size = int.from_bytes(peek(sock, end + 5)[end + 3 :])
        if not 0 < size <= 16_384:
            raise NoHello("no record")
        end += 5 + size
        message += peek(sock, end)[end - size :]
        if message[0] != 1 or int.from_bytes(message[1:4]) > LONGEST_HELLO:
            raise NoHello("no hello, or a long one")
    return message[4 : 4 + int.from_bytes(message[1:4])]


def wishes(hello: bytes) -> tuple[str, list[bytes] | None]:
    """The server name, and the protocols if any are offered."""
    at = 34
    for size in (1, 2, 1):
        at += size + int.from_bytes(hello[at : at + size])
    name, protocols = "", None
    at += 2
    while at + 4 <= len(hello):
        kind, length = struct.unpack_from(">HH", hello, at)
        body, at = hello[at + 4 : at + 4 + length], at + 4 + length
        if kind == 0 and body[2:3] == b"\0":
            name = body[5 : 5 + int.from_bytes(body[3:5])].decode("latin-1").lower()
        if kind == 16:
            protocols, rest = [], body[2:]
            while rest:
                protocols.append(rest[1 : 1 + rest[0]])
                rest = rest[1 + rest[0] :]
    return name, protocols


class Watchdog(threading.Thread):
    """Cuts off the clients whose handshake is not done in time. All have the same time, so the first is due first."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.due: deque[tuple[float, Client]] = deque()
        self.changed = threading.Condition()

    def watch(self, client: Client) -> None:
        with self.changed:
            self.due.append((time.monotonic() + HANDSHAKE, client))
            self.changed.notify()

    def run(self) -> None:
        with self.changed:
            while True:
                while not self.due:
                    self.changed.wait()
                when, client = self.due[0]
                left = when - time.monotonic()
                if left > 0:
                    self.changed.wait(left)
                    continue
                self.due.popleft()
                if not client.established:
                    client.cut()


watchdog = Watchdog()


# -- connections ----------------------------------------------------------------------------------------------------


class Client(threading.Thread):
    """One connection, from its first byte to its last."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self.raw = sock
        self.table = table
        self.tls: ssl.SSLSocket | None = None
        self.buffer = b""
        self.established = False

    def run(self) -> None:
        try:
            if self.shake_hands():
                self.serve()
        except (OSError, ValueError, NoHello, IndexError, struct.error):
            pass
        finally:
            clients.discard(self)
            with contextlib.suppress(OSError):
                (self.tls or self.raw).close()

    def shake_hands(self) -> bool:
        watchdog.watch(self)
        name, protocols = wishes(peek_hello(self.raw))
        if protocols is not None and b"http/1.1" not in protocols:
            self.raw.recv(LONGEST_HELLO * 2, socket.MSG_DONTWAIT)  # or closing would be a reset
            self.raw.sendall(b"\x15\x03\x03\x00\x02\x02\x78")
            return False
        self.site = self.table.site(name)
        context = self.table.contexts[self.site]
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context.wrap_socket(self.raw, server_side=True, do_handshake_on_connect=False)
        self.tls.do_handshake()
        self.established = True
        return True

    def cut(self) -> None:
        """End the connection under the feet of its thread; TLS is not asked."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.tls or self.raw, socket.SHUT_RDWR)

    def serve(self) -> None:
        subject = (self.tls.getpeercert() or {}).get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        self.client = names[0] if names else None
        while self.one_request():
            pass
        self.tls.settimeout(0)  # close_notify; the client's own is not waited for
        with contextlib.suppress(ssl.SSLError, OSError, ValueError):
            self.tls.unwrap()

    def more(self, idle: bool = False) -> bool:
        """Read; who is idle stops waiting when the server is told to stop."""
        if idle and not self.tls.pending():
            poll = select.poll()
            poll.register(self.tls, select.POLLIN)
            poll.register(stop_reads, select.POLLIN)
            if self.tls.fileno() not in dict(poll.poll()):
                return False
        data = self.tls.recv(65_536)
        self.buffer += data
        return bool(data)

    def one_request(self) -> bool:
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > LONGEST_HEAD:
                return self.answer(400, b"", last=True)
            if not self.more(idle=True):
                return False
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
        method, path, version = lines[0].split(" ")
        size = int(fields.get("content-length", 0))
        if size > LARGEST_NOTE or "transfer-encoding" in fields:
            return self.answer(413, b"", last=True)
        while len(self.buffer) < size:
            if not self.more():
                return False
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        last = fields.get("connection", "").lower() == "close" or version == "HTTP/1.0"
        return self.answer(*self.found(method, path, fields.get("host", ""), body), last=last)

    def found(self, method: str, path: str, host: str, body: bytes) -> tuple[int, bytes | int]:
        if self.table.site(host.partition(":")[0].lower()) != self.site:
            return 421, b""
        note = re.fullmatch("/notes/([A-Za-z0-9-]{1,64})", path)
        size = re.fullmatch("/bytes/([0-9]{1,8})", path)
        if (method, path) == ("GET", "/whoami"):
            return 200, json.dumps({"site": self.site, "client": self.client}).encode()
        if note and method == "PUT":
            notes[note[1]] = body
            return 204, b""
        if note and method == "GET" and note[1] in notes:
            return 200, notes[note[1]]
        if size and method == "GET" and int(size[1]) <= MOST_BYTES:
            return 200, int(size[1])
        return 404, b""

    def answer(self, status: int, body: bytes | int, last: bool) -> bool:
        last = last or stopping.is_set()
        size = body if isinstance(body, int) else len(body)
        lines = [f"HTTP/1.1 {status} -"] + ([f"Content-Length: {size}"] if status != 204 else [])
        lines += ["Connection: close"] if last else []
        head = "\r\n".join([*lines, "", ""]).encode()
        if isinstance(body, bytes):
            self.tls.sendall(head + body)
            return not last
        self.tls.sendall(head)
        for at in range(0, size, len(PIECE)):
            self.tls.sendall(PIECE[: size - at])
        return not last


clients: set[Client] = set()


def main() -> None:
    watchdog.start()
    wakeup, signals = socket.socketpair()
    signals.setblocking(False)
    signal.set_wakeup_fd(signals.fileno())
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    listener = socket.create_server((HOST, PORT), backlog=512)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            client = Client(sock)
            clients.add(client)
            client.start()

    threading.Thread(target=accept, daemon=True).start()
    while (number := wakeup.recv(1)[0]) != signal.SIGTERM:
        if number == signal.SIGHUP:
            reload()
    stopping.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    end = time.monotonic() + SHUTDOWN
    os.close(stop_writes)
    for client in list(clients):
        if not client.established:
            client.cut()
    for client in list(clients):
        client.join(max(end - time.monotonic(), 0))
    os._exit(0)


if __name__ == "__main__":
    main()
