"""The bot API on Starlette and uvicorn: ids of each bot's own, counted in its row, and a queue of one for who waits.

A call that waits runs a race between three: its bot's bell, its client's farewell, and the clock.
"""

import asyncio
import json
import math
import os
import re
import sqlite3
from pathlib import Path
from urllib.parse import parse_qsl

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SECOND = int(os.environ.get("SECOND_MS", 1000)) / 1000
TOKEN = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{1,64}")

db = sqlite3.connect(Path(os.environ.get("STATE_DIR", ".")) / "bots.db", isolation_level=None)
db.executescript("""
PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS bots (token TEXT PRIMARY KEY, last INTEGER NOT NULL DEFAULT 41, allowed TEXT);
CREATE TABLE IF NOT EXISTS updates (token TEXT, id INTEGER, content TEXT, PRIMARY KEY (token, id)) WITHOUT ROWID;
""")

places = {}  # token -> the queue of the call that waits
ending = asyncio.Event()


class Refused(Exception):
    pass


async def refuse(_: Request, refused: Exception) -> Response:
    code, why = refused.args if isinstance(refused, Refused) else (404, "Not Found")
    return JSONResponse({"ok": False, "error_code": code, "description": why}, code)


def ring(token: str, what: str) -> None:
    place = places.pop(token, None)
    if place:
        place.put_nowait(what)


def token_of(request: Request) -> str:
    token = request.path_params["token"]
    if not TOKEN.fullmatch(token):
        raise Refused(404, "Not Found")
    return token


def parsed(text: bytes | str):
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        raise Refused(400, "no JSON") from None


async def parameters(request: Request) -> dict:
    given, body = dict(request.query_params), await request.body()
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    if kind == "application/json" and body:
        document = parsed(body)
        if not isinstance(document, dict):
            raise Refused(400, "no object")
        given |= document
    elif kind == "application/x-www-form-urlencoded":
        given |= parse_qsl(body.decode())
    return given


def integer(given: dict, name: str, otherwise: int) -> int:
    value = given.get(name)
    if value is None or value == "":
        return otherwise
    if isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value):
        return int(value)
    if type(value) is not int:
        raise Refused(400, f"{name} is no integer")
    return value


def found(token: str, limit: int) -> list:
    rows = db.execute("SELECT id, content FROM updates WHERE token = ? ORDER BY id LIMIT ?", (token, limit))
    return [json.loads(content) | {"update_id": number} for number, content in rows]


async def get_updates(request: Request, token: str, given: dict) -> list:
    offset, timeout = integer(given, "offset", 0), min(integer(given, "timeout", 0), 50)
    limit = max(1, min(100, integer(given, "limit", 100)))
    types = given.get("allowed_updates")
    if isinstance(types, str) and types:
        types = parsed(types)
    if types not in (None, "") and not (isinstance(types, list) and all(isinstance(each, str) for each in types)):
        raise Refused(400, "allowed_updates is no list")
    if isinstance(types, list):
        db.execute(
            "INSERT INTO bots (token, allowed) VALUES (?, ?) ON CONFLICT DO UPDATE SET allowed = excluded.allowed",
            (token, json.dumps(types)),
        )
    if offset < 0:
        row = db.execute(
            "SELECT id FROM updates WHERE token = ? ORDER BY id DESC LIMIT 1 OFFSET ?", (token, -offset - 1)
        ).fetchone()
        offset = row[0] if row else 0
    if offset:
        db.execute("DELETE FROM updates WHERE token = ? AND id < ?", (token, offset))
    updates = found(token, limit)
    if not updates and timeout > 0 and not ending.is_set():
        await wait(request, token, timeout * SECOND)
        updates = found(token, limit)
    return updates


async def wait(request: Request, token: str, seconds: float) -> None:
    ring(token, "conflict")
    place = places[token] = asyncio.Queue(1)
    race = [asyncio.create_task(place.get()), asyncio.create_task(farewell(request))]
    try:
        done, _ = await asyncio.wait(race, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for runner in race:
            runner.cancel()
        if places.get(token) is place:
            del places[token]
    if race[0] in done and race[0].result() == "conflict":
        raise Refused(409, "Conflict: terminated by other getUpdates request")


async def farewell(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def delete_webhook(_: Request, token: str, given: dict) -> bool:
    if given.get("drop_pending_updates") in (True, "true", "True"):
        db.execute("DELETE FROM updates WHERE token = ?", (token,))
    return True


async def get_me(_: Request, token: str, given: dict) -> dict:
    return {"id": int(token.split(":")[0]), "is_bot": True, "first_name": "Star", "username": "star_bot"}


METHODS = {"getUpdates": get_updates, "deleteWebhook": delete_webhook, "getMe": get_me}


async def call(request: Request) -> Response:
    token, method = token_of(request), METHODS.get(request.path_params["method"])
    if not method:
        raise Refused(404, "Not Found")
    return JSONResponse({"ok": True, "result": await method(request, token, await parameters(request))})


def is_sane(value, levels=200):
    """json reads NaN and 1e999, which are no JSON when it writes them, and deeper nesting than it can write."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(is_sane(each, levels - 1) for each in inner)


async def ingest(request: Request) -> Response:
    token, body = token_of(request), await request.body()
    if len(body) > 65536:
        raise Refused(413, "too large")
    content = parsed(body)
    kind, value = next(iter(content.items())) if isinstance(content, dict) and len(content) == 1 else ("", None)
    if (
        not re.fullmatch("[a-z_]{1,64}", kind)
        or kind == "update_id"
        or not isinstance(value, dict)
        or not is_sane(value)
    ):
        raise Refused(400, "no update")
    row = db.execute("SELECT allowed FROM bots WHERE token = ?", (token,)).fetchone()
    allowed = json.loads(row[0] or "[]") if row else []
    if allowed and kind not in allowed:
        return JSONResponse({"ok": True, "result": None})
    db.execute("BEGIN")
    ((number,),) = db.execute(
        "INSERT INTO bots (token) VALUES (?) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last", (token,)
    ).fetchall()
    db.execute("INSERT INTO updates VALUES (?, ?, ?)", (token, number, json.dumps(content)))
    db.execute("COMMIT")
    ring(token, "news")
    return JSONResponse({"ok": True, "result": {"update_id": number}})


class Server(uvicorn.Server):
    def handle_exit(self, number, frame) -> None:
        super().handle_exit(number, frame)
        ending.set()
        for token in list(places):
            ring(token, "end")


app = Starlette(
    routes=[
        Route("/bot{token}/{method}", call, methods=["GET", "POST"]),
        Route("/ingest/{token}", ingest, methods=["POST"]),
    ],
    exception_handlers={Refused: refuse, HTTPException: refuse},
)
config = uvicorn.Config(
    app, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), log_level="warning", lifespan="off"
)
Server(config).run()
