"""Greets with a complete INFO, and answers every line alike: +OK and PONG."""

import json
import os
import signal
import socket
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

HOST, PORT = os.environ["HOST"], int(os.environ["PORT"])
INFO = {
    "server_id": "NULL",
    "server_name": "null",
    "version": "2.9.10",
    "proto": 1,
    "host": HOST,
    "port": PORT,
    "headers": False,
    "max_payload": int(os.environ.get("MAX_PAYLOAD", 1 << 20)),
}


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            for _ in lines:
                connection.sendall(b"+OK\r\nPONG\r\n")
        except ConnectionError:
            return


listener = socket.create_server((HOST, PORT), backlog=128)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
