"""Accepts every connection, reads what comes, datagrams too, and never says a word."""

import os
import signal
import socket
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def serve(connection: socket.socket) -> None:
    with connection:
        try:
            while connection.recv(65536):
                pass
        except ConnectionError:
            return


def swallow(datagrams: socket.socket) -> None:
    while True:
        datagrams.recv(65536)


ADDRESS = os.environ["HOST"], int(os.environ["PORT"])
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(ADDRESS)
threading.Thread(target=swallow, args=(datagrams,), daemon=True).start()
listener = socket.create_server(ADDRESS, backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
