"""An HTTP/1.1 origin server, from bytes.

wire.py is given: it accepts, and calls handle() with each connection. `await wire.line(most)` is everything up to the
next LF, `await wire.some(most)` at least one byte, `await wire.send(data)` writes. What came and was not taken yet
stands in `wire.buffer`; when the client sends no more, EOFError comes out of the `await`, and ends your loop.
"""

import asyncio
import os

from files import Answer, Fields, Request
from wire import Wire, serve

MAX_TARGET = int(os.environ.get("MAX_TARGET", 8000))
MAX_FIELDS = int(os.environ.get("MAX_FIELDS", 16_384))
MAX_BODY = int(os.environ.get("MAX_BODY", 1_048_576))
REQUEST_TIMEOUT = int(os.environ.get("REQUEST_TIMEOUT_MS", 60_000)) / 1000
KEEP_ALIVE = int(os.environ.get("KEEP_ALIVE_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 5000)) / 1000
LINGER = 3.0  # seconds for which a connection that ends is still read
MAX_CHUNK_LINE = 4096

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


class Refused(Exception):
    """What came is no request, or none that is served: it is answered with `status`, and the connection ends."""

    def __init__(self, status: int, why: str = "") -> None:
        super().__init__(why)
        self.status = status


# -- reading --------------------------------------------------------------------------------------------------------


async def read_line(wire: Wire, most: int, status: int) -> bytes:
    """A line without its CRLF; Refused(status) when it is longer than `most` bytes (M1, M5).

    What is a CR or an LF alone to you: an error, a blank, the end of a line?
    """
    raise NotImplementedError("read_line() in solution.py")


async def read_head(wire: Wire) -> Request:
    """Request line and fields, up to the empty line (M1, M2, M5). Match each line as a whole; strip nothing."""
    raise NotImplementedError("read_head() in solution.py")


async def read_fields(wire: Wire) -> Fields:
    """A header or a trailer section: `(name in lower case, value)` for each line, up to the empty one."""
    raise NotImplementedError("read_fields() in solution.py")


def locate(request: Request) -> None:
    """Check Host, and set `request.host` and `request.target` from both forms of a target (M2)."""
    raise NotImplementedError("locate() in solution.py")


def body_length(request: Request) -> int | None:
    """The length of the body in bytes, None if chunks tell it (M3). The one place where it is decided."""
    raise NotImplementedError("body_length() in solution.py")


async def read_body(wire: Wire, request: Request) -> bytes:
    """The body, with a 100 before it if the client waits for one (C3), by its length or its chunks (M4), within M5."""
    raise NotImplementedError("read_body() in solution.py")


# -- the connection -------------------------------------------------------------------------------------------------


async def respond(wire: Wire, request: Request | None, answer: Answer, last: bool) -> None:
    """Status line, Date, the answer's fields, Content-Length where there may be one, `Connection: close`; the body."""
    raise NotImplementedError("respond() in solution.py")


async def handle(wire: Wire) -> None:
    """One connection: a request, its response, the next request (C1 to C6).

    While no request has begun `wire.idle` is true, so that SIGTERM may close the connection; once `wire.stopping` is
    true, the response under way is the last. `asyncio.timeout(seconds)` bounds what is awaited inside of it.
    """
    await wire.send(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")  # unfinished


if __name__ == "__main__":
    asyncio.run(serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), SHUTDOWN))
