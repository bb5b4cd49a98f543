"""The page of stories, served on the loopback device and loaded again after each run, by server-sent events.

What a page shows was sent by programs that nobody trusts, so its policy (CSP) lets nothing run but its own script. The
script that loads it again is added to it when it is served, and let in by its digest.
"""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.story.page import with_script

NOTHING_YET = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>kata watch</title>
<body><p>No run has told its stories yet.</p></body></html>
"""
SCRIPT = 'new EventSource("/events/%d").addEventListener("reload", () => location.reload());'
EVENTS = re.compile(r"/events/(\d{1,9})")  # after the version that was loaded


class Page:
    """Serves `file` at `url` until it is closed. What is not there yet is said to be so."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.version = 0
        self.closed = False
        self.changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.page = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def reload(self) -> None:
        """The file is new: whoever shows it loads it again."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def newer_than(self, seen: int) -> int:
        """Wait for a version that was not seen yet, or the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed or self.version != seen)
            return self.version

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def content(self) -> bytes:
        """The page with the script that loads it again."""
        version = self.version  # first: if a newer one is served under it, it is loaded once too often, not too seldom
        page = self.file.read_text(encoding="utf-8") if self.file.exists() else NOTHING_YET
        return with_script(page, SCRIPT % version).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    page: Page


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        # A page of another site may know the port, but not make a browser send this name.
        if self.headers.get("Host") != f"127.0.0.1:{self.server.server_address[1]}":
            self.send_error(403)
        elif self.path == "/":
            self._answer(self.server.page.content())
        elif found := EVENTS.fullmatch(self.path):
            self._events(int(found[1]))
        else:
            self.send_error(404)

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _events(self, seen: int) -> None:
        page = self.server.page
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        try:
            self.wfile.write(b"retry: 500\n\n")
            while True:
                seen = page.newer_than(seen)
                if page.closed:
                    return
                self.wfile.write(b"event: reload\ndata: %d\n\n" % seen)
        except ConnectionError:
            return  # the browser went elsewhere

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is logged: the terminal is the learner's."""
