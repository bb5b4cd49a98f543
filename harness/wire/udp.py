"""UDP as the harness speaks it: datagram sockets that never block and know what the kernel threw away.

Sending does not wait, and reading is looking at `inbox`, as with TCP. No socket sets SO_REUSEADDR or SO_REUSEPORT:
with them another process could bind the same port and take what is meant for the harness.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from harness.wire.network import Network
from harness.wire.tape import Kind, Transport

Address = tuple[str, int]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
LOOPBACK = "127.0.0.1"
LARGEST = 65535  # bytes of a datagram
RECEIVE_BUFFER = 4 << 20  # bytes wished for; the kernel gives what it allows
LINUX = sys.platform == "linux"
# Of <linux/in.h> and <asm-generic/socket.h>; the module `socket` does not name them everywhere.
IP_RECVERR, SO_MEMINFO, MEMINFO_DROPS, MEMINFO_SIZE = 11, 55, 8, 9


class Datagram(NamedTuple):
    """What arrived, and from where."""

    data: bytes
    source: Address


@dataclass
class Exchange:
    """The datagrams between a socket of the harness and one address, as a tape tells them apart."""

    name: str
    peer: str
    local: Address
    remote: Address
    opened_by_harness: bool = True
    transport: Transport = "udp"
    speaks: str = ""


def size_of(data: bytes) -> str:
    return f"{len(data)} bytes"


class Endpoint:
    """One UDP socket of a party that the harness plays, on a free port of the loopback address.

    It is not connected: whatever comes to its port arrives, from wherever. `told` gives the words for a datagram in a
    story; `on_datagram`, if set, is called after each that arrived. `unreachable` counts the datagrams of which the
    kernel said that nobody is bound where they went (Linux only).
    """

    def __init__(self, network: Network, name: str, peer: str, told: Callable[[bytes], str] = size_of) -> None:
        self.network, self.name, self.peer, self.told = network, name, peer, told
        self.inbox: list[Datagram] = []
        self.ports: set[int] = set()  # that were sent to
        self.sent = self.received = self.unreachable = 0
        self.closed = False
        self.stays = False  # open beyond its behaviour, for a tripwire
        self.on_datagram: Callable[[Endpoint], None] | None = None
        self._outbox: list[tuple[bytes, Address]] = []
        self._exchanges: dict[Address, Exchange] = {}
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if LINUX:
            self.sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        self.sock.bind((LOOPBACK, 0))
        self.local: Address = self.sock.getsockname()
        network.add(self)

    @property
    def flushed(self) -> bool:
        """Everything that was sent has left for the kernel."""
        return not self._outbox

    def send(self, data: bytes, to: Address) -> None:
        """Send one datagram without waiting."""
        if self.closed:
            return
        self.network.record.add("message", self.name, self.peer, self.told(data), data, self.name)
        self.ports.add(to[1])
        self._outbox.append((data, to))
        self._flush()
        self.network.refresh(self)

    def take(self) -> list[Datagram]:
        """What has arrived since the last time."""
        taken, self.inbox = self.inbox, []
        return taken

    def dropped(self) -> int:
        """Datagrams that the kernel dropped because the harness had not read its queue; 0 where it does not tell."""
        if self.closed or not LINUX:
            return 0
        words = self.sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_SIZE)
        return int(struct.unpack(f"={len(words) // 4}I", words)[MEMINFO_DROPS])

    def close(self) -> None:
        """Nobody is bound to the port any more: what still comes is answered by the kernel, with port unreachable."""
        if self.closed:
            return
        self.closed = True
        self.network.remove(self)
        self.sock.close()

    def fileno(self) -> int:
        return self.sock.fileno()

    def interest(self) -> int:
        return 0 if self.closed else READ | (WRITE if self._outbox else 0)

    def on_ready(self, events: int) -> bool:
        moved = False
        if events & WRITE and self._outbox:
            self._flush()
            moved = True
        if events & READ:
            moved |= self._receive()
        if not self.closed:
            self.network.refresh(self)
        return moved

    def _flush(self) -> None:
        while self._outbox:
            try:
                self.sock.sendto(*self._outbox[0])
            except BlockingIOError:
                return
            except ConnectionRefusedError:  # told of an earlier datagram; this one has not been sent yet
                self.unreachable += 1
                continue
            self.sent += 1
            self._tape("sent", *self._outbox.pop(0))

    def _receive(self) -> bool:
        moved = False
        while not self.closed:
            try:
                data, source = self.sock.recvfrom(LARGEST)
            except BlockingIOError:
                self._read_errors()
                break
            except ConnectionRefusedError:
                self.unreachable += 1
                moved = True
                continue
            moved = True
            self.received += 1
            self._tape("received", data, source)
            self.network.record.add("message", self.peer, self.name, self.told(data), data, self.name)
            self.inbox.append(Datagram(data, source))
            if self.on_datagram:
                self.on_datagram(self)
        return moved

    def _tape(self, kind: Kind, data: bytes, remote: Address) -> None:
        if self.network.tape:
            exchange = self._exchanges.setdefault(remote, Exchange(self.name, self.peer, self.local, remote))
            self.network.tape.add(exchange, kind, data)

    def _read_errors(self) -> None:
        """Empty the queue of errors, each of which was told already: until then the selector would wake up for it."""
        while LINUX:
            try:
                self.sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                return


def taken(address: Address) -> bool:
    """Whether somebody is bound there; for systems that don't show who."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
