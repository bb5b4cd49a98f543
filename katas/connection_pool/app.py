"""Given: the endpoints, what an error means to a client, and the end on SIGTERM. The pool is in solution.py."""

import asyncio
import os
import re
import signal
from typing import TYPE_CHECKING

from resp import CommandTimeout, ConnectionLost, ReplyError
from web import Answer, Request, problem, serve

if TYPE_CHECKING:
    from solution import Pool

DRAIN_TIMEOUT = int(os.environ.get("DRAIN_TIMEOUT_MS", 5_000)) / 1000
KEYED = re.compile(r"/(kv|counter|swap)/([A-Za-z0-9_.-]{1,128})")


class PoolTimeout(Exception):
    """No connection within ACQUIRE_TIMEOUT_MS."""


async def answer(pool: "Pool", request: Request) -> Answer:
    """One request, once a connection can be had."""
    if request.path == "/healthz":
        return Answer(200, b"ok")
    found = KEYED.fullmatch(request.path)
    match request.method, *(found.groups() if found else ()):
        case "GET", "kv", key:
            value = await pool.execute("GET", key, safe=True)
            return problem(404, "there is no such key") if value is None else octets(value)
        case "PUT", "kv", key:
            await pool.execute("SET", key, request.body, safe=True)
            return Answer(204)
        case "POST", "counter", key:
            return Answer(200, str(await pool.execute("INCR", key, safe=False)).encode())
        case "POST", "swap", key:
            old = await swap(pool, key, request.body)
            return Answer(204) if old is None else octets(old)
    return problem(404, "there is no such endpoint")


async def swap(pool: "Pool", key: str, value: bytes) -> bytes | None:
    """Set a key, and return what stood there, in one transaction."""
    async with pool.connection() as connection:
        await connection.call("MULTI")
        await connection.call("GET", key)
        await connection.call("SET", key, value)
        old, _ = await connection.call("EXEC")
        if isinstance(old, ReplyError):  # EXEC answers with an array, whatever became of its commands
            raise old
        return old


def octets(value: bytes) -> Answer:
    return Answer(200, value, {"Content-Type": "application/octet-stream"})


async def handle(pool: "Pool", request: Request) -> Answer:
    """What goes wrong behind the gateway, as a client is told of it."""
    try:
        return await answer(pool, request)
    except PoolTimeout:
        return Answer(503, b"no connection became free", {"Retry-After": "1"})
    except (CommandTimeout, TimeoutError):
        return problem(504, "the upstream did not answer in time")
    except (ConnectionLost, OSError) as error:
        return problem(502, f"the upstream failed: {error}")
    except ReplyError as error:
        return problem(502, f"the upstream refused: {error}")


async def main(pool: "Pool") -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    serving = asyncio.create_task(serve(lambda request: handle(pool, request), host, port, stopping))
    await asyncio.wait([serving, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([serving], timeout=DRAIN_TIMEOUT if stopping.is_set() else 0)
    pool.close()
    if serving.done():
        serving.result()  # such as: the port is taken


def run(pool: "Pool") -> None:
    """Serve until SIGTERM, and DRAIN_TIMEOUT_MS longer at most."""
    asyncio.run(main(pool))
