"""Given: one request to the payment provider. What its answers, and its errors, MEAN is for you to say."""

import asyncio
import json
import os
from typing import Any
from urllib.parse import urlsplit

import h11

PROVIDER = urlsplit(os.environ.get("PROVIDER_URL", "http://127.0.0.1:9000"))
TIMEOUT = int(os.environ.get("PROVIDER_TIMEOUT_MS", 20_000)) / 1000


async def call(path: str, body: dict[str, Any], key: str) -> tuple[int, bytes]:
    """POST `body` to `path` with `Idempotency-Key: "key"`; the status and the body of the answer.

    `key` is sent as it is: use only letters, digits, `-` and `_`. Raises TimeoutError when PROVIDER_TIMEOUT_MS is
    over, OSError when the connection is refused or breaks, h11.RemoteProtocolError when the answer is cut off.
    """
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection(PROVIDER.hostname, PROVIDER.port)
        try:
            return await _exchange(reader, writer, path, json.dumps(body).encode(), key)
        finally:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes, key: str
) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    headers = {
        "Host": PROVIDER.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Idempotency-Key": f'"{key}"',
    }
    request = h11.Request(method="POST", target=path, headers=list(headers.items()))
    writer.write(b"".join(http.send(event) or b"" for event in (request, h11.Data(body), h11.EndOfMessage())))
    status, received = 0, bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            received += event.data
    return status, bytes(received)
