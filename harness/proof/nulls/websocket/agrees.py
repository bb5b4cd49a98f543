"""Opens every connection as it should, answers every Ping and Close that it sees, and says nothing else."""

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
            while data := connection.recv(65536):
                opcode, size = data[0] & 0x0F, data[1] & 0x7F if len(data) > 1 else 0
                payload = bytes(byte ^ data[2 + at % 4] for at, byte in enumerate(data[6 : 6 + size]))
                if opcode in (8, 9) and size < 126:
                    connection.sendall(bytes([0x80 | opcode + opcode % 2, len(payload)]) + payload)
                if opcode == 8:
                    return
        except OSError:
            return


listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=512)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
