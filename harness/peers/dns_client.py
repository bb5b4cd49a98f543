"""DNS clients that the harness plays: queries written byte by byte, answers read by dnspython, over UDP and TCP.

What comes back must be a well-formed response with a known id, from the address that was asked; whatever else it owes
is for the behaviours to say. Sources: RFC 1035, 4.1 and 4.2; RFC 6891, 6.1.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset

from harness.peers.zone_file import ZoneRecord
from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.tcp import Connection
from harness.wire.udp import Endpoint

HEADER = struct.Struct(">HHHHHH")
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
IN, OPT = 1, 41
NAMES_OF_FLAGS = {AA: "aa", TC: "tc", RD: "rd", RA: "ra"}

Labels = tuple[bytes, ...]


def labels_of(name: str) -> Labels:
    """The labels of a name that is written with dots."""
    return tuple(label.encode() for label in name.rstrip(".").split(".") if label)


def wire_name(labels: Labels) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def opt_record(size: int, version: int = 0, options: bytes = b"", owner: bytes = b"\0") -> bytes:
    """An OPT record: the UDP payload size that is announced, the version, and the options as bytes."""
    return owner + struct.pack(">HHIH", OPT, size, version << 16, len(options)) + options


@dataclass(frozen=True)
class Query:
    """A question that is asked. `edns` is the OPT record's UDP payload size; None: a query without EDNS."""

    labels: Labels
    kind: int
    id: int
    flags: int = 0
    class_: int = IN
    edns: int | None = None
    version: int = 0
    options: bytes = b""

    @property
    def question(self) -> bytes:
        return wire_name(self.labels) + struct.pack(">HH", self.kind, self.class_)

    def to_wire(self) -> bytes:
        extra = b"" if self.edns is None else opt_record(self.edns, self.version, self.options)
        return HEADER.pack(self.id, self.flags, 1, 0, 0, int(bool(extra))) + self.question + extra

    def __str__(self) -> str:
        return f"{shown(self.labels)} {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(self.kind))}"


@dataclass(repr=False)
class Answer:
    """A response as it came. Sections hold the records one by one, in their order; the OPT record is not among them."""

    data: bytes
    message: dns.message.Message
    answer: list[ZoneRecord] = field(default_factory=list)
    authority: list[ZoneRecord] = field(default_factory=list)
    additional: list[ZoneRecord] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        """Raises Broken with what is wrong."""
        try:
            message = dns.message.from_wire(data, one_rr_per_rrset=True)
        except (dns.exception.DNSException, ValueError, struct.error) as error:
            what = str(error) or type(error).__name__
            raise Broken(f"{len(data)} bytes came that are no DNS message ({what}): {data[:60].hex(' ')}") from None
        if not message.flags & QR:
            raise Broken("a message came back that is no response: its QR bit is 0")
        return cls(data, message, *(_records(section) for section in message.sections[1:]))

    @property
    def id(self) -> int:
        return int(self.message.id)

    @property
    def flags(self) -> int:
        return int(self.message.flags)

    @property
    def rcode(self) -> str:
        return str(dns.rcode.to_text(self.message.rcode()))

    @property
    def opcode(self) -> int:
        return int(self.message.opcode())

    @property
    def edns(self) -> int | None:
        """The version in the OPT record, None without one."""
        return None if self.message.edns < 0 else int(self.message.edns)

    @property
    def question(self) -> bytes:
        """The question section as it stands in the message; "" when there is none."""
        (count,) = struct.unpack_from(">H", self.data, 4)
        if count != 1:
            return b""
        _, size = dns.name.from_wire(self.data, HEADER.size)
        return self.data[HEADER.size : HEADER.size + size + 4]

    @property
    def authoritative(self) -> bool:
        return bool(self.flags & AA)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)

    def everything(self) -> list[ZoneRecord]:
        return [*self.answer, *self.authority, *self.additional]

    def __str__(self) -> str:
        told = " ".join(name for flag, name in NAMES_OF_FLAGS.items() if self.flags & flag)
        sections = {"answer": self.answer, "authority": self.authority, "additional": self.additional}
        counts = [f"{name} {len(records)}" for name, records in sections.items() if records]
        return ", ".join([f"{self.rcode} {told}".strip(), *counts])

    __repr__ = __str__


def _records(section: Iterable[dns.rrset.RRset]) -> list[ZoneRecord]:
    return [
        ZoneRecord(rrset.name.to_text(), int(rrset.ttl), dns.rdatatype.to_text(rrset.rdtype), rdata.to_text())
        for rrset in section
        for rdata in rrset
    ]


def same(records: Iterable[ZoneRecord]) -> list[tuple[str, int, str, object]]:
    """Records in a form that compares as DNS does: without order, names without regard to case."""
    return sorted(
        ((record.owner.lower(), record.ttl, record.kind, record.rdata.to_digestable()) for record in records), key=repr
    )


def listed(records: Iterable[ZoneRecord]) -> str:
    """Records in words, for a message."""
    return "; ".join(str(record)[:90] for record in records) or "no record"


def shown(labels: Labels) -> str:
    return dns.name.Name((*labels, b"")).to_text() if sum(map(len, labels)) < 240 else f"a name of {len(labels)} labels"


def told(data: bytes) -> str:
    """A message in a few words, for a story."""
    if len(data) < HEADER.size:
        return f"{len(data)} bytes, no DNS message"
    id_, flags, questions, *_ = HEADER.unpack_from(data)
    try:
        if flags & QR:
            return f"#{id_} {Answer.parse(data)}"
        name, end = dns.name.from_wire(data, HEADER.size) if questions else (dns.name.root, 0)
        (kind,) = struct.unpack_from(">H", data, HEADER.size + end) if questions else (0,)
        return f"#{id_} {name.to_text()} {dns.rdatatype.to_text(dns.rdatatype.RdataType.make(kind))}?"
    except (Broken, dns.exception.DNSException, ValueError, struct.error):
        return f"#{id_} malformed, {len(data)} bytes"


class Asker:
    """What a client over UDP and one over TCP have in common: questions with ids, and answers that bear them."""

    def __init__(self, solution: Solution, name: str, chance: random.Random) -> None:
        self.solution, self.name, self.chance = solution, name, chance
        self.arrived: list[bytes] = []
        self.answers: list[Answer] = []  # read and not taken yet

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        return False

    def query(self, name: str | Labels, kind: str | int = "A", **more: int | bytes | None) -> Query:
        """A question with a random id."""
        labels = labels_of(name) if isinstance(name, str) else name
        number = int(dns.rdatatype.from_text(kind)) if isinstance(kind, str) else kind
        known = {"id": self.chance.randrange(1 << 16)} | more
        return Query(labels, number, **known)  # type: ignore[arg-type]

    def ask(self, name: str | Labels, kind: str | int = "A", **more: int | bytes | None) -> Query:
        """Send a question; `answer_to` waits for what comes back."""
        query = self.query(name, kind, **more)
        self.send(query.to_wire())
        return query

    def answer_to(self, query: Query) -> Answer:
        """Wait for the answer with the query's id, and take it."""
        self.solution.until(lambda: self._find(query.id) or self.ended, f"an answer for {query}", self.name)
        answer = self._find(query.id)
        assert answer, f"{self.name} is owed an answer for {query}, and the connection was closed"
        self.answers.remove(answer)
        return answer

    def resolve(self, name: str | Labels, kind: str | int = "A", **more: int | bytes | None) -> Answer:
        """Ask, and wait for the answer."""
        return self.answer_to(self.ask(name, kind, **more))

    def take_all(self) -> list[Answer]:
        """Everything that has come, once the solution is at rest."""
        self.solution.settled()
        self._read()
        taken, self.answers = self.answers, []
        return taken

    def _find(self, id_: int) -> Answer | None:
        self._read()
        return next((answer for answer in self.answers if answer.id == id_), None)

    def _read(self) -> None:
        arrived, self.arrived = self.arrived, []
        self.answers += [Answer.parse(data) for data in arrived]


class DnsClient(Asker):
    """A client over UDP, on a socket of its own."""

    def __init__(self, solution: Solution, name: str, chance: random.Random) -> None:
        super().__init__(solution, name, chance)
        self.endpoint = solution.endpoint(name, told)
        self.endpoint.on_datagram = self._take
        self.strangers: list[str] = []

    def send(self, data: bytes) -> None:
        self.endpoint.send(data, self.solution.address)

    def leave(self) -> None:
        """Close the socket: what is sent to it from now on reaches nobody."""
        self.solution.record.note(self.name, "closes its socket")
        self.endpoint.close()

    def stays_silent(self, message: str) -> None:
        """Leave a tripwire: the socket stays open, and nothing may arrive at it for the rest of the run."""
        self.endpoint.stays = True
        received = self.endpoint.received
        self.solution.leave_tripwire(lambda: self.endpoint.received > received, message)

    def _take(self, endpoint: Endpoint) -> None:
        for datagram in endpoint.take():
            if datagram.source != self.solution.address:
                self.strangers.append(":".join(map(str, datagram.source)))
            else:
                self.arrived.append(datagram.data)

    def _read(self) -> None:
        super()._read()
        if self.strangers:
            raise Broken(f"an answer came from {self.strangers[0]}; it is owed from the address that was asked")


class DnsStream(Asker):
    """A client over TCP: each message is preceded by its length in two bytes."""

    def __init__(self, solution: Solution, name: str, chance: random.Random, slow_reader: bool = False) -> None:
        super().__init__(solution, name, chance)
        self.connection: Connection = solution.connect(name, slow_reader)
        self.connection.on_bytes = self._cut

    @property
    def ended(self) -> bool:
        return self.connection.ended

    def send(self, data: bytes) -> None:
        self.send_raw(framed(data), told(data))

    def send_raw(self, data: bytes, label: str) -> None:
        """Send bytes as they are, whole messages or not."""
        self.solution.record.add("message", self.name, self.solution.record.solution, label, data, self.name)
        self.connection.send(data)

    def send_in_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send each piece in a segment of its own, the next one only when the solution has read it."""
        for piece in pieces:
            self.send_raw(piece, f"{len(piece)} bytes")
            self.solution.settled()

    def until_closed(self) -> list[Answer]:
        """Wait for the end of the connection; the answers that came before."""
        self.solution.until(lambda: self.ended, "an end of the connection", self.name)
        return self.take_all()

    def _cut(self, connection: Connection) -> None:
        inbox, at = connection.inbox, 0
        while len(inbox) - at >= 2:
            end = at + 2 + int.from_bytes(inbox[at : at + 2], "big")
            if len(inbox) < end:
                break
            data = bytes(inbox[at + 2 : end])
            at = end
            self.solution.record.add("message", self.solution.record.solution, self.name, told(data), data, self.name)
            self.arrived.append(data)
        del inbox[:at]


def framed(data: bytes) -> bytes:
    """A message as TCP carries it."""
    return struct.pack(">H", len(data)) + data
