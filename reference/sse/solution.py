"""Streams of events that browsers follow, and resume without a gap.

What keeps the promise, and where:

- Events of a stream are numbered, and the last REPLAY_EVENTS of them stand in one ring. A subscription is a number: the
  next one to send. So replay and live are the same loop (`Stream.follow`), and nothing is buffered for anybody.
- `publish` numbers, appends and wakes without an `await` in between: there is one order, and ids follow it.
- A subscription counts from before its head is sent, so who has the head misses nothing.
- A subscription whose next event has left the ring ends; its client comes back, and is told to reset.
- An id carries the life of this process. An id of another life is unknown, whatever its number.
"""

import asyncio
import json
import os
import re
import secrets
import signal
from collections import deque
from typing import Any

from web import Answer, Request, problem, serve
from web import Stream as Body

HEARTBEAT = int(os.environ.get("HEARTBEAT_MS", 15_000)) / 1000
REPLAY_EVENTS = int(os.environ.get("REPLAY_EVENTS", 100))
RETRY_MS = int(os.environ.get("RETRY_MS", 1000))
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 2000)) / 1000

PATH = re.compile(r"/streams/([A-Za-z0-9_-]{1,64})")
LONGEST_DATA, LONGEST_TYPE = 65_536, 64
RESET = "stream-reset"
HEAD = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
LIFE = secrets.token_hex(4)

stopping = asyncio.Event()


def block(data: str, event: str = "", identifier: str = "") -> bytes:
    """One event as it goes over the wire. Only CRLF, LF and CR end a line there; str.splitlines knows more."""
    lines = [f"id: {identifier}"] if identifier else []
    lines += [f"event: {event}"] if event else []
    lines += [f"data: {line}" for line in re.split("\r\n|\n|\r", data)]
    return "\n".join([*lines, "", ""]).encode()


class Stream:
    """The last events of one name, and everybody who follows it."""

    def __init__(self) -> None:
        self.ring: deque[bytes] = deque(maxlen=REPLAY_EVENTS)
        self.next = 1  # the number of the next event
        self.subscribers = 0
        self.closed = False
        self.news = asyncio.Event()

    @property
    def oldest(self) -> int:
        return self.next - len(self.ring)

    def publish(self, data: str, event: str) -> str:
        identifier = f"{LIFE}-{self.next}"
        self.ring.append(block(data, event, identifier))
        self.next += 1
        self.wake()
        return identifier

    def wake(self) -> None:
        """Everybody looks again; who comes later waits for the next time."""
        self.news.set()
        self.news = asyncio.Event()

    def close(self) -> None:
        self.closed = True
        self.wake()

    def resume_point(self, last_id: str) -> tuple[int, bool]:
        """The number of the first event to send, and whether a reset must be told before it."""
        if not last_id:
            return self.next, False
        life, _, number = last_id.partition("-")
        if life == LIFE and number.isdecimal() and self.oldest <= int(number[:20]) + 1 <= self.next:
            return int(number) + 1, False
        return self.oldest, True

    async def follow(self, cursor: int, body: Body) -> None:
        """Send everything from `cursor` on, to the end of the stream, or of the server, or until it is out of reach."""
        while True:
            news = self.news
            while cursor < self.next:
                if cursor < self.oldest:
                    return
                await body.send(self.ring[cursor - self.oldest])
                cursor += 1
            if self.closed or stopping.is_set():
                return
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await news.wait()
            except TimeoutError:
                await body.send(b":\n\n")


streams: dict[str, Stream] = {}


async def subscribe(name: str, request: Request) -> Answer | None:
    stream = streams.setdefault(name, Stream())
    cursor, reset = stream.resume_point((request.lines("last-event-id") or [""])[0])
    if stream.closed and cursor == stream.next:
        return Answer(204)
    stream.subscribers += 1
    try:
        body = request.begin(200, HEAD)
        await body.send(f"retry: {RETRY_MS}\n\n".encode() + (block("events are missing", RESET) if reset else b""))
        await stream.follow(cursor, body)
    finally:
        stream.subscribers -= 1
        if not (stream.subscribers or stream.closed or stream.next > 1):
            streams.pop(name, None)  # somebody only listened: nothing of it is kept
    return None


def publish(name: str, request: Request) -> Answer:
    stream = streams.get(name)
    if stream and stream.closed:
        return problem(410, "the stream is closed")
    try:
        data, event = publication(request.body)
    except ValueError as error:
        return problem(400, str(error))
    if len(data.encode()) > LONGEST_DATA:
        return problem(413, f"data is longer than {LONGEST_DATA} bytes")
    stream = streams.setdefault(name, Stream())
    document = {"id": stream.publish(data, event), "subscribers": stream.subscribers}
    return Answer(201, json.dumps(document).encode(), {"Content-Type": "application/json"})


def publication(body: bytes) -> tuple[str, str]:
    """Data and type. Raises ValueError; a text with unpaired surrogates has no UTF-8 form, which is one too."""
    try:
        document: Any = json.loads(body.decode())
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("an object is wanted")
    data, event = document.get("data"), document.get("event", "")
    if not isinstance(data, str) or not isinstance(event, str):
        raise ValueError("data, and event if there is one, are strings")
    if len(event) > LONGEST_TYPE or event == RESET or re.search("[\r\n]", event):
        raise ValueError("this can't be the type of an event")
    (data + event).encode()
    return data, event


def delete(name: str) -> Answer:
    streams.setdefault(name, Stream()).close()
    return Answer(204)


async def handle(request: Request) -> Answer | None:
    found = PATH.fullmatch(request.path)
    if not found:
        return problem(404, "there is no such stream")
    match request.method:
        case "GET":
            return await subscribe(found[1], request)
        case "POST":
            return publish(found[1], request)
        case "DELETE":
            return delete(found[1])
    refusal = problem(405, "only GET, POST and DELETE are known here")
    return Answer(405, refusal.body, refusal.headers | {"Allow": "GET, POST, DELETE"})


def stop() -> None:
    stopping.set()
    for stream in streams.values():
        stream.wake()


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    serving = asyncio.create_task(serve(handle, host, port, stopping))
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([serving], timeout=SHUTDOWN if stopping.is_set() else 0)
    if serving.done():
        serving.result()  # such as: the port is taken


if __name__ == "__main__":
    asyncio.run(main())
