"""The poller with threads and blocking sockets: http.client reads, a thread a feed waits, and a deadline cuts.

A time-out of http.client is for one read. So each poll has a guard, a timer thread that shuts its socket down when the
time of the whole poll is over; stopping a feed does the same. Waits are waits on an event, so a deletion wakes them.
"""

import email.utils
import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin, urlsplit

SECOND_MS = int(os.environ.get("SECOND_MS", 1000))
MAX_BODY = int(os.environ.get("MAX_BODY_BYTES", 1 << 20))
MAX_REDIRECTS = int(os.environ.get("MAX_REDIRECTS", 5))
DAY_MS = 86_400_000
DEFAULTS = {"interval_ms": 60_000, "backoff_base_ms": 1000, "backoff_cap_ms": 300_000, "timeout_ms": 30_000}
NAME = re.compile(r"/feeds/([A-Za-z0-9_-]{1,64})(/document)?")
DATES = (
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, \d\d-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d GMT",
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}",
)


class PollFailed(Exception):
    def __init__(self, least_ms=0):
        super().__init__()
        self.least_ms = least_ms


class Guard:
    """Owns the socket of a poll, and shuts it when the time is over or the feed ends."""

    def __init__(self):
        self.lock, self.sock, self.shut = threading.Lock(), None, False

    def watch(self, sock):
        with self.lock:
            self.sock = sock
            if self.shut:
                raise OSError("too late")

    def cut(self):
        with self.lock:
            self.shut = True
            if self.sock:
                with suppress(OSError):  # it has ended already
                    self.sock.shutdown(socket.SHUT_RDWR)


class Lines:
    """A file that remembers the last line that was read of it."""

    def __init__(self, file):
        self.file, self.last = file, b""

    def readline(self, *limit):
        self.last = self.file.readline(*limit)
        return self.last

    def __getattr__(self, name):
        return getattr(self.file, name)


class WholeHead(http.client.HTTPResponse):
    """http.client takes a head that breaks off for a complete one."""

    def begin(self):
        self.fp = Lines(self.fp)
        super().begin()
        if self.fp and self.fp.last not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(b"")


class Connection(http.client.HTTPConnection):
    response_class = WholeHead


class Feed(threading.Thread):
    def __init__(self, url, settings):
        super().__init__(daemon=True)
        self.url, self.settings = url, settings
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.status, self.version, self.failures = "new", 0, 0
        self.found = None  # (url, body, type, etag, last modified)
        self.guard = None

    def run(self):
        while not self.ended.is_set():
            wait_ms = self.once()
            if wait_ms is None or self.ended.wait(wait_ms / 1000):
                return

    def once(self):
        self.guard = Guard()
        if self.ended.is_set():  # stop() may have cut the guard before this one
            return None
        timer = threading.Timer(self.settings["timeout_ms"] / 1000, self.guard.cut)
        timer.daemon = True
        timer.start()
        least = 0
        try:
            if not self.poll(time.monotonic() + self.settings["timeout_ms"] / 1000):
                self.status = "gone"
                return None
        except PollFailed as failure:
            least = failure.least_ms
        except (OSError, ValueError, http.client.HTTPException):
            pass
        else:
            with self.lock:
                self.status, self.failures = "ok", 0
            return self.settings["interval_ms"]
        finally:
            timer.cancel()
        with self.lock:
            self.status, self.failures = "failing", self.failures + 1
        d = self.settings["backoff_cap_ms"]
        if self.failures < 64:
            d = min(d, self.settings["backoff_base_ms"] << (self.failures - 1))
        return max(least, d / 2 + random.random() * d / 2)

    def poll(self, deadline):
        """False when the document is gone for good."""
        url, permanent_so_far, moved_to = self.url, True, self.url
        for _ in range(1 + MAX_REDIRECTS):
            if time.monotonic() > deadline:
                raise PollFailed
            status, fields, body = self.get(url)
            if status not in (301, 302, 303, 307, 308):
                return self.end(status, fields, body, url, moved_to)
            location = fields.get("Location")
            if location is None:
                raise PollFailed
            permanent_so_far = permanent_so_far and status in (301, 308)
            url = urljoin(url, location)
            if permanent_so_far:
                moved_to = url
        raise PollFailed

    def get(self, url):
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise PollFailed
        connection = Connection(parts.hostname, parts.port or 80, timeout=self.settings["timeout_ms"] / 1000)
        try:
            connection.connect()
            self.guard.watch(connection.sock)
            target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
            headers = {"User-Agent": "threads/1", "Connection": "close", **self.conditions(url)}
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            body = b""
            if response.status == 200:
                body = response.read(MAX_BODY + 1)
                if len(body) > MAX_BODY:
                    raise PollFailed
                if response.read(1):  # also raises when the body is not complete
                    raise PollFailed
                if response.length:
                    raise PollFailed
            if self.guard.shut:
                raise PollFailed  # an end that the guard made is no end of a body
            return response.status, response.headers, body
        finally:
            connection.close()

    def conditions(self, url):
        if not self.found or self.found[0] != url:
            return {}
        _, _, _, etag, modified = self.found
        if etag is not None:
            return {"If-None-Match": etag}
        return {"If-Modified-Since": modified} if modified is not None else {}

    def end(self, status, fields, body, url, moved_to):
        etag, modified = fields.get("ETag"), fields.get("Last-Modified")
        if status == 410:
            return False
        with self.lock:
            if status == 200:
                self.found = (url, body, fields.get("Content-Type", "application/octet-stream"), etag, modified)
                self.version += 1
            elif status == 304 and self.conditions(url):
                old = self.found
                self.found = (*old[:3], etag if etag is not None else old[3], modified or old[4])
            else:
                raise PollFailed(pause_ms(fields.get("Retry-After", "")) if status in (429, 503) else 0)
            self.url = moved_to
        return True

    def stop(self):
        self.ended.set()
        if self.guard:
            self.guard.cut()


def pause_ms(text):
    if re.fullmatch(r"[0-9]{1,4000}", text):
        return min(int(text) * SECOND_MS, DAY_MS)
    if re.fullmatch(r"[0-9]+", text):
        return DAY_MS
    if not any(re.fullmatch(form, text) for form in DATES):
        return 0
    parsed = email.utils.parsedate_tz(text)
    if parsed is None:
        return 0
    left = email.utils.mktime_tz((*parsed[:9], 0)) - time.time()
    return min(max(left, 0) * SECOND_MS, DAY_MS)


feeds, feeds_lock = {}, threading.Lock()


def valid(body):
    try:
        wanted = json.loads(body)
        parts = urlsplit(wanted["url"])
        if parts.scheme != "http" or not parts.hostname or parts.port == 0:
            return None
        settings = {name: wanted.get(name, value) for name, value in DEFAULTS.items()}
        if any(type(value) is not int or not 0 < value <= DAY_MS for value in settings.values()):
            return None
        return wanted["url"].partition("#")[0], settings
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def reply(self, status, body=b"", kind="text/plain"):
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def find(self):
        match = NAME.fullmatch(self.path)
        with feeds_lock:
            return match, match and feeds.get(match[1])

    def do_GET(self):
        if self.path == "/healthz":
            return self.reply(200, b"fine")
        match, feed = self.find()
        if not feed or (match[2] and not feed.found):
            return self.reply(404)
        with feed.lock:
            found = feed.found
            state = {"url": feed.url, "status": feed.status, "version": feed.version, "failures": feed.failures}
        if match[2]:
            return self.reply(200, found[1], found[2])
        self.reply(200, json.dumps(state).encode(), "application/json")

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match, _ = self.find()
        if not match or match[2]:
            return self.reply(404)
        with feeds_lock:
            if match[1] in feeds:
                return self.reply(409)
            wanted = valid(body)
            if not wanted:
                return self.reply(400)
            feed = feeds[match[1]] = Feed(*wanted)
        feed.start()
        self.reply(201)

    def do_DELETE(self):
        match, feed = self.find()
        if not feed or match[2]:
            return self.reply(404)
        with feeds_lock:
            feeds.pop(match[1], None)
        feed.stop()
        self.reply(204)

    def do_POST(self):
        self.close_connection = True
        self.reply(405)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))), Handler)
while True:
    server.handle_request()
