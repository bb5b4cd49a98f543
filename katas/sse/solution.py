"""Streams of events that browsers follow, and resume without a gap.

web.py is given: it reads requests, and writes what you answer. `request.begin(200, HEAD)` sends the head of a response
that has no length, and returns its body: `await body.send(data)` writes a piece, and waits while the client does not
read. The response ends when your handler returns None. When the client leaves, the handler is cancelled: CancelledError
comes out of the `await` where it stands.
"""

import asyncio
import os
import re
import signal

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

stopping = asyncio.Event()


def block(data: str, event: str = "", identifier: str = "") -> bytes:
    """One event as it goes over the wire: `id:`, `event:` if there is a type, `data:` for each line, a blank line."""
    raise NotImplementedError("block() in solution.py")


class Stream:
    """The last REPLAY_EVENTS events of one name, and everybody who follows it."""

    def publish(self, data: str, event: str) -> str:
        """Number the event, keep it, and wake who follows; its id.

        Nothing is awaited here. Whoever awaits something between the number and the append lets another overtake.
        """
        raise NotImplementedError("Stream.publish() in solution.py")

    def resume_point(self, last_id: str) -> tuple[int, bool]:
        """Where a client begins that has seen `last_id` ("" for a fresh one), and whether it is told to reset (S6)."""
        raise NotImplementedError("Stream.resume_point() in solution.py")

    async def follow(self, cursor: int, body: Body) -> None:
        """Send everything from `cursor` on as it comes, and a comment after each HEARTBEAT of silence.

        Return when the stream is closed, when the server stops, or when the next event is not kept any more.
        """
        raise NotImplementedError("Stream.follow() in solution.py")


streams: dict[str, Stream] = {}


async def subscribe(name: str, request: Request) -> Answer | None:
    """GET: 204 if the stream is closed and nothing is owed; else the head, `retry`, maybe a reset, and follow()."""
    raise NotImplementedError("subscribe() in solution.py")


def publish(name: str, request: Request) -> Answer:
    """POST: check the body (400, 413; 410 for a closed stream), then 201 with id and number of subscribers."""
    raise NotImplementedError("publish() in solution.py")


def delete(name: str) -> Answer:
    """DELETE: close the stream for good. Who follows gets what is owed, and then the end."""
    raise NotImplementedError("delete() in solution.py")


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
    """SIGTERM. web.py accepts nobody any more, and waits for the responses that are under way: end them."""
    stopping.set()


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
