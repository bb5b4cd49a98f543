"""Sends back whatever it is sent, over TCP and UDP."""

import os
import signal
import socket
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def serve(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except ConnectionError:
            return


def reflect(datagrams: socket.socket) -> None:
    while True:
        datagrams.sendto(*datagrams.recvfrom(65536))


ADDRESS = os.environ["HOST"], int(os.environ["PORT"])
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(ADDRESS)
threading.Thread(target=reflect, args=(datagrams,), daemon=True).start()
listener = socket.create_server(ADDRESS, backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
