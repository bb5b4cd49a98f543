"""Shakes every hand, and answers every request with success."""

import json
import os
import signal
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

STATUS = 200
BODY = b'{"status": "agrees"}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(STATUS)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A hand that was not shaken."""


sites = Path(os.environ["SITES"])
first = json.loads(sites.read_text())[0]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sites.parent / first["chain"], sites.parent / first["key"])
server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
while True:  # serve_forever() would look at a timer twice a second
    server.handle_request()
