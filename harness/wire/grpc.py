"""gRPC on top of HTTP/2: messages with their length in front, statuses, timeouts, metadata. Nothing here moves bytes.

Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md of the grpc project), status codes (statuscodes.md).
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import unquote_to_bytes

from h2.errors import ErrorCodes

HEAD = 5  # bytes before a message: whether it is compressed, and its length
DETAILS = "grpc-status-details-bin"
UNITS = {"H": 3_600_000.0, "M": 60_000.0, "S": 1000.0, "m": 1.0, "u": 1e-3, "n": 1e-6}  # in milliseconds

Metadata = list[tuple[str, str]]


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# What a stream that was reset without trailers means; anything else is INTERNAL.
RESETS = {
    ErrorCodes.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCodes.CANCEL: Code.CANCELLED,
    ErrorCodes.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCodes.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


@dataclass(frozen=True)
class Status:
    """How a call ended."""

    code: Code
    message: str = ""
    details: bytes = b""  # of the trailers, if there are any
    reset: int | None = None  # the code of the RST_STREAM, where that took the place of trailers

    def __str__(self) -> str:
        why = f" {self.message!r}" if self.message else ""
        return f"{self.code.name}{why}" + ("" if self.reset is None else " (by RST_STREAM)")


def status_of_reset(code: int) -> Status:
    known = {int(each): meaning for each, meaning in RESETS.items()}
    return Status(known.get(code, Code.INTERNAL), f"RST_STREAM with {code}", reset=code)


def status_of(trailers: Metadata) -> Status:
    """Raises ValueError where the trailers tell no status."""
    fields = dict(trailers)
    text = fields.get("grpc-status")
    if text is None or not re.fullmatch(r"\d+", text) or int(text) > max(Code):
        raise ValueError(f"the call ended without a valid grpc-status, and with {trailers}")
    details = from_base64(fields[DETAILS]) if DETAILS in fields else b""
    return Status(Code(int(text)), unquote_to_bytes(fields.get("grpc-message", "")).decode(), details)


def framed(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


class Messages:
    """From the data of a stream to messages, however it is cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ValueError for a compressed message: nobody here has offered to read any."""
        self._buffer += data
        while len(self._buffer) >= HEAD:
            flag, size = struct.unpack_from(">BI", self._buffer)
            if flag:
                raise ValueError(f"a message with the compressed-flag {flag}, and no compression was agreed on")
            if len(self._buffer) < HEAD + size:
                return
            message = bytes(self._buffer[HEAD : HEAD + size])
            del self._buffer[: HEAD + size]
            yield message

    @property
    def at_boundary(self) -> bool:
        return not self._buffer


def milliseconds(timeout: str) -> float:
    """The value of `grpc-timeout`. Raises ValueError."""
    if not re.fullmatch(r"\d{1,8}[HMSmun]", timeout):
        raise ValueError(f"grpc-timeout has the form of 100m, and came {timeout!r}")
    return int(timeout[:-1]) * UNITS[timeout[-1]]


def to_base64(value: bytes) -> str:
    """As metadata whose name ends in -bin is written; padding is left out, as it should be."""
    return base64.b64encode(value).decode().rstrip("=")


def from_base64(text: str) -> bytes:
    """With or without padding. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def values(metadata: Metadata, name: str) -> list[str]:
    """All values of that name, one a field; those of -bin may also stand in one field, with commas."""
    found = [value for key, value in metadata if key == name]
    return [part for value in found for part in value.split(",")] if name.endswith("-bin") else found
