"""Frames as they would have been seen on a cable, made from what the harness sent and received on its sockets.

The order, the bytes, the directions and the ends of connections are what happened; sequence numbers, segments and
addresses are made up to fit. Each party has an address of its own, and a server listens on the port at which dissectors
look for its protocol, so that Wireshark needs no settings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from harness.wire.tape import Flow, Movement

SOLUTION = IPv4Address("10.0.0.1")
FIRST_PARTY = IPv4Address("10.0.1.0")
PORTS = {"http": 80, "http2": 80, "nats": 4222, "resp": 6379, "dns": 53, "https": 443, "tls": 443, "mqtt": 1883}
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
SEGMENT = 1460  # bytes of payload in one frame, as on Ethernet
LARGEST_DATAGRAM = 65507
WINDOW = 0xFFFF
# Options of a SYN (RFC 9293 3.2, RFC 7323 2.2): the segment size, and a window so wide that it is never full.
SYN_OPTIONS = struct.pack("!BBHBBBB", 2, 4, SEGMENT, 1, 3, 3, 14)
TCP, UDP = 6, 17

Segment = Callable[[int], bytes]  # a segment, given its checksum


@dataclass
class Side:
    """One end of a connection: where it is, and the number of its next byte."""

    address: IPv4Address
    port: int
    next: int = 0


class Parties:
    """The addresses of everybody who takes part, in the order of their appearance."""

    def __init__(self) -> None:
        self.names: dict[str, IPv4Address] = {}

    def address(self, name: str) -> IPv4Address:
        return self.names.setdefault(name, FIRST_PARTY + len(self.names))

    def told(self, solution: str) -> dict[IPv4Address, str]:
        """Names as a capture holds them: those of hosts have no blanks."""
        everybody = {SOLUTION: solution} | {address: name for name, address in self.names.items()}
        return {address: "-".join(name.split()) for address, name in everybody.items()}


@dataclass
class Conversation:
    """The frames of one flow, made one movement after the other."""

    flow: Flow
    parties: Parties
    speaks: str  # the protocol of the solution's own port
    _open: bool = False
    harness: Side = field(init=False)
    solution: Side = field(init=False)

    def __post_init__(self) -> None:
        flow = self.flow
        known = PORTS.get(flow.speaks or self.speaks, 0)
        ours, theirs = flow.harness[1], flow.solution[1]
        if flow.opened_by_harness:
            theirs = known or theirs
        else:
            ours = known or ours
        self.harness = Side(self.parties.address(flow.name), ours)
        self.solution = Side(SOLUTION, theirs)

    def described(self) -> str:
        """What the first frame is commented with: who this is, and what is not as it was."""
        flow = self.flow
        ours, theirs = (f"{host}:{port}" for host, port in (flow.harness, flow.solution))
        opener, server = (flow.name, flow.peer) if flow.opened_by_harness else (flow.peer, flow.name)
        whole = f"{opener} to {server}: really {ours} ({flow.name}) and {theirs} ({flow.peer}) on the loopback device"
        return f"{whole}; it was open before the behaviour began" if flow.earlier else whole

    def frames(self, movement: Movement) -> Iterator[bytes]:
        if self.flow.transport == "udp":
            yield from self._datagram(movement)
            return
        ours, theirs = self.harness, self.solution
        if movement.kind == "refused":
            yield self._segment(ours, theirs, SYN, options=SYN_OPTIONS)
            yield self._segment(theirs, ours, RST | ACK)
            return
        if not self._open:
            yield from self._handshake()
        match movement.kind:
            case "sent":
                yield from self._stream(ours, theirs, movement.data)
            case "received":
                yield from self._stream(theirs, ours, movement.data)
            case "fin":
                yield self._segment(ours, theirs, FIN | ACK)
            case "eof":
                yield self._segment(theirs, ours, FIN | ACK)
            case "reset":
                yield self._segment(ours, theirs, RST | ACK)
            case "was_reset":
                yield self._segment(theirs, ours, RST | ACK)

    def _handshake(self) -> Iterator[bytes]:
        self._open = True
        client, server = self.harness, self.solution
        if not self.flow.opened_by_harness:
            client, server = server, client
        yield self._segment(client, server, SYN, options=SYN_OPTIONS)
        yield self._segment(server, client, SYN | ACK, options=SYN_OPTIONS)
        yield self._segment(client, server, ACK)

    def _stream(self, source: Side, target: Side, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), SEGMENT):
            last = at + SEGMENT >= len(data)
            yield self._segment(source, target, ACK | (PSH if last else 0), data[at : at + SEGMENT])

    def _segment(self, source: Side, target: Side, flags: int, data: bytes = b"", options: bytes = b"") -> bytes:
        length = 20 + len(options)
        acknowledged = target.next if flags & ACK else 0
        ports = source.port, target.port
        fields = (*ports, source.next, acknowledged, (length // 4) << 4, flags, WINDOW)
        source.next = (source.next + len(data) + bool(flags & (SYN | FIN))) & 0xFFFFFFFF
        head = struct.pack("!HHIIBBH", *fields)
        return _framed(source, target, TCP, lambda sum_: head + struct.pack("!HH", sum_, 0) + options + data)

    def _datagram(self, movement: Movement) -> Iterator[bytes]:
        ours, theirs = self.harness, self.solution
        source, target = (ours, theirs) if movement.kind == "sent" else (theirs, ours)
        if movement.kind in ("sent", "received"):
            data = movement.data[:LARGEST_DATAGRAM]
            head = struct.pack("!HHH", source.port, target.port, 8 + len(data))
            yield _framed(source, target, UDP, lambda sum_: head + struct.pack("!H", sum_) + data)


def _framed(source: Side, target: Side, protocol: int, segment: Segment) -> bytes:
    """Ethernet and IPv4 around a segment, whose checksum also covers the addresses (RFC 9293 3.1)."""
    blank = segment(0)
    addresses = source.address.packed + target.address.packed
    whole = segment(_checksum(addresses + struct.pack("!BBH", 0, protocol, len(blank)) + blank) or 0xFFFF)
    fields = (0x45, 0, 20 + len(whole), 0, 0x4000, 64, protocol)
    head = struct.pack("!BBHHHBB", *fields)
    ip = head + struct.pack("!H", _checksum(head + bytes(2) + addresses)) + addresses
    return _card(target) + _card(source) + b"\x08\x00" + ip + whole


def _card(side: Side) -> bytes:
    """An Ethernet address: locally administered, ending in the IP address."""
    return b"\x02\x00" + side.address.packed


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
