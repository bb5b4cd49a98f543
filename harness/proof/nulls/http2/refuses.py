"""Refuses every call at once with PERMISSION_DENIED."""

import os
import signal
import socket
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

HEADERS, DATA, SETTINGS, PING = 1, 0, 4, 6
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PREFACE = 24  # bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header of HPACK, literal and not indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


BEGIN = b"\x88" + field(b"content-type", b"application/grpc")  # 0x88 is `:status: 200`
DENIED = field(b"grpc-status", b"7") + field(b"grpc-message", b"no")


def answer(stream: int) -> bytes:
    """Trailers alone."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, BEGIN + DENIED)


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as frames:
        try:
            connection.sendall(frame(SETTINGS, 0, 0))
            frames.read(PREFACE)
            while len(head := frames.read(9)) == 9:
                payload = frames.read(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind in (SETTINGS, PING) and not flags & ACK:
                    connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
                elif kind == HEADERS:
                    connection.sendall(answer(stream))
        except OSError:
            return


listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=512)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
