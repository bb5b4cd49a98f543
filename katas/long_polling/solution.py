"""getUpdates: updates wait for their bot, and a bot waits for its updates, and neither misses the other.

web.py is given: it reads requests, and writes what you answer. When the client leaves, the handler is cancelled:
CancelledError comes out of the `await` where it stands. db.py is given: `db.execute(...)` commits each statement by
itself, and `with transaction():` several of them together.
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from db import db
from web import Answer, Request, serve

SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000
LONGEST_WAIT, MOST_UPDATES, LARGEST_UPDATE = 50, 100, 65_536  # seconds, updates, bytes
GRACE = 2.0  # seconds; after SIGTERM, for clients that don't read

TOKEN = r"([0-9]{1,20}:[A-Za-z0-9_-]{1,64})"
CALL, INGEST = re.compile(rf"/bot{TOKEN}/([A-Za-z]+)"), re.compile(rf"/ingest/{TOKEN}")
CONFLICT = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"

db.executescript("""
CREATE TABLE IF NOT EXISTS bots (token TEXT PRIMARY KEY, allowed TEXT NOT NULL) WITHOUT ROWID;
-- The updates are yours. Ids rise, and are never used again, not even when all rows are gone.
""")

Parameters = dict[str, Any]


class Refused(Exception):
    """A call that is refused, and changes nothing: `raise Refused(400, "Bad Request: why")`."""

    def __init__(self, code: int, description: str) -> None:
        self.code, self.description = code, description


# -- what a call says -----------------------------------------------------------------------------------------------


def parameters(request: Request) -> Parameters:
    """From the query (`request.path` has it) and the body, a form or JSON. What is null or empty was not given."""
    raise NotImplementedError("parameters() in solution.py")


# -- what is kept ---------------------------------------------------------------------------------------------------


def ingest(token: str, body: bytes) -> dict[str, int] | None:
    """Check an update (400, 413), keep it, and wake its bot: {"update_id": ...}; None if its type is not wanted."""
    raise NotImplementedError("ingest() in solution.py")


def pending(token: str, limit: int) -> list[dict[str, Any]]:
    """The oldest updates that are not confirmed."""
    raise NotImplementedError("pending() in solution.py")


def confirm(token: str, offset: int) -> None:
    """Forget what is older than `offset`; a negative one leaves so many."""
    raise NotImplementedError("confirm() in solution.py")


# -- who waits ------------------------------------------------------------------------------------------------------

stopping = asyncio.Event()


async def wait(token: str, seconds: float) -> None:
    """Until an update has come for this bot, or the time is over. Raises Refused when a later call takes the place.

    Nothing may be awaited between the look that found nothing and the entry of this call among those who wait.
    """
    raise NotImplementedError("wait() in solution.py")


def stop() -> None:
    """SIGTERM. web.py accepts nobody any more, and waits for the calls that are under way: wake those who wait."""
    stopping.set()


# -- the methods ----------------------------------------------------------------------------------------------------


async def get_updates(token: str, given: Parameters) -> list[dict[str, Any]]:
    """Read offset, limit, timeout and allowed_updates; confirm; return what is pending, or wait for it first."""
    raise NotImplementedError("get_updates() in solution.py")


async def delete_webhook(token: str, given: Parameters) -> bool:
    """There is no webhook to delete; but with drop_pending_updates all that is pending is confirmed."""
    raise NotImplementedError("delete_webhook() in solution.py")


async def get_me(token: str, given: Parameters) -> dict[str, Any]:
    return {"id": int(token.partition(":")[0]), "is_bot": True, "first_name": "Kata", "username": "kata_bot"}


# -- HTTP -----------------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[str, Parameters], Awaitable[Any]]] = {
    "getUpdates": get_updates,
    "deleteWebhook": delete_webhook,
    "getMe": get_me,
}


async def call(request: Request) -> Any:
    path = request.path.partition("?")[0]
    if request.method == "POST" and (found := INGEST.fullmatch(path)):
        return ingest(found[1], request.body)
    found = CALL.fullmatch(path)
    method = METHODS.get(found[2]) if found else None
    if not found or not method or request.method not in ("GET", "POST"):
        raise Refused(404, "Not Found")
    return await method(found[1], parameters(request))


async def handle(request: Request) -> Answer:
    try:
        status, document = 200, {"ok": True, "result": await call(request)}
    except Refused as refused:
        status = refused.code
        document = {"ok": False, "error_code": refused.code, "description": refused.description}
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    serving = asyncio.create_task(serve(handle, host, port, stopping))
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([serving], timeout=GRACE if stopping.is_set() else 0)
    if serving.done():
        serving.result()  # such as: the port is taken


if __name__ == "__main__":
    asyncio.run(main())
