"""Which fields travel on, which end with their connection (RFC 9110 §7.6.1), and which a balancer adds.

Names are in lower case, names and values are bytes, as h11 has them.
"""

import re
from collections.abc import Iterable

import h11

Fields = list[tuple[bytes, bytes]]

HOP_BY_HOP = {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
NEEDED = {b"host", b"content-length"}  # whatever Connection says: without them nobody knows who is meant, or how much
APPENDED = (b"via", b"x-forwarded-for", b"forwarded")
ABSOLUTE = re.compile(rb"https?://([^/?]*)(.*)", re.I | re.S)
TOKEN = re.compile(rb"[A-Za-z0-9.]+")


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


def plain(request: h11.Request) -> tuple[Fields, bytes]:
    """Fields and target in origin form: of a whole URI its authority becomes Host (RFC 9112 §3.2.2)."""
    fields = list(request.headers)
    if not lines(fields, b"host"):  # HTTP/1.0 knows none, and the upstream is owed one
        fields.append((b"host", b""))
    found = ABSOLUTE.fullmatch(request.target)
    if not found:
        return fields, request.target
    authority, rest = found.groups()
    others = [field for field in fields if field[0] != b"host"]
    return [(b"host", authority), *others], rest if rest.startswith(b"/") else b"/" + rest


def end_to_end(fields: Fields) -> Fields:
    """All fields but those of the connection, and those that Connection names."""
    gone = HOP_BY_HOP | (set(elements(fields, b"connection")) - NEEDED)
    return [field for field in fields if field[0] not in gone]


def for_upstream(fields: Fields, peer: str) -> Fields:
    """The fields of a request on its way on."""
    chunked = bool(elements(fields, b"transfer-encoding"))
    kept = end_to_end(fields)
    host = b"".join(lines(fields, b"host"))
    node = peer.encode() if ":" not in peer else b'"[%b]"' % peer.encode()
    said = {
        b"via": b"1.1 balancer",
        b"x-forwarded-for": peer.encode(),
        b"forwarded": b"for=%b;host=%b;proto=http" % (node, host if TOKEN.fullmatch(host) else b'"%b"' % host),
    }
    added = [(name, b", ".join([*lines(kept, name), said[name]])) for name in APPENDED]
    kept = [field for field in kept if field[0] not in APPENDED]
    if chunked:
        kept = [field for field in kept if field[0] != b"content-length"] + [(b"transfer-encoding", b"chunked")]
    return kept + added


def for_client(response: h11.Response, added: Fields) -> Fields:
    """The fields of a response on its way back. Without a length h11 sends chunks, or closes for HTTP/1.0."""
    fields = list(response.headers)
    unframed = elements(fields, b"transfer-encoding") or response.status_code == 204
    return [field for field in end_to_end(fields) if not (unframed and field[0] == b"content-length")] + added
