"""A correct bell; the tests of misbehaviour change its `answer`, or its last lines."""

import os
import selectors
import signal
import socket
import sys

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])
selector = selectors.DefaultSelector()


def answer(connection: socket.socket, verb: str, word: str) -> None:
    if verb == "ring":
        connection.sendall(f"dong {word}\n".encode())


def accept(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    selector.register(connection, selectors.EVENT_READ, (connection, bytearray()))


def read(connection: socket.socket, buffer: bytearray) -> None:
    data = connection.recv(65536)
    buffer += data
    while (end := buffer.find(b"\n")) >= 0:
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        answer(connection, *(field.decode() for field in line.split()[:2]))
    if not data:
        selector.unregister(connection)
        connection.close()


def serve() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.create_server(ADDRESS)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            read(*key.data) if key.data else accept(listener)


if __name__ == "__main__":
    serve()
