"""An HTTP/1.1 origin server, from bytes.

What keeps the promise, and where:

- One function per element of the grammar, and whatever does not match it is `Refused`: answered once, and the
  connection ends. Behind an error nobody knows where the next request begins.
- `body_length` is the only place that decides where a message ends (RFC 9112 §6.3).
- A connection is one loop: read a request to its very end, answer it, read the next. So pipelined requests are answered
  in order, and a client that does not read is asked for no more.
- An answer is made without an `await`, in files.py: nobody comes in between a precondition and the change.
"""

import asyncio
import os
import re
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus

from files import Answer, Fields, Request, answer, problem
from wire import TooLong, Wire, serve

MAX_TARGET = int(os.environ.get("MAX_TARGET", 8000))
MAX_FIELDS = int(os.environ.get("MAX_FIELDS", 16_384))
MAX_BODY = int(os.environ.get("MAX_BODY", 1_048_576))
REQUEST_TIMEOUT = int(os.environ.get("REQUEST_TIMEOUT_MS", 60_000)) / 1000
KEEP_ALIVE = int(os.environ.get("KEEP_ALIVE_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 5000)) / 1000
LINGER = 3.0  # seconds for which a connection that ends is still read
MAX_CHUNK_LINE = 4096

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/([0-9])\.([0-9])" % TOKEN)
FIELD_LINE = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*?)[ \t]*" % TOKEN)
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")
LENGTH = re.compile(r"[0-9]{1,18}")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
ABSOLUTE = re.compile(r"https?://([^/?]*)(.*)", re.I)


class Refused(Exception):
    """What came is no request, or none that is served: it is answered with `status`, and the connection ends."""

    def __init__(self, status: int, why: str = "") -> None:
        super().__init__(why)
        self.status = status


# -- reading --------------------------------------------------------------------------------------------------------


async def read_line(wire: Wire, most: int, status: int) -> bytes:
    """A line without its CRLF. A CR or an LF alone ends no line, and belongs nowhere else either (§2.2)."""
    try:
        line = await wire.line(most)
    except TooLong:
        raise Refused(status, "a line is too long") from None
    if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        raise Refused(400, "CR and LF stand together, at the end of a line")
    return line[:-2]


async def read_head(wire: Wire) -> Request:
    line = await read_line(wire, MAX_TARGET + 64, 414)
    if not line:  # one empty line is forgiven (§2.2)
        line = await read_line(wire, MAX_TARGET + 64, 414)
    found = REQUEST_LINE.fullmatch(line)
    if not found:
        raise Refused(400, "this is no request line")
    method, target, major, minor = (part.decode() for part in found.groups())
    if len(target) > MAX_TARGET:
        raise Refused(414)
    if major != "1":
        raise Refused(505)
    request = Request(method, target, min(int(minor), 1), await read_fields(wire))
    locate(request)
    return request


async def read_fields(wire: Wire) -> Fields:
    """A header or a trailer section, up to the empty line."""
    fields, left = [], MAX_FIELDS
    while line := await read_line(wire, left + 2, 431):
        left -= len(line) + 2
        found = FIELD_LINE.fullmatch(line)
        if not found:  # such as: a blank before the colon, a folded line, a control character
            raise Refused(400, "this is no field line")
        fields.append((found[1].decode().lower(), found[2].decode("latin-1")))
    return fields


def locate(request: Request) -> None:
    """Host and path, from the target and from Host (§3.2)."""
    hosts = request.lines("host")
    if len(hosts) > 1 or (not hosts and request.minor) or not all(map(HOST.fullmatch, hosts)):
        raise Refused(400, "one valid Host is wanted")
    request.host = "".join(hosts)
    if absolute := ABSOLUTE.fullmatch(request.target):
        request.host, rest = absolute.groups()
        request.target = rest if rest.startswith("/") else "/" + rest
    elif not request.target.startswith("/") and (request.method, request.target) != ("OPTIONS", "*"):
        raise Refused(400, "a target begins with a slash")


def body_length(request: Request) -> int | None:
    """The length of the body in bytes, None if chunks tell it (§6.3)."""
    codings, lengths = request.elements("transfer-encoding"), request.elements("content-length")
    if codings:
        if lengths or request.minor == 0:
            raise Refused(400, "two ways to tell the length, or one that HTTP/1.0 does not know")
        if codings[-1] != "chunked" or codings.count("chunked") > 1:
            raise Refused(400, "chunked is the last coding, once")
        if len(codings) > 1:
            raise Refused(501, "no other coding is known here")
        return None
    if not lengths:
        return 0
    if len(set(lengths)) > 1 or not LENGTH.fullmatch(lengths[0]):
        raise Refused(400, "the length is one number")
    return int(lengths[0])


async def read_body(wire: Wire, request: Request) -> bytes:
    length = body_length(request)
    if length is not None and length > MAX_BODY:
        raise Refused(413)
    wanted = "100-continue" in request.elements("expect") and request.minor
    if wanted and length != 0 and not wire.buffer:
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    if length is not None:
        await read_bytes(wire, body, length)
        return bytes(body)
    while size := await read_chunk_size(wire):
        if len(body) + size > MAX_BODY:
            raise Refused(413)
        await read_bytes(wire, body, size)
        async with asyncio.timeout(REQUEST_TIMEOUT):
            if await read_line(wire, 2, 400):
                raise Refused(400, "a chunk is as long as it says")
    async with asyncio.timeout(REQUEST_TIMEOUT):
        await read_fields(wire)  # trailers are checked and dropped: they are no header fields (§7.1.2)
    return bytes(body)


async def read_chunk_size(wire: Wire) -> int:
    """Hexadecimal digits, and nothing else that int() would take; extensions are ignored (§7.1)."""
    async with asyncio.timeout(REQUEST_TIMEOUT):
        found = CHUNK_LINE.fullmatch(await read_line(wire, MAX_CHUNK_LINE, 400))
    if not found:
        raise Refused(400, "this is no chunk size")
    return int(found[1], 16)


async def read_bytes(wire: Wire, body: bytearray, number: int) -> None:
    end = len(body) + number
    while len(body) < end:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            body += await wire.some(end - len(body))


# -- the connection -------------------------------------------------------------------------------------------------


async def respond(wire: Wire, request: Request | None, answer: Answer, last: bool) -> None:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in answer.fields]
    if answer.status not in (204, 304):
        lines.append(f"Content-Length: {len(answer.body)}")
    if last:
        lines.append("Connection: close")
    elif request and request.minor == 0:
        lines.append("Connection: keep-alive")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    await wire.send(head if request and request.method == "HEAD" else head + answer.body)


async def another_request(wire: Wire) -> bool:
    """Whether another request begins; the connection is idle until then."""
    wire.idle = not wire.buffer
    try:
        async with asyncio.timeout(KEEP_ALIVE):
            while not wire.buffer:
                await wire.more()
    except TimeoutError:
        return False
    wire.idle = False
    return True


async def handle(wire: Wire) -> None:
    """One connection: a request, its response, the next request."""
    request = None
    try:
        while not wire.stopping and await another_request(wire):
            request = None
            async with asyncio.timeout(REQUEST_TIMEOUT):
                request = await read_head(wire)
            request.body = await read_body(wire, request)
            last = request.is_last or wire.stopping
            await respond(wire, request, answer(request), last)
            if last:
                break
    except Refused as refusal:
        await respond(wire, request, problem(refusal.status), last=True)
    except TimeoutError:
        await respond(wire, request, problem(408), last=True)
    await close(wire)


async def close(wire: Wire) -> None:
    """Close in stages (§9.6): with unread input the kernel would reset, and take the last response with it."""
    wire.writer.write_eof()
    wire.idle = True
    with suppress(TimeoutError, EOFError):
        async with asyncio.timeout(0 if wire.stopping else LINGER):
            while True:
                wire.buffer.clear()
                await wire.more()


if __name__ == "__main__":
    asyncio.run(serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), SHUTDOWN))
