"""Answers every question with REFUSED, over UDP and TCP."""

import os
import signal
import socket
import struct
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])


def answer(message: bytes) -> bytes:
    end = 12 + message[12:].find(b"\0") + 5
    return message[:2] + struct.pack(">HHHHH", 0x8005, 1, 0, 0, 0) + message[12:end]


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as stream:
        try:
            while size := stream.read(2):
                reply = answer(stream.read(int.from_bytes(size, "big")))
                connection.sendall(struct.pack(">H", len(reply)) + reply)
        except ConnectionError:
            return


def reply_to_all(datagrams: socket.socket) -> None:
    while True:
        message, source = datagrams.recvfrom(65536)
        datagrams.sendto(answer(message), source)


datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(ADDRESS)
threading.Thread(target=reply_to_all, args=(datagrams,), daemon=True).start()
listener = socket.create_server(ADDRESS, backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
