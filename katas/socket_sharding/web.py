"""Given: one request on one connection, answered by one worker. Nothing of the kata is solved here."""

import asyncio
import json
import re
from http import HTTPStatus
from urllib.parse import urlsplit

TARGET = re.compile(r"GET (/jobs/[A-Za-z0-9-]{1,64}|/) HTTP/1\.[01]")


async def read(reader: asyncio.StreamReader) -> str:
    """The head of the request. Raises OSError, EOFError or asyncio.LimitOverrunError when there will be none."""
    return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")


async def respond(writer: asyncio.StreamWriter, head: str, worker: dict, upstream: str) -> None:
    """Answer a request. `worker` is what the answer tells: {"worker": number, "pid": number, "release": string}."""
    found = TARGET.match(head)
    if not found:
        return await answer(writer, 404, {})
    if found[1] == "/":
        return await answer(writer, 200, worker)
    try:
        result = await ask(upstream, found[1])
    except (OSError, EOFError, ValueError):
        return await answer(writer, 502, worker)
    await answer(writer, 200, worker | {"result": result})


async def ask(upstream: str, target: str) -> str:
    """GET a target from the upstream service, however long it takes. Raises OSError, EOFError or ValueError."""
    place = urlsplit(upstream)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = re.search(r"\r\ncontent-length: *(\d+)\r\n", head)
        if not head.startswith("http/1.1 200 ") or not length:
            raise ValueError("no answer to go on with")
        return (await reader.readexactly(int(length[1]))).decode()
    finally:
        writer.close()


async def answer(writer: asyncio.StreamWriter, status: int, document: dict) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()
