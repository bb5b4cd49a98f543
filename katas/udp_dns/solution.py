"""An authoritative name server for one zone, over UDP and TCP.

It starts, reads its zone, listens and ends, and answers every query with NOTIMP. Fill in what is marked TODO, from top
to bottom: what the zone answers, then how a message is read and written, then the transports. The rules D1 to D13 are
in README.md beside this file. You may change anything, and throw all of it away: only the bytes on the wire count.
"""

import asyncio
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", "5353"))
ZONE = os.environ.get("ZONE", "example.test.")
ZONE_FILE = os.environ.get("ZONE_FILE", "example.zone")

A, NS, CNAME, SOA, MX, TXT, AAAA, OPT, AXFR, ANY = 1, 2, 5, 6, 15, 16, 28, 41, 252, 255
TYPES = {"A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "MX": MX, "TXT": TXT, "AAAA": AAAA}
IN = 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 3, 4, 5, 16
QR, AA, TC, RD, OPCODE = 0x8000, 0x0400, 0x0200, 0x0100, 0x7800  # bits of the second word of a header

SMALLEST_LIMIT, LARGEST_LIMIT, TCP_LIMIT = 512, 1232, 65535  # bytes of a message

Name = tuple[bytes, ...]  # the labels from left to right, without the empty one of the root
HEADER = struct.Struct(">HHHHHH")  # id, flags, and how many questions, answers, authorities, additional records


# --- the zone file (complete)


@dataclass(frozen=True, slots=True)
class RRset:
    """All records of one name and type. Names inside of `rdata` are written out in full."""

    kind: int
    ttl: int
    rdata: tuple[bytes, ...]


Node = dict[int, RRset]


def lower(name: Name) -> Name:
    return tuple(label.lower() for label in name)  # of bytes: only A to Z change


def parse_name(text: str) -> Name:
    return tuple(label.encode() for label in text.rstrip(".").split(".") if label)


def wire(name: Name) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name) + b"\0"


def parse_rdata(kind: str, text: str) -> bytes:
    words = text.split()
    match kind:
        case "A":
            return bytes(int(byte) for byte in text.split("."))
        case "AAAA":
            groups = [int(group, 16) for group in text.split(":")]  # eight groups, never shortened by ::
            return struct.pack(">8H", *groups)
        case "NS" | "CNAME":
            return wire(parse_name(text))
        case "MX":
            return struct.pack(">H", int(words[0])) + wire(parse_name(words[1]))
        case "TXT":
            strings = [part.encode() for part in text.strip('"').split('" "')]
            return b"".join(bytes([len(part)]) + part for part in strings)
        case "SOA":
            numbers = struct.pack(">5I", *map(int, words[2:]))
            return wire(parse_name(words[0])) + wire(parse_name(words[1])) + numbers
    raise ValueError(f"unknown type {kind}")


def read_records(path: str) -> Iterator[tuple[Name, RRset]]:
    """The RRsets of a zone file, each with its owner."""
    gathered: dict[tuple[str, str], tuple[int, list[bytes]]] = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            if line.strip() and not line.startswith(";"):
                owner, ttl, _, kind, text = line.strip().split(maxsplit=4)
                gathered.setdefault((owner, kind), (int(ttl), []))[1].append(parse_rdata(kind, text))
    for (owner, kind), (seconds, rdata) in gathered.items():
        yield parse_name(owner), RRset(TYPES[kind], seconds, tuple(rdata))


# --- what the zone answers


@dataclass(slots=True)
class Reply:
    """What is to be said, before it is written as bytes: records with their owners."""

    rcode: int = NOERROR
    authoritative: bool = False
    answer: list[tuple[Name, RRset]] = field(default_factory=list)
    authority: list[tuple[Name, RRset]] = field(default_factory=list)
    additional: list[tuple[Name, RRset]] = field(default_factory=list)


class Zone:
    """All names of the zone in one table."""

    def __init__(self, origin: str, path: str) -> None:
        """TODO D5: which names exist although no line of the file begins with them?"""
        self.origin = lower(parse_name(origin))
        self.nodes: dict[Name, Node] = {self.origin: {}}
        for owner, rrset in read_records(path):
            self.nodes.setdefault(lower(owner), {})[rrset.kind] = rrset

    def find(self, name: Name) -> tuple[Name, Node | None]:
        """TODO D6, D7: the node that speaks for a name: itself, a wildcard, or the zone cut above it.

        Walk from the origin downwards, label by label (RFC 1034, 4.3.2).
        """
        raise NotImplementedError

    def answer(self, asked: Name, kind: int) -> Reply:
        """TODO D3 to D7: REFUSED, a referral, NXDOMAIN, no data, an alias that leads on, or the records."""
        raise NotImplementedError


# --- messages


@dataclass(slots=True)
class Query:
    id: int
    flags: int
    name: Name
    kind: int
    class_: int
    question: bytes  # as it was sent, capitals and all
    edns: tuple[int, int] | None = None  # size and version


def parse(data: bytes) -> Query:
    """TODO D2, D8, D10: the question, and an OPT record if there is one. Whatever is wrong with it ends in FORMERR."""
    raise NotImplementedError


def written(query: Query, reply: Reply, limit: int) -> bytes:
    """TODO D2, D8, D9: header, question, and three sections of records; TC and no records if that is too long."""
    raise NotImplementedError


def respond(zone: Zone, data: bytes, over_tcp: bool) -> bytes | None:
    """TODO D10: what is sent back for a message, None for nothing. Begin with the messages that get no reply at all."""
    if len(data) < HEADER.size:
        return None
    return HEADER.pack(int.from_bytes(data[:2], "big"), QR | NOTIMP, 0, 0, 0, 0)


# --- transports


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self.zone = zone

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        if reply := respond(self.zone, data, over_tcp=False):
            self.transport.sendto(reply, source)


class Stream(asyncio.Protocol):
    """One TCP client: each message has its length before it, in two bytes."""

    transport: asyncio.Transport

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """TODO D11: answer every message that is complete, and keep the rest for later. This takes one for granted."""
        if reply := respond(self.zone, data[2:], over_tcp=True):
            self.transport.write(struct.pack(">H", len(reply)) + reply)

    def eof_received(self) -> bool:
        """TODO D11: is everything said that is owed?"""
        return False

    def pause_writing(self) -> None:
        """TODO D11, D13: this client does not read. Until `resume_writing`, what must not be done any more?"""


async def main() -> None:
    zone = Zone(ZONE, ZONE_FILE)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await loop.create_datagram_endpoint(lambda: Datagrams(zone), (HOST, PORT))
    await loop.create_server(lambda: Stream(zone), HOST, PORT, reuse_address=True, backlog=256)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
