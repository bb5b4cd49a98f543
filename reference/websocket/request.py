"""Given: reads the head of an HTTP request, and makes responses. Nothing of the kata is solved here."""

import asyncio
import re
from dataclasses import dataclass
from http import HTTPStatus

FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*")


class Refused(Exception):
    """A request that is answered with an error; the message says why."""

    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.headers = status, headers or {}


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    version: str  # such as "HTTP/1.1"
    fields: list[tuple[str, str]]  # names in lower case, in the order of arrival

    def lines(self, name: str) -> list[str]:
        """The values of all header lines of that name."""
        return [value for key, value in self.fields if key == name]

    def items(self, name: str) -> list[str]:
        """The items of a field whose value is a list: one line or many, separated by commas."""
        return [item for line in self.lines(name) for item in re.split("[ \t]*,[ \t]*", line) if item]


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a head, up to its blank line. Raises Refused; IncompleteReadError when the client has gone before."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Refused(431, "the head of the request is too long") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words, fields = first.split(" "), [FIELD.fullmatch(line) for line in lines]
    if len(words) != 3 or not all(fields):
        raise Refused(400, "this is no HTTP")
    return Request(*words, [(found[1].lower(), found[2]) for found in fields if found])


def response(status: int, headers: dict[str, str], body: str = "") -> bytes:
    """The bytes of a response. One that is no 101 ends the connection."""
    if status != 101:
        headers = headers | {"Content-Length": str(len(body.encode())), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{key}: {value}" for key, value in headers.items())]
    return "\r\n".join([*lines, "", body]).encode()
