"""A poller: it keeps the newest document of each of its feeds, and is a guest that every server likes to have.

web.py and fetch.py are given: one serves your own surface, the other makes one GET, told piece by piece, without
limits and without following anything. The surface stands. What is left is the whole of the kata: the loop of a feed, a
poll with its conditions, redirects and limits, and how long to wait.
"""

import asyncio
import json
import os
import signal
from dataclasses import dataclass
from typing import Any

from web import Answer, Request, problem, serve

SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000  # how long a second of Retry-After lasts
MAX_BODY = int(os.environ.get("MAX_BODY_BYTES", 1 << 20))
MAX_REDIRECTS = int(os.environ.get("MAX_REDIRECTS", 5))

DURATIONS = {"interval_ms": 60_000, "backoff_base_ms": 1000, "backoff_cap_ms": 300_000, "timeout_ms": 30_000}


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
        """Poll, wait, and poll again, until the feed is gone (R1, R2, R5). Nothing ends this loop by accident (R8)."""
        raise NotImplementedError("Feed.run() in solution.py")

    async def poll(self) -> None:
        """Ask, follow redirects, and take what comes, all of it or nothing (R3, R4, R6, R7).

        `async with fetch.get(url, {"User-Agent": ...}) as response` gives response.status, response.header("etag"), and
        `async for piece in response.pieces()`.
        """
        raise NotImplementedError("Feed.poll() in solution.py")


def retry_after(text: str) -> float:
    """The pause that a Retry-After demands, in seconds of yours: 0 if it says nothing that can be understood (R5)."""
    raise NotImplementedError("retry_after() in solution.py")


# -- the surface --------------------------------------------------------------------------------------------------

feeds: dict[str, Feed] = {}
running: dict[str, asyncio.Task[None]] = {}  # the loops of the feeds


def reply(status: int, document: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def put(name: str, body: bytes) -> Answer:
    """A new feed, and its loop: 201, or 400 if what is asked for is not valid, or 409."""
    raise NotImplementedError("put() in solution.py")


async def handle(request: Request) -> Answer:
    kind, _, rest = request.path.removeprefix("/").partition("/")
    name, _, what = rest.partition("/")
    if request.path == "/healthz":
        return Answer(200, b"ok")
    if kind != "feeds" or what not in ("", "document"):
        return problem(404, "there is no such resource")
    if request.method == "PUT" and not what:
        return put(name, request.body)
    feed = feeds.get(name)
    if not feed or (what and not feed.document):
        return problem(404, "there is no such feed, or no document yet")
    if request.method == "DELETE" and not what:
        del feeds[name]
        running.pop(name).cancel()
        return Answer(204)
    if request.method != "GET":
        return problem(405, "GET, PUT and DELETE are all there is")
    if what:
        return Answer(200, feed.document.body, {"Content-Type": feed.document.content_type})
    return reply(200, {"url": feed.url, "status": feed.status, "version": feed.version, "failures": feed.failures})


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), stopping)


if __name__ == "__main__":
    asyncio.run(main())
