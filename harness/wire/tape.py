"""Every byte on the harness's sockets, in the order in which it moved: kept only where somebody wants to take it home.

Stories keep the first and last bytes of a message and are cheap enough for every run; a tape keeps all of them, and a
network has one only if a run was asked for captures or scripts. It knows no protocol: an end is a TCP connection or,
datagram by datagram, a UDP socket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from harness.story.record import Record

Address = tuple[str, int]
Transport = Literal["tcp", "udp"]
Kind = Literal["open", "sent", "received", "fin", "eof", "reset", "was_reset", "refused"]

MOST_BYTES = 64 << 20  # of one behaviour; what moved later is not on the tape


class End(Protocol):
    """The harness's end of a TCP connection, or of an exchange of datagrams."""

    name: str
    peer: str
    local: Address
    remote: Address
    opened_by_harness: bool
    transport: Transport
    speaks: str  # the protocol of a server that the harness plays; "" where the solution is the server


@dataclass(frozen=True)
class Flow:
    """One connection, or all datagrams between two sockets. `name` is the harness's party, `peer` the solution.

    `earlier`: it was open when the behaviour began, so its beginning is not on the tape.
    """

    name: str
    peer: str
    harness: Address
    solution: Address
    opened_by_harness: bool
    transport: Transport
    speaks: str
    earlier: bool


@dataclass(frozen=True, slots=True)
class Movement:
    """Something that happened on a flow, `at` seconds after the behaviour began; seen from the harness."""

    at: float
    flow: Flow
    kind: Kind
    data: bytes = b""


class Tape:
    """What moved during one behaviour."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._flows: dict[int, tuple[End, Flow]] = {}  # by identity; the end is kept so that the identity stays its own
        self.begin()

    def begin(self) -> None:
        """Forget the last behaviour; connections that are still open go on as earlier ones."""
        self.movements: list[Movement] = []
        self.size = 0
        self.full = False
        self._flows.clear()

    def add(self, end: End, kind: Kind, data: bytes | memoryview = b"") -> None:
        if self.size + len(data) > MOST_BYTES:
            self.full = True
        if self.full:
            return
        self.size += len(data)
        at = self.record.clock() - self.record.began
        self.movements.append(Movement(at, self._flow(end, kind), kind, bytes(data)))

    def _flow(self, end: End, kind: Kind) -> Flow:
        if id(end) not in self._flows:
            earlier = end.transport == "tcp" and kind not in ("open", "refused")
            flow = Flow(
                *(end.name, end.peer, end.local, end.remote),
                *(end.opened_by_harness, end.transport, end.speaks, earlier),
            )
            self._flows[id(end)] = end, flow
        return self._flows[id(end)][1]
