"""One connection: bytes with deadlines, a polite end, and who is idle when SIGTERM comes."""

import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Self

LINGER = 3.0  # seconds


class Refused(Exception):
    """What came is no request, or none that is served."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Connection:
    everyone: ClassVar[dict[Self, threading.Thread]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()
    stopping: ClassVar[bool] = False

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.buffer = bytearray()
        self.idle = False
        self.ended = False  # the client sends no more
        self.allow(None)

    # -- everybody --

    @classmethod
    def accept(cls, listener: socket.socket, converse: Callable[[Self], None]) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                stream, _ = listener.accept()
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = cls(stream)
                thread = threading.Thread(target=connection.run, args=(converse,), daemon=True)
                with cls.lock:
                    cls.everyone[connection] = thread
                thread.start()

    @classmethod
    def stop_all(cls, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with cls.lock:
            cls.stopping = True
            threads = list(cls.everyone.values())
            for connection in cls.everyone:
                if connection.idle:
                    with suppress(OSError):
                        connection.stream.shutdown(socket.SHUT_RD)  # its thread wakes up, and reads an end
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))

    def run(self, converse: Callable[[Self], None]) -> None:
        try:
            converse(self)
        except (EOFError, OSError):
            pass  # the client has gone
        except Exception:
            traceback.print_exc()
        finally:
            with self.lock:
                del self.everyone[self]
            self.stream.close()

    # -- bytes --

    def allow(self, seconds: float | None, each: bool = False) -> None:
        """From now on reading may take this long: in all, or (each) until something comes."""
        self.seconds, self.each = seconds, each
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def more(self) -> None:
        if self.deadline is None or self.each:
            self.stream.settimeout(self.seconds)
        elif (left := self.deadline - time.monotonic()) > 0:
            self.stream.settimeout(left)
        else:
            raise Refused(408)
        try:
            data = self.stream.recv(65_536)
        except TimeoutError:
            raise Refused(408) from None
        if not data:
            self.ended = True
            raise EOFError
        self.buffer += data

    def wait_for_a_request(self, seconds: float) -> bool:
        """Whether one has begun; not if none does within `seconds`, if the client ends, or if the server stops."""
        with self.lock:
            self.idle = not self.buffer
            if self.idle and self.stopping:
                return False
        try:
            self.allow(seconds)
            while not self.buffer:
                self.more()
        except (EOFError, Refused):
            return False
        finally:
            self.idle = False
        return True

    def line(self, most: int, status: int) -> str:
        """A line without its CRLF; Refused(status) when it is longer than `most`."""
        while (end := self.buffer.find(b"\n", 0, most + 2)) < 0:
            if len(self.buffer) >= most + 2:
                raise Refused(status)
            self.more()
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        if not line.endswith(b"\r\n"):
            raise Refused(400)
        return line[:-2].decode("latin-1")

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def send(self, data: bytes) -> None:
        self.stream.settimeout(None)
        self.stream.sendall(data)

    def end(self) -> None:
        """Stop writing, and throw away what still comes: closing now would reset the client before it has read."""
        self.stream.shutdown(socket.SHUT_WR)
        self.allow(LINGER)
        with suppress(Refused, EOFError):
            while not self.ended:
                self.buffer.clear()
                self.more()
