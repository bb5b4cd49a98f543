"""RESP2, the protocol of Redis, as a server reads and writes it.

Source: redis.io/docs/latest/develop/reference/protocol-spec.
"""

from __future__ import annotations

from collections.abc import Sequence

Reply = bytes | int | str | None | Exception | Sequence["Reply"]  # an Exception is an error reply
LONGEST_LINE = 64


class NotResp(ValueError):
    """Bytes that are no command in RESP2; the text says why."""


def take_command(data: bytearray) -> list[bytes] | None:
    """Take the first command off `data`: an array of bulk strings. None while it is incomplete. Raises NotResp."""
    words, at = [], 0
    number, at = _length(data, at, b"*")
    if number is None:
        return None
    for _ in range(number):
        length, at = _length(data, at, b"$")
        if length is None or len(data) < at + length + 2:
            return None
        if data[at + length : at + length + 2] != b"\r\n":
            raise NotResp(f"a bulk string of {length} bytes does not end with CR LF")
        words.append(bytes(data[at : at + length]))
        at += length + 2
    del data[:at]
    return words


def _length(data: bytearray, at: int, kind: bytes) -> tuple[int | None, int]:
    """The number behind `kind`, and where its line ends; None while it is incomplete."""
    end = data.find(b"\r\n", at, at + LONGEST_LINE)
    if at < len(data) and data[at : at + 1] != kind:
        raise NotResp(f"{kind.decode()} is due, and came {bytes(data[at : at + 20])!r}")
    if end < 0:
        if len(data) >= at + LONGEST_LINE:
            raise NotResp(f"no length in {bytes(data[at : at + 20])!r}")
        return None, at
    digits = bytes(data[at + 1 : end])
    if not digits.isdigit():
        raise NotResp(f"{digits!r} is no length")
    return int(digits), end + 2


def encode(reply: Reply) -> bytes:
    """A reply: str is a status, bytes a bulk string, None nil, an Exception an error, a sequence an array."""
    match reply:
        case None:
            return b"$-1\r\n"
        case str():
            return f"+{reply}\r\n".encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case Exception():
            return f"-{reply}\r\n".encode()
    return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
