"""Given: one HTTP GET, told piece by piece. It has no limits of its own: how long and how much is for you to say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import h11


class Response:
    """The status, the headers, and the body as it comes."""

    def __init__(self, reader: asyncio.StreamReader, http: h11.Connection, head: h11.Response) -> None:
        self.status = head.status_code
        self.headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
        self._reader, self._http = reader, http

    def header(self, name: str) -> str | None:
        """The value of the first field of that name (in lower case), None without one."""
        return next((value for key, value in self.headers if key == name), None)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises OSError or h11.RemoteProtocolError when the body breaks off."""
        while not isinstance(event := await _next(self._reader, self._http), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)


@asynccontextmanager
async def get(url: str, headers: dict[str, str]) -> AsyncIterator[Response]:
    """`async with get(url, headers) as response`, on a connection of its own; redirects are not followed.

    Raises OSError when there is no connection, ValueError for a URL that can't be one (in the host or the port),
    h11.ProtocolError (LocalProtocolError or RemoteProtocolError) for what is no HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is no http URL")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        http = h11.Connection(h11.CLIENT)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        fields = [("Host", parts.netloc), *headers.items()]
        request = h11.Request(
            method="GET", target=target, headers=[(name, value.encode("latin-1")) for name, value in fields]
        )
        writer.write(b"".join(http.send(event) or b"" for event in (request, h11.EndOfMessage())))
        while not isinstance(event := await _next(reader, http), h11.Response):
            pass
        yield Response(reader, http, event)
    finally:
        writer.transport.abort()  # also in the middle of a body that nobody wants any more


async def _next(reader: asyncio.StreamReader, http: h11.Connection) -> h11.Event:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(65536))
    if isinstance(event, h11.ConnectionClosed):
        raise ConnectionError("the connection was closed before the answer")
    return event
