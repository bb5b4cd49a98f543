"""Given: one request to the engine, on a connection of its own. Nothing of the kata is solved here.

    async with ask({"model": ..., "messages": ...}) as reply:
        await reply.head()  # now reply.status and reply.headers are there
        while piece := await reply.read(): ...

However the block is left, the connection is closed with it: that stops the generation. `head` and `read` may be
cancelled, by a time-out for instance, and called again: nothing is lost. What is not read waits in the kernel, and
then in the engine.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11

URL = urlsplit(os.environ.get("ENGINE_URL", "http://127.0.0.1:9000"))


class EngineLost(Exception):
    """The engine can't be reached, or its answer broke off."""


class Reply:
    """What the engine answers: `status` and `headers` after `head()`, then a body in pieces."""

    def __init__(self, http: h11.Connection, reader: asyncio.StreamReader) -> None:
        self.http, self.reader = http, reader
        self.status = 0
        self.headers: dict[str, str] = {}

    async def head(self) -> None:
        """Wait for status and headers, if they are not there yet."""
        if not self.status:
            response = await self._event()
            self.headers = {key.decode(): value.decode("latin-1") for key, value in response.headers}
            self.status = response.status_code

    async def read(self) -> bytes:
        """The next bytes of the body, as they come; b"" at its proper end. Raises EngineLost where it breaks off."""
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _event(self) -> Any:
        try:
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65_536))
        except (OSError, h11.RemoteProtocolError) as error:
            raise EngineLost(f"the engine's answer broke off: {error}") from None
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise EngineLost("the engine closed the connection")
        return event


@asynccontextmanager
async def ask(document: dict[str, Any]) -> AsyncIterator[Reply]:
    """POST the document to /generate. Raises EngineLost if there is nobody."""
    try:
        reader, writer = await asyncio.open_connection(URL.hostname, URL.port)
    except OSError as error:
        raise EngineLost(f"the engine can't be reached: {error}") from None
    try:
        http, body = h11.Connection(h11.CLIENT), json.dumps(document).encode()
        headers = [("Host", URL.netloc), ("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        head = h11.Request(method="POST", target="/generate", headers=headers)
        for event in (head, h11.Data(body), h11.EndOfMessage()):
            writer.write(http.send(event) or b"")
        yield Reply(http, reader)
    finally:
        writer.transport.abort()
