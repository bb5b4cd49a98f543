"""Answers every request with success: the members of the request's JSON, and an id."""

import itertools
import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

numbers = itertools.count(1)


def members(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


class Agrees(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = f"id-{next(numbers)}"
        status = 201 if self.command == "POST" else 200
        body = json.dumps({**members(sent), "id": name, "status": "succeeded", "data": []}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"{self.path.rstrip('/')}/{name}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128


server = Server((os.environ["HOST"], int(os.environ["PORT"])), Agrees)
while True:  # serve_forever() would look at a timer twice a second
    server.handle_request()
