"""Sends back whatever it is sent."""

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


listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
