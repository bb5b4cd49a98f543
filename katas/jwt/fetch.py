"""Given: one HTTP GET, told piece by piece. It has no limits of its own: how long and how much is for you to say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import h11


class Response:
    """The status, and the body as it comes."""

    def __init__(self, reader: asyncio.StreamReader, http: h11.Connection, status: int) -> None:
        self.status = status
        self._reader, self._http = reader, http

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises OSError or h11.RemoteProtocolError when the body breaks off."""
        while not isinstance(event := await _next(self._reader, self._http), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)


@asynccontextmanager
async def get(url: str) -> AsyncIterator[Response]:
    """`async with get(url) as response`. Raises OSError when there is no connection; redirects are not followed."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        http = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=parts.path or "/", headers=[("Host", parts.netloc)])
        writer.write(b"".join(http.send(event) or b"" for event in (request, h11.EndOfMessage())))
        while not isinstance(event := await _next(reader, http), h11.Response):
            pass
        yield Response(reader, http, event.status_code)
    finally:
        writer.transport.abort()  # also in the middle of a body that nobody wants any more


async def _next(reader: asyncio.StreamReader, http: h11.Connection) -> h11.Event:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(65536))
    if isinstance(event, h11.ConnectionClosed):
        raise ConnectionError("the connection was closed before the answer")
    return event
