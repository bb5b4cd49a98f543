"""Answers every request with 400 and a problem document."""

import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

PROBLEM = json.dumps({"type": "about:blank", "title": "Bad Request", "status": 400}).encode()


class Refuses(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(400)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(PROBLEM)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(PROBLEM)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128


server = Server((os.environ["HOST"], int(os.environ["PORT"])), Refuses)
while True:  # serve_forever() would look at a timer twice a second
    server.handle_request()
