"""A browser that nobody here wrote, and a relay between it and a solution, on one origin.

The relay serves a page, passes the requests for streams on, remembers their heads, and can cut the connections: then it
is seen on the wire how the browser comes back. What the page's script sees it reports to the relay. In a page the word
`UPSTREAM` stands for host and port of the solution: a WebSocket may go there from any page.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 90.0  # seconds, for a browser that starts on a machine under any load
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


class Relay(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: tuple[str, int], page: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        text = (PROGRAMS / page).read_text(encoding="utf-8")
        self.page = text.replace("UPSTREAM", f"{upstream[0]}:{upstream[1]}").encode()
        self.last_ids: list[str | None] = []  # of each request for a stream, oldest first
        self.reports: list[dict[str, Any]] = []
        self._open: list[http.client.HTTPConnection] = []
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/page"

    def until(self, happened: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        with self._changed:
            while not happened():
                assert self._changed.wait(max(end - time.monotonic(), 0)) or happened(), f"{what} did not come"

    def cut(self) -> None:
        """Break all streams off that are passed on now."""
        for connection in self._open:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(2)
        self._open.clear()

    def reported(self, report: dict[str, Any]) -> None:
        with self._changed:
            self.reports.append(report)
            self._changed.notify_all()

    def asked(self, last_id: str | None) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self.upstream)
        with self._changed:
            self.last_ids.append(last_id)
            self._open.append(connection)
            self._changed.notify_all()
        return connection


class Handler(BaseHTTPRequestHandler):
    server: Relay

    def log_message(self, *_: object) -> None:
        """The tests tell what matters."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.reported(json.loads(body))  # first: the page sends its next report once this one is answered
        self.answer(204, b"")

    def do_GET(self) -> None:
        if self.path == "/page":
            self.answer(200, self.server.page)
        elif self.path.startswith("/streams/"):
            self.pass_on()
        else:
            self.answer(404, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def pass_on(self) -> None:
        """A stream, as it comes, until either side ends or the test cuts it."""
        last_id = self.headers.get("Last-Event-ID")
        connection = self.server.asked(last_id)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", self.path, headers={"Last-Event-ID": last_id} if last_id else {})
            response = connection.getresponse()
            self.send_response(response.status)
            if kind := response.headers["Content-Type"]:
                self.send_header("Content-Type", kind)
            self.end_headers()
            while data := response.read1(1 << 16):
                self.wfile.write(data)
                self.wfile.flush()


def require_chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        why = "chromium is not installed; on Debian: apt install chromium"
        if os.environ.get("REQUIRE_ORACLES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextmanager
def chromium(relay: Relay, profile: Path) -> Iterator[None]:
    """A headless browser on the relay's page."""
    words = [require_chromium(), *FLAGS, f"--user-data-dir={profile}", relay.url]
    quiet = subprocess.DEVNULL
    browser = subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        end(browser, profile)


def end(browser: subprocess.Popen[bytes], profile: Path) -> None:
    """Kill it, and remove the folder of its socket, which lies outside of the profile."""
    os.killpg(browser.pid, signal.SIGKILL)
    browser.wait()
    socket = profile / "SingletonSocket"
    if socket.is_symlink():
        shutil.rmtree(socket.readlink().parent)
