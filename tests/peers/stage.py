"""The harness's side without a solution, for tests of its peers; beyond it are raw sockets or foreign clients.

The kernel shows nothing of a client that is a stranger, so a stage is never quiet: what does not come is a failure
after the cap of `harness.waiting`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from harness import waiting
from harness.solution.quiet import Look
from harness.story.record import Record
from harness.wire.network import Network
from harness.wire.tcp import Connection

PATIENCE = 30.0  # seconds, for a machine under any load; a test that gets here has failed
PAUSE = 0.001


class Stage:
    """Stands where a `Solution` would."""

    def __init__(self) -> None:
        self.record = Record(time.monotonic)
        self.network = Network(self.record)

    # -- what `harness.waiting` asks of a scene -----------------------------------------------------------------

    def turn(self, seconds: float = 0.0) -> bool:
        return self.network.turn(seconds)

    def look(self) -> Look:
        return Look(False, "the stage is never quiet")

    def effort(self) -> float:
        return 0.0

    def longest_duration(self) -> float:
        return 0.0

    def require_alive(self, owed: str) -> None:
        """There is no process."""

    def until(self, happened: Callable[[], object], owed: str, to: str = "") -> object:
        return waiting.until(self, happened, owed, to)

    def close(self) -> None:
        self.network.close()


class Script(Stage):
    """A server whose every byte the test decides. The harness's client connects, the test accepts."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.tripwires: list[Callable[[], bool]] = []
        self.accepted: list[socket.socket] = []

    def connect(self, name: str, slow_reader: bool = False) -> Connection:
        return Connection.to(self.network, self.address, name, "server", slow_reader)

    def leave_tripwire(self, tripped: Callable[[], bool], message: str) -> None:
        self.tripwires.append(tripped)

    def accept(self) -> socket.socket:
        """The server's end of the oldest connection that was not accepted yet."""
        self.listener.settimeout(PATIENCE)
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        self.accepted.append(sock)
        return sock

    def play(self, *segments: bytes, ending: str = "") -> None:
        """Accept, send each segment alone, and end with "fin", "reset" or not at all."""
        sock = self.accept()
        for segment in segments:
            sock.sendall(segment)
            self.turn(PAUSE)
        if ending == "reset":
            self.drain(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if ending:
            self.drain(sock)
            sock.close()

    def drain(self, sock: socket.socket) -> bytes:
        """Read what has come: a socket that is closed with unread bytes would reset."""
        sock.setblocking(False)
        data = b""
        while self.turn(PAUSE):
            pass
        try:
            while chunk := sock.recv(1 << 16):
                data += chunk
        except BlockingIOError:
            return data
        return data

    def close(self) -> None:
        super().close()
        self.listener.close()
        for sock in self.accepted:
            sock.close()
