"""A byte now and then, for ever, and never an end of line."""

import os
import socket
import time

with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as server:
    while True:
        connection, _ = server.accept()
        try:
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)
        except OSError:
            connection.close()
