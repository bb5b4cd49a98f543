"""A poller: it keeps the newest document of each of its feeds, and is a guest that every server likes to have.

What keeps the promise, and where:

- Each feed is one task that polls, waits, and polls again, so its polls never overlap and no feed holds up another.
- `poll` may stop anywhere, by an error, a limit or the time-out of the whole: what it has learned (document,
  validators, a new address) is written down in one place, `accept`, when the document is complete.
- Every wait is decided in one place, `turn`, and begins when the poll is over.
- A validator goes to the URL that it came from, and to no other.
"""

import asyncio
import calendar
import json
import math
import os
import random
import re
import signal
import time
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import fetch
import h11
from web import Answer, Request, problem, serve

SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000  # how long a second of Retry-After lasts
MAX_BODY = int(os.environ.get("MAX_BODY_BYTES", 1 << 20))
MAX_REDIRECTS = int(os.environ.get("MAX_REDIRECTS", 5))

DAY = 86_400.0
PERMANENT, TEMPORARY = (301, 308), (302, 303, 307)
PATH = re.compile("/feeds/([A-Za-z0-9_-]{1,64})(/document)?")
DURATIONS = {"interval_ms": 60_000, "backoff_base_ms": 1000, "backoff_cap_ms": 300_000, "timeout_ms": 30_000}
DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")  # RFC 9110, 5.6.7


class Failed(Exception):
    """A poll has failed; its server wants to be left alone for `pause` seconds at least."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class Gone(Exception):
    """There will never be a document again."""


@dataclass(frozen=True)
class Document:
    """What a 200 has brought, and from where."""

    url: str
    body: bytes
    content_type: str
    etag: str | None
    last_modified: str | None


class Feed:
    """One feed: where it is polled, how often, and what has come of it."""

    def __init__(self, url: str, interval_ms: int, backoff_base_ms: int, backoff_cap_ms: int, timeout_ms: int) -> None:
        self.url = url
        self.interval, self.timeout = interval_ms / 1000, timeout_ms / 1000
        self.base, self.cap = backoff_base_ms / 1000, backoff_cap_ms / 1000
        self.status, self.version, self.failures = "new", 0, 0
        self.document: Document | None = None

    async def run(self) -> None:
        while self.status != "gone":
            await asyncio.sleep(await self.turn())

    async def turn(self) -> float:
        """Poll once. Returns the seconds to wait before the next poll."""
        try:
            async with asyncio.timeout(self.timeout):
                await self.poll()
        except Gone:
            self.status = "gone"
            return 0
        except Failed as failure:
            return max(failure.pause, self.back_off())
        except (OSError, ValueError, h11.ProtocolError):  # no connection, no URL, no HTTP, no time left
            return self.back_off()
        self.status, self.failures = "ok", 0
        return self.interval

    def back_off(self) -> float:
        """One failure more; the wait after it is drawn anew, from the upper half of what exponential growth allows."""
        self.status, self.failures = "failing", self.failures + 1
        longest = min(self.cap, self.base * 2 ** min(self.failures - 1, 60))
        return random.uniform(longest / 2, longest)

    async def poll(self) -> None:
        """Ask, follow redirects, and take what comes. Raises when there is nothing to take."""
        url = home = self.url
        moved_for_good = True
        for _ in range(MAX_REDIRECTS + 1):
            conditions = self.conditions(url)
            async with fetch.get(url, {"User-Agent": "poller/1.0", **conditions}) as response:
                if response.status not in PERMANENT + TEMPORARY:
                    return await self.accept(response, url, home, bool(conditions))
                location = response.header("location")
            if location is None:
                raise Failed("a redirect to nowhere")
            moved_for_good = moved_for_good and response.status in PERMANENT
            url = urldefrag(urljoin(url, location)).url
            home = url if moved_for_good else home
        raise Failed("too many redirects")

    def conditions(self, url: str) -> dict[str, str]:
        document = self.document
        if not document or document.url != url:
            return {}
        fields = {"If-None-Match": document.etag, "If-Modified-Since": document.last_modified}
        return {name: value for name, value in fields.items() if value}

    async def accept(self, response: fetch.Response, url: str, home: str, conditional: bool) -> None:
        """Take the final response of a poll: all of it, or nothing."""
        if response.status == 410:
            raise Gone
        if response.status in (429, 503):
            raise Failed("not now", retry_after(response.header("retry-after") or ""))
        etag, last_modified = response.header("etag"), response.header("last-modified")
        if response.status == 200:
            content_type = response.header("content-type") or "application/octet-stream"
            self.document = Document(url, await whole(response), content_type, etag, last_modified)
            self.version += 1
        elif response.status == 304 and conditional:
            old = self.document
            self.document = replace(old, etag=etag or old.etag, last_modified=last_modified or old.last_modified)
        else:
            raise Failed(f"answered with {response.status}")
        self.url = home


async def whole(response: fetch.Response) -> bytes:
    """The complete body. Raises Failed when it is too long."""
    body = bytearray()
    async for piece in response.pieces():
        body += piece
        if len(body) > MAX_BODY:
            raise Failed("the document is too long")
    return bytes(body)


def retry_after(text: str) -> float:
    """The pause that a Retry-After demands, in seconds: 0 if it says nothing that can be understood."""
    if re.fullmatch("[0-9]+", text):
        seconds = int(text) if len(text) < 12 else math.inf
    else:
        seconds = http_date(text) - time.time()
    return min(max(seconds, 0) * SECOND, DAY)


def http_date(text: str) -> float:
    """A date in any of the three forms of HTTP, as Unix time; long ago if it is none."""
    for form in DATES:
        try:
            return calendar.timegm(time.strptime(text, form))
        except ValueError:
            continue
    return -math.inf


# -- the surface --------------------------------------------------------------------------------------------------

feeds: dict[str, Feed] = {}
running: dict[str, asyncio.Task[None]] = {}  # the loops of the feeds


def reply(status: int, document: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def wanted(body: bytes) -> dict[str, Any]:
    """What a PUT asks for. Raises ValueError."""
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(url := document.get("url"), str):
        raise ValueError("an object with a url is wanted")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.port == 0:
        raise ValueError("the url has to be an http URL with a host")
    durations = {name: document.get(name, default) for name, default in DURATIONS.items()}
    if not all(type(value) is int and 1 <= value <= DAY * 1000 for value in durations.values()):
        raise ValueError("durations are whole numbers of milliseconds, from 1 to a day")
    return {"url": urldefrag(url).url, **durations}


def put(name: str, body: bytes) -> Answer:
    if name in feeds:
        return problem(409, "there is such a feed; delete it first")
    try:
        feed = feeds[name] = Feed(**wanted(body))
    except (ValueError, RecursionError) as error:
        return problem(400, str(error))
    running[name] = asyncio.create_task(feed.run())
    return reply(201, {"name": name})


async def handle(request: Request) -> Answer:
    if request.path == "/healthz":
        return Answer(200, b"ok")
    match = PATH.fullmatch(request.path)
    if not match:
        return problem(404, "there is no such resource")
    name, document = match[1], match[2]
    if request.method == "PUT" and not document:
        return put(name, request.body)
    feed = feeds.get(name)
    if not feed or (document and not feed.document):
        return problem(404, "there is no such feed, or no document yet")
    if request.method == "DELETE" and not document:
        del feeds[name]
        running.pop(name).cancel()
        return Answer(204)
    if request.method != "GET":
        return problem(405, "GET, PUT and DELETE are all there is")
    if document:
        return Answer(200, feed.document.body, {"Content-Type": feed.document.content_type})
    return reply(200, {"url": feed.url, "status": feed.status, "version": feed.version, "failures": feed.failures})


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    serving = asyncio.create_task(
        serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), stopping)
    )
    await stopping.wait()
    for task in running.values():
        task.cancel()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
