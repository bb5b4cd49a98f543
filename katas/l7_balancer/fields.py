"""Which fields travel on, which end with their connection (RFC 9110 §7.6.1), and which a balancer adds.

Names are in lower case, names and values are bytes, as h11 has them.
"""

from collections.abc import Iterable

import h11

Fields = list[tuple[bytes, bytes]]


def lines(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values of all lines of that name."""
    return [value for key, value in fields if key == name]


def elements(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The elements of a field that is a list, in lower case; it may stand on several lines."""
    parts = [part.strip().lower() for part in b",".join(lines(fields, name)).split(b",")]
    return [part for part in parts if part]


def cookie(fields: Fields, name: str) -> str:
    """The value of a cookie, "" without one."""
    for pair in b"; ".join(lines(fields, b"cookie")).split(b";"):
        key, _, value = pair.strip().partition(b"=")
        if key == name.encode():
            return value.decode("latin-1")
    return ""


def end_to_end(fields: Fields) -> Fields:
    """All fields but those of the connection (F2). Which of them does Connection itself name?"""
    raise NotImplementedError("end_to_end() in fields.py")


def for_upstream(fields: Fields, peer: str) -> Fields:
    """The fields of a request on its way on, for the client with the address `peer` (F2, F3).

    h11 sends a body in chunks if there is `transfer-encoding: chunked`, else by its `content-length`.
    """
    raise NotImplementedError("for_upstream() in fields.py")


def for_client(response: h11.Response, added: Fields) -> Fields:
    """The fields of a response on its way back. Without a length h11 sends chunks, or closes for HTTP/1.0."""
    raise NotImplementedError("for_client() in fields.py")
