"""TLS as it looks on the wire, without any keys: records, the plain part of handshakes, and hellos made by hand.

What is encrypted stays so; a flight is told by the names of what can be read. Hand-made hellos are for what no
library would send: old versions, strange names, endless messages.
Source: RFC 8446, 4.1.2, 5.1 and B; RFC 5246, 7.4 and 7.2.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
HEADER = 5  # bytes of a record's header: type, version, length
LARGEST_FRAGMENT = 1 << 14
CLIENT_HELLO = 1
TLS10, TLS11, TLS12, TLS13 = 0x0301, 0x0302, 0x0303, 0x0304

MESSAGES = {
    0: "HelloRequest",
    1: "ClientHello",
    2: "ServerHello",
    4: "NewSessionTicket",
    11: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
    22: "CertificateStatus",
}
ALERTS = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    22: "record_overflow",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    112: "unrecognized_name",
    116: "certificate_required",
    120: "no_application_protocol",
}


class Record(NamedTuple):
    kind: int
    version: int
    fragment: bytes

    def encode(self) -> bytes:
        return bytes([self.kind, *self.version.to_bytes(2), *len(self.fragment).to_bytes(2)]) + self.fragment


def take_record(data: bytearray) -> Record | None:
    """Take a whole record from the front of `data`; None while it is not complete."""
    if len(data) < HEADER:
        return None
    end = HEADER + int.from_bytes(data[3:5])
    if len(data) < end:
        return None
    record = Record(data[0], int.from_bytes(data[1:3]), bytes(data[HEADER:end]))
    del data[:end]
    return record


def records(data: bytes) -> list[Record]:
    """The whole records in `data`."""
    rest, found = bytearray(data), []
    while record := take_record(rest):
        found.append(record)
    return found


def fragmented(data: bytes, size: int) -> bytes:
    """The same handshake messages in records of at most `size` bytes (RFC 8446, 5.1 allows it)."""
    pieces = []
    for kind, version, fragment in records(data):
        pieces += [Record(kind, version, fragment[at : at + size]) for at in range(0, len(fragment), size)]
    return b"".join(piece.encode() for piece in pieces)


class Sight:
    """What somebody without keys sees in one direction of a connection."""

    def __init__(self) -> None:
        self.messages: list[str] = []  # names of the handshake messages that went in clear
        self.alerts: list[str] = []  # alerts that went in clear
        self._bytes, self._handshake = bytearray(), bytearray()
        self._encrypted = False

    def feed(self, data: bytes) -> list[str]:
        """Take more bytes in; what has become whole by them, in words."""
        self._bytes += data
        seen: list[str] = []
        while record := take_record(self._bytes):
            seen += self._names(record)
        return seen

    def _names(self, record: Record) -> list[str]:
        match record.kind:
            case 20:
                self._encrypted = True
                return []
            case 21 if not self._encrypted and len(record.fragment) == 2:
                self.alerts.append(ALERTS.get(record.fragment[1], f"alert {record.fragment[1]}"))
                return [f"alert {self.alerts[-1]}"]
            case 22 if not self._encrypted:
                self._handshake += record.fragment
                return self._take_messages()
            case 20 | 21 | 22 | 23:
                return ["encrypted"]
        return [f"a record of the unknown type {record.kind}"]

    def _take_messages(self) -> list[str]:
        names = []
        while len(self._handshake) >= 4:
            end = 4 + int.from_bytes(self._handshake[1:4])
            if len(self._handshake) < end:
                break
            names.append(MESSAGES.get(self._handshake[0], f"message {self._handshake[0]}"))
            del self._handshake[:end]
        self.messages += names
        return names


def summary(names: Sequence[str]) -> str:
    """Names in a row, what is encrypted counted."""
    hidden = names.count("encrypted")
    told = [name for name in names if name != "encrypted"]
    if hidden:
        told.append(f"{hidden} encrypted record{'s' if hidden > 1 else ''}")
    return ", ".join(told)


def _vector(data: bytes, size: int) -> bytes:
    """A vector of the presentation language: its length in `size` bytes, and itself."""
    return len(data).to_bytes(size) + data


def _extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + _vector(data, 2)


def client_hello(
    chance: random.Random,
    version: int = TLS12,
    suites: Sequence[int] = (0x1301, 0xC02B, 0xC02C, 0xC009, 0xC023),
    server_name: bytes | None = None,
    versions: Sequence[int] = (),
    protocols: Sequence[bytes] = (),
) -> bytes:
    """A ClientHello message, for a server with an ECDSA key; `server_name` goes out as it is.

    `version` is the legacy one, `versions` those of supported_versions, which is left out without any. There is no
    key share, so TLS 1.3 would be answered by a HelloRetryRequest.
    """
    extensions = b""
    if server_name is not None:
        extensions += _extension(0, _vector(b"\0" + _vector(server_name, 2), 2))
    extensions += _extension(10, _vector(b"\x00\x1d\x00\x17", 2))  # groups: x25519, secp256r1
    extensions += _extension(11, b"\x01\x00")  # points: uncompressed
    extensions += _extension(13, _vector(b"\x04\x03\x08\x04\x04\x01\x02\x03", 2))  # signatures, with an old one
    if protocols:
        extensions += _extension(16, _vector(b"".join(_vector(name, 1) for name in protocols), 2))
    if versions:
        extensions += _extension(43, _vector(b"".join(each.to_bytes(2) for each in versions), 1))
        extensions += _extension(51, _vector(b"", 2))
    body = version.to_bytes(2) + chance.randbytes(32) + _vector(chance.randbytes(32), 1)
    body += _vector(b"".join(suite.to_bytes(2) for suite in suites), 2) + _vector(b"\0", 1) + _vector(extensions, 2)
    return bytes([CLIENT_HELLO]) + _vector(body, 3)


def handshake_records(message: bytes, version: int = TLS10, size: int = LARGEST_FRAGMENT) -> bytes:
    """A handshake message in records of at most `size` bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(Record(HANDSHAKE, version, piece).encode() for piece in pieces)
