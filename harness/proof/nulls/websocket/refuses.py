"""Opens every connection as it should, answers whatever comes first with a Close 1002, and closes."""

import base64
import hashlib
import os
import re
import signal
import socket
import threading

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as lines:
        try:
            head = b"".join(iter(lines.readline, b"\r\n"))
            key = re.search(rb"(?i)sec-websocket-key:[ \t]*(\S+)", head)
            digest = hashlib.sha1((key[1] if key else b"") + GUID).digest()
            connection.sendall(HEAD % base64.b64encode(digest))
            if connection.recv(65536):
                connection.sendall(b"\x88\x02\x03\xea")
        except OSError:
            return


listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=512)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
