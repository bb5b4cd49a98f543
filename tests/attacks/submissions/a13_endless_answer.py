"""Bytes without an end to whoever connects."""

import os
import socket

with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as server:
    while True:
        connection, _ = server.accept()
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            connection.close()
