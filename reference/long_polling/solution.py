"""getUpdates: updates wait for their bot, and a bot waits for its updates, and neither misses the other.

What keeps the promise, and where:

- An update is a row, committed before its producer is answered. AUTOINCREMENT never gives an id twice, not even when
  every row is gone, so a bot's offset can't swallow what comes later.
- Only `confirm` deletes. To be sent to somebody changes nothing: answers get lost.
- A call confirms what is there when it comes, and returns what is left. What comes later was not meant by its offset.
- Between the look at the rows and the entry into `waiting` nothing is awaited: an update comes before, and is seen, or
  after, and wakes. Whoever is woken looks at the rows again.
- A bot has one entry in `waiting`, the newest call's. Who leaves removes the entry only if it is still its own.
"""

import asyncio
import json
import math
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from db import db, transaction
from web import Answer, Request, serve

SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000
LONGEST_WAIT, MOST_UPDATES, LARGEST_UPDATE = 50, 100, 65_536  # seconds, updates, bytes
DEEPEST = 200  # levels of JSON; what could be taken in and not given out would stop its bot for good
FAR = 2**62  # beyond every id, and a number that the database can still take
GRACE = 2.0  # seconds; after SIGTERM, for clients that don't read

TOKEN = r"([0-9]{1,20}:[A-Za-z0-9_-]{1,64})"
CALL, INGEST = re.compile(rf"/bot{TOKEN}/([A-Za-z]+)"), re.compile(rf"/ingest/{TOKEN}")
CONFLICT = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running"

db.executescript("""
CREATE TABLE IF NOT EXISTS updates (
    update_id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS updates_of_a_bot ON updates (token, update_id);
CREATE TABLE IF NOT EXISTS bots (token TEXT PRIMARY KEY, allowed TEXT NOT NULL) WITHOUT ROWID;
""")

Parameters = dict[str, Any]


class Refused(Exception):
    """A call that is refused, and changes nothing."""

    def __init__(self, code: int, description: str) -> None:
        self.code, self.description = code, description


# -- what a call says -----------------------------------------------------------------------------------------------


def parameters(request: Request) -> Parameters:
    """From the query and the body. What is null or empty was not given."""
    given: Parameters = dict(parse_qsl(request.path.partition("?")[2]))
    kind = (request.lines("content-type") or [""])[0].partition(";")[0].strip().lower()
    if kind == "application/json" and request.body:
        given |= json_object(request.body)
    elif kind == "application/x-www-form-urlencoded":
        given |= parse_qsl(request.body.decode(errors="replace"))
    return {name: value for name, value in given.items() if value not in (None, "")}


def json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise Refused(400, "Bad Request: the body is no JSON") from None
    if not isinstance(document, dict):
        raise Refused(400, "Bad Request: the body is no object")
    return document


def number(given: Parameters, name: str, otherwise: int, least: int, most: int) -> int:
    """A whole number, or the text of one. What is out of bounds counts as the bound."""
    value = given.get(name, otherwise)
    if isinstance(value, bool) or not re.fullmatch("-?[0-9]{1,1000}", str(value)):
        raise Refused(400, f"Bad Request: {name} is no whole number")
    return min(max(int(value), least), most)


def wanted_types(given: Parameters) -> list[str] | None:
    """`allowed_updates`: a list, or JSON of one; None if nothing is said of it."""
    types = given.get("allowed_updates")
    try:
        types = json.loads(types) if isinstance(types, str) else types
    except (ValueError, RecursionError):
        types = 0
    if types is not None and not (isinstance(types, list) and all(isinstance(each, str) for each in types)):
        raise Refused(400, "Bad Request: allowed_updates is no list of strings")
    return types


# -- what is kept ---------------------------------------------------------------------------------------------------


def can_be_sent(value: Any, levels: int = DEEPEST) -> bool:
    """Python reads NaN and 1e999, which it can't write as JSON, and deeper nesting than it can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(can_be_sent(each, levels - 1) for each in inner)


def pending(token: str, limit: int) -> list[dict[str, Any]]:
    """The oldest updates that are not confirmed."""
    rows = db.execute(
        "SELECT update_id, content FROM updates WHERE token = ? ORDER BY update_id LIMIT ?", (token, limit)
    )
    return [{"update_id": update_id, **json.loads(content)} for update_id, content in rows]


def confirm(token: str, offset: int) -> None:
    """Forget what is older than `offset`; a negative one leaves so many."""
    if offset > 0:
        db.execute("DELETE FROM updates WHERE token = ? AND update_id < ?", (token, offset))
    elif offset < 0:
        newest = "SELECT update_id FROM updates WHERE token = ? ORDER BY update_id DESC LIMIT ?"
        db.execute(f"DELETE FROM updates WHERE token = ? AND update_id NOT IN ({newest})", (token, token, -offset))


def allow(token: str, types: list[str]) -> None:
    db.execute("INSERT OR REPLACE INTO bots (token, allowed) VALUES (?, ?)", (token, json.dumps(types)))


def is_allowed(token: str, kind: str) -> bool:
    row = db.execute("SELECT allowed FROM bots WHERE token = ?", (token,)).fetchone()
    types = json.loads(row[0]) if row else []
    return not types or kind in types


# -- who waits ------------------------------------------------------------------------------------------------------

waiting: dict[str, asyncio.Future[Refused | None]] = {}  # by token: the one call that waits
stopping = asyncio.Event()


def end_wait(token: str, why: Refused | None = None) -> None:
    """Whoever waits for this bot goes on: to look again, or to be refused."""
    turn = waiting.pop(token, None)
    if turn and not turn.done():
        turn.set_result(why)


async def wait(token: str, seconds: float) -> None:
    """Until there is something new, or the time is over. Raises Refused when a later call takes the place."""
    end_wait(token, Refused(409, CONFLICT))
    turn = waiting[token] = asyncio.get_running_loop().create_future()
    try:
        async with asyncio.timeout(seconds):
            why = await turn
    except TimeoutError:
        return
    finally:
        if waiting.get(token) is turn:
            del waiting[token]
    if why:
        raise why


# -- the methods ----------------------------------------------------------------------------------------------------


async def get_updates(token: str, given: Parameters) -> list[dict[str, Any]]:
    offset = number(given, "offset", 0, -FAR, FAR)
    limit = number(given, "limit", MOST_UPDATES, 1, MOST_UPDATES)
    seconds = number(given, "timeout", 0, 0, LONGEST_WAIT) * SECOND
    types = wanted_types(given)
    with transaction():
        if types is not None:
            allow(token, types)
        confirm(token, offset)
    found = pending(token, limit)
    if found or not seconds or stopping.is_set():
        return found
    await wait(token, seconds)
    return pending(token, limit)


async def delete_webhook(token: str, given: Parameters) -> bool:
    if str(given.get("drop_pending_updates", False)).lower() in ("true", "1"):
        confirm(token, FAR)
    return True


async def get_me(token: str, given: Parameters) -> dict[str, Any]:
    return {"id": int(token.partition(":")[0]), "is_bot": True, "first_name": "Kata", "username": "kata_bot"}


def ingest(token: str, body: bytes) -> dict[str, int] | None:
    """Keep an update, and wake its bot; None if the bot does not want its type."""
    if len(body) > LARGEST_UPDATE:
        raise Refused(413, "Request Entity Too Large")
    content = json_object(body)
    kinds = list(content)
    if len(kinds) != 1 or not re.fullmatch("[a-z_]{1,64}", kinds[0]) or kinds[0] == "update_id":
        raise Refused(400, "Bad Request: an update has one member, named by its type")
    if not isinstance(content[kinds[0]], dict):
        raise Refused(400, "Bad Request: the member of an update is an object")
    if not can_be_sent(content):
        raise Refused(400, "Bad Request: a number is too large, or the nesting too deep")
    if not is_allowed(token, kinds[0]):
        return None
    row = db.execute("INSERT INTO updates (token, content) VALUES (?, ?)", (token, json.dumps(content)))
    end_wait(token)
    return {"update_id": row.lastrowid or 0}


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


def stop() -> None:
    """SIGTERM: who waits is answered now."""
    stopping.set()
    for token in list(waiting):
        end_wait(token)


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
