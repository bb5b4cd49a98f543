"""The pcapng format, as far as a capture of one Ethernet interface with names and comments needs it.

Source: draft-ietf-opsawg-pcapng, sections 4.1 (section header), 4.2 (interface), 4.3 (enhanced packet), 4.5 (names).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

SECTION, INTERFACE, NAMES, PACKET = 0x0A0D0D0A, 1, 4, 6
COMMENT, APPLICATION = 1, 4  # options of a section; a packet's comment is 1 too
IPV4_NAME = 1
ETHERNET = 1
WRITER = "Backend Katas"  # by which a capture of ours is known again


@dataclass(frozen=True)
class Packet:
    """A frame, the Unix time at which it was seen in seconds, and a comment that Wireshark shows above it."""

    at: float
    frame: bytes
    comment: str = ""


def write(packets: Iterable[Packet], names: Mapping[IPv4Address, str], comment: str) -> bytes:
    """A capture of one interface."""
    return b"".join([_section(comment), _interface(), _names(names), *map(_packet, packets)])


def is_ours(head: bytes) -> bool:
    """Whether a file with this beginning is a capture that was written here."""
    return head[:4] == struct.pack("<I", SECTION) and WRITER.encode() in head


def _section(comment: str) -> bytes:
    unknown_length = b"\xff" * 8
    options = _options({APPLICATION: WRITER, COMMENT: comment})
    return _block(SECTION, struct.pack("<IHH", 0x1A2B3C4D, 1, 0) + unknown_length + options)


def _interface() -> bytes:
    return _block(INTERFACE, struct.pack("<HHI", ETHERNET, 0, 0))


def _names(names: Mapping[IPv4Address, str]) -> bytes:
    records = b"".join(
        struct.pack("<HH", IPV4_NAME, len(value)) + _padded(value)
        for address, name in names.items()
        for value in [address.packed + name.encode() + b"\0"]
    )
    return _block(NAMES, records + bytes(4))


def _packet(packet: Packet) -> bytes:
    microseconds = round(packet.at * 1_000_000)
    size = len(packet.frame)
    head = struct.pack("<IIIII", 0, microseconds >> 32, microseconds & 0xFFFFFFFF, size, size)
    return _block(PACKET, head + _padded(packet.frame) + _options({COMMENT: packet.comment}))


def _options(texts: Mapping[int, str]) -> bytes:
    told = [(code, text.encode()[:0xFFFF]) for code, text in texts.items() if text]
    return b"".join(_option(code, text) for code, text in told) + (bytes(4) if told else b"")


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    length = len(body) + 12
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
