"""An authoritative name server for one zone, over UDP and TCP.

A message is parsed into a Query, the zone says what is to be answered (RFC 1034, 4.3.2), and the answer is written as
bytes that fit. Everything is computed from memory at once, so one event loop serves everybody.
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
QR, AA, TC, RD, OPCODE = 0x8000, 0x0400, 0x0200, 0x0100, 0x7800

SMALLEST_LIMIT, LARGEST_LIMIT, TCP_LIMIT = 512, 1232, 65535  # bytes of a message
LONGEST_NAME, LONGEST_LABEL = 255, 63

Name = tuple[bytes, ...]  # the labels from left to right, without the empty one of the root
HEADER = struct.Struct(">HHHHHH")


# --- the zone file (given in the skeleton)


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
    """All names of the zone in one table, also those that only have something below them."""

    def __init__(self, origin: str, path: str) -> None:
        self.origin = lower(parse_name(origin))
        self.nodes: dict[Name, Node] = {self.origin: {}}
        for owner, rrset in read_records(path):
            name = lower(owner)
            self.nodes.setdefault(name, {})[rrset.kind] = rrset
            while len(name := name[1:]) > len(self.origin) and name not in self.nodes:
                self.nodes[name] = {}  # an empty non-terminal: it exists, and has no records
        soa = self.nodes[self.origin][SOA]
        (minimum,) = struct.unpack(">I", soa.rdata[0][-4:])
        self.negative = self.origin, RRset(SOA, min(soa.ttl, minimum), soa.rdata)

    def holds(self, name: Name) -> bool:
        return name[-len(self.origin) :] == self.origin

    def find(self, name: Name) -> tuple[Name, Node | None]:
        """The node that speaks for a name, by its owner: itself, a wildcard, or the zone cut above. None: no such name.

        From the origin downwards, so that a cut hides what is below it, and the last name that exists is the only one
        whose wildcard counts.
        """
        for labels in range(len(self.origin), len(name) + 1):
            owner = name[len(name) - labels :]
            node = self.nodes.get(owner)
            if node is None:
                wildcard = (b"*", *owner[1:])
                return wildcard, self.nodes.get(wildcard)
            if NS in node and owner != self.origin:
                return owner, node
        return name, node

    def answer(self, asked: Name, kind: int) -> Reply:
        """The algorithm of RFC 1034, 4.3.2, as far as one zone without recursion goes."""
        if not self.holds(lower(asked)):
            return Reply(REFUSED)
        reply, seen = Reply(authoritative=True), set()
        while self.holds(lower(asked)) and lower(asked) not in seen:
            seen.add(lower(asked))
            owner, node = self.find(lower(asked))
            if node is None:
                reply.rcode = NXDOMAIN
                reply.authority.append(self.negative)
                break
            if NS in node and owner != self.origin:
                self.refer(reply, owner, node[NS])
                break
            alias = node.get(CNAME) if kind != CNAME else None
            found = alias or (node.get(kind) if kind != ANY else next(iter(node.values()), None))
            if found is None:
                reply.authority.append(self.negative)
                break
            reply.answer.append((asked, found))
            if alias is None:
                break
            asked = read_name(alias.rdata[0], 0)[0]
        return reply

    def refer(self, reply: Reply, cut: Name, servers: RRset) -> None:
        """Who is asked below the cut, and their addresses where only this zone can tell them."""
        reply.authoritative = bool(reply.answer)  # of the first name; see RFC 1035, 4.1.1
        reply.authority.append((cut, servers))
        for rdata in servers.rdata:
            server = lower(read_name(rdata, 0)[0])
            glue = self.nodes.get(server, {})
            reply.additional += [(server, glue[kind]) for kind in (A, AAAA) if kind in glue]


# --- messages


class Malformed(Exception):
    """What came is no query that could be understood."""


@dataclass(slots=True)
class Query:
    id: int
    flags: int
    name: Name
    kind: int
    class_: int
    question: bytes  # as it was sent, capitals and all
    edns: tuple[int, int] | None = None  # size and version


def read_name(data: bytes, at: int) -> tuple[Name, int]:
    """A name that is written out in full, and where it ends."""
    labels, start = [], at
    while size := data[at]:
        if size > LONGEST_LABEL:  # a pointer: before a question there is nothing that it could point to
            raise Malformed
        labels.append(data[at + 1 : at + 1 + size])
        at += 1 + size
        if at - start >= LONGEST_NAME:
            raise Malformed
    return tuple(labels), at + 1


def skip_name(data: bytes, at: int) -> int:
    while size := data[at]:
        if size >= 0xC0:
            return at + 2
        at += 1 + size
    return at + 1


def parse(data: bytes) -> Query:
    """Raises Malformed, or an error of reading beyond the end."""
    id_, flags, questions, *counts = HEADER.unpack_from(data)
    if questions != 1:
        raise Malformed
    name, at = read_name(data, HEADER.size)
    kind, class_ = struct.unpack_from(">HH", data, at)
    query = Query(id_, flags, name, kind, class_, data[HEADER.size : at + 4])
    at += 4
    for _ in range(sum(counts)):
        owner, at = data[at], skip_name(data, at)
        kind, size, ttl, length = struct.unpack_from(">HHIH", data, at)
        at += 10 + length
        if at > len(data):
            raise Malformed
        if kind == OPT:
            if query.edns or owner != 0:
                raise Malformed
            query.edns = size, ttl >> 16 & 0xFF
    return query


class Writer:
    """Records as bytes; a name that was written before is pointed to."""

    def __init__(self, query: Query) -> None:
        self.data = bytearray(HEADER.size) + query.question
        self.offsets: dict[Name, int] = {}
        self.remember(lower(query.name), HEADER.size)

    def remember(self, name: Name, at: int) -> None:
        while name and at < 0x4000:
            self.offsets.setdefault(name, at)
            at += 1 + len(name[0])
            name = name[1:]

    def name(self, name: Name) -> None:
        written, key = len(self.data), lower(name)
        for skipped in range(len(name)):
            if offset := self.offsets.get(key[skipped:]):
                self.data += wire(name[:skipped])[:-1] + struct.pack(">H", 0xC000 | offset)
                break
        else:
            self.data += wire(name)
        self.remember(key, written)

    def section(self, records: list[tuple[Name, RRset]]) -> int:
        """Write a section; how many records that were."""
        for owner, rrset in records:
            for rdata in rrset.rdata:
                self.name(owner)
                self.data += struct.pack(">HHIH", rrset.kind, IN, rrset.ttl, len(rdata)) + rdata
        return sum(len(rrset.rdata) for _, rrset in records)


def written(query: Query, reply: Reply, limit: int) -> bytes:
    """The message, or its beginning with TC set when it does not fit."""
    writer = Writer(query)
    counts = [writer.section(section) for section in (reply.answer, reply.authority, reply.additional)]
    flags = QR | query.flags & (OPCODE | RD) | (AA if reply.authoritative else 0) | reply.rcode & 0xF
    if query.edns:
        writer.data += struct.pack(">BHHIH", 0, OPT, LARGEST_LIMIT, reply.rcode >> 4 << 24, 0)
        counts[2] += 1
    if len(writer.data) > limit:
        truncated = written(query, Reply(reply.rcode, reply.authoritative), limit)
        return truncated[:2] + struct.pack(">H", flags | TC) + truncated[4:]
    HEADER.pack_into(writer.data, 0, query.id, flags, 1, *counts)
    return bytes(writer.data)


def respond(zone: Zone, data: bytes, over_tcp: bool) -> bytes | None:
    """What is sent back for a message, None for nothing."""
    if len(data) < HEADER.size:
        return None
    id_, flags = struct.unpack_from(">HH", data)
    if flags & QR:
        return None  # an answer; whoever answers it may get an answer again, and so on for ever
    if flags & OPCODE:
        return HEADER.pack(id_, QR | flags & (OPCODE | RD) | NOTIMP, 0, 0, 0, 0)
    try:
        query = parse(data)
    except (Malformed, IndexError, struct.error):
        return HEADER.pack(id_, QR | flags & RD | FORMERR, 0, 0, 0, 0)
    if query.edns and query.edns[1] > 0:
        reply = Reply(BADVERS)
    elif query.class_ != IN or query.kind == AXFR:
        reply = Reply(REFUSED)
    else:
        reply = zone.answer(query.name, query.kind)
    size = query.edns[0] if query.edns else SMALLEST_LIMIT
    limit = TCP_LIMIT if over_tcp else min(max(size, SMALLEST_LIMIT), LARGEST_LIMIT)
    return written(query, reply, limit)


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
    """One TCP client: each message has its length before it, and nothing is read while answers are not taken."""

    transport: asyncio.Transport

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.buffer = bytearray()
        self.full = self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.answer_all()

    def eof_received(self) -> bool:
        self.ended = True
        self.answer_all()
        return True  # what is owed is still sent

    def pause_writing(self) -> None:
        self.full = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.full = False
        self.transport.resume_reading()
        self.answer_all()

    def answer_all(self) -> None:
        while not self.full and (message := self.next_message()) is not None:
            reply = respond(self.zone, message, over_tcp=True)
            if reply is None:
                self.ended = True  # no query; there is no use in listening on
                self.buffer.clear()
                break
            self.transport.write(struct.pack(">H", len(reply)) + reply)
        if self.ended and not self.full:
            self.transport.close()

    def next_message(self) -> bytes | None:
        if len(self.buffer) < 2:
            return None
        end = 2 + int.from_bytes(self.buffer[:2], "big")
        if len(self.buffer) < end:
            return None
        message = bytes(self.buffer[2:end])
        del self.buffer[:end]
        return message


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
