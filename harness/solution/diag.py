"""What the kernel knows of TCP sockets, both ends alike: queues, counters, owners.

`open_tcp()` gives NETLINK_SOCK_DIAG's exact look-ups (6 microseconds each) or, where they are
refused, the tables of /proc/net. Facts only: what they mean for quiet is said in quiet.py. Nothing
here blocks.

An exact look-up of a connection that does not exist finds the listener of its port, so a state of
LISTEN means "no such connection". A dual-stack socket that listens on `::` is found by IPv4
addresses too.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Address = tuple[str, int]

ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT = range(1, 7)
CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 8, 9, 10, 11

NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, NLMSG_ERROR, NLMSG_DONE = 4, 20, 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
INET_DIAG_INFO = 2
ANY_STATE, NO_COOKIE = 0xFFFFFFFF, b"\xff" * 8

_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=IHHIIBBBBI")
_PORTS = struct.Struct(">HH")
_SOCKET = struct.Struct("=IIII")  # rqueue, wqueue, uid, inode
_INFO = struct.Struct("=128xQ8xI52xQQ")  # of tcp_info: bytes_received, notsent, bytes_sent, bytes_retrans


class NotShown(Exception):
    """The kernel, or whoever runs it, does not show what was asked for."""


class TcpEnd(NamedTuple):
    """One end of a TCP connection. Without `counted` the last four are unknown, and 0."""

    state: int
    rqueue: int
    wqueue: int
    inode: int  # 0: not accepted yet, or closed by its owner
    counted: bool
    bytes_received: int = 0  # includes the FIN
    bytes_sent: int = 0  # does not include the FIN
    bytes_retrans: int = 0
    notsent: int = 0


class Listening(NamedTuple):
    host: str
    port: int
    inode: int
    queue: int = 0  # connections that wait to be accepted
    backlog: int | None = None  # how many may wait; None where that is not shown


def _packed(host: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.inet_pton(family, host).ljust(16, b"\0")


class SocketDiag:
    """Look-ups by NETLINK_SOCK_DIAG. Raises NotShown when they are refused."""

    def __init__(self) -> None:
        self._requests: dict[tuple[Address, Address], bytes] = {}
        try:
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        except OSError as error:
            raise NotShown(f"sock_diag: {error}") from error
        try:
            self._netlink.setblocking(False)
            self._netlink.connect((0, 0))
            self._try_out()
        except OSError as error:
            self._netlink.close()
            raise NotShown(f"sock_diag: {error}") from error

    def _try_out(self) -> None:
        with socket.socket() as probe:  # without its module the kernel answers everything with ENOENT
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            if self.listener(*probe.getsockname()) is None:
                raise OSError(errno.ENOENT, "finds no TCP sockets")

    def refresh(self) -> None:
        """Nothing to do: every look-up is fresh."""

    def lookup(self, local: Address, remote: Address) -> TcpEnd | None:
        """The end whose own address is `local`; None when there is no such connection."""
        end = self._exact(local, remote)
        return None if end is None or end.state == LISTEN else end

    def listener(self, host: str, port: int) -> int | None:
        """How many connections wait to be accepted there; None when nobody listens."""
        end = self._exact((host, port), ("::" if ":" in host else "0.0.0.0", 0))
        return end.rqueue if end and end.state == LISTEN else None

    def listeners(self) -> Iterator[Listening]:
        for family in (socket.AF_INET, socket.AF_INET6):
            self._netlink.send(self._request(NLM_F_DUMP, family, 1 << LISTEN, bytes(40)))
            for message in self._messages():
                yield _listening(message)

    def close(self) -> None:
        self._netlink.close()

    def _exact(self, local: Address, remote: Address) -> TcpEnd | None:
        request = self._requests.get((local, remote))
        if request is None:
            (family, source), (_, target) = _packed(local[0]), _packed(remote[0])
            identity = _PORTS.pack(local[1], remote[1]) + source + target + bytes(4)
            request = self._request(0, family, ANY_STATE, identity)
            self._requests[local, remote] = request
        self._netlink.send(request)
        return _end(self._netlink.recv(4096))

    def _request(self, flags: int, family: int, states: int, identity: bytes) -> bytes:
        extension = 1 << (INET_DIAG_INFO - 1)
        size = _REQUEST.size + len(identity) + len(NO_COOKIE)
        return (
            _REQUEST.pack(
                size,
                SOCK_DIAG_BY_FAMILY,
                NLM_F_REQUEST | flags,
                0,
                0,
                family,
                socket.IPPROTO_TCP,
                extension,
                0,
                states,
            )
            + identity
            + NO_COOKIE
        )

    def _messages(self) -> Iterator[bytes]:
        while True:
            data = self._netlink.recv(1 << 17)
            while data:
                size, kind, *_ = _HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise _error(data)
                yield data[:size]
                data = data[size + 3 & ~3 :]


def _error(message: bytes) -> OSError:
    code: int = -struct.unpack_from("=i", message, 16)[0]
    return OSError(code, os.strerror(code))


def _end(message: bytes) -> TcpEnd | None:
    size, kind, *_ = _HEADER.unpack_from(message)
    if kind == NLMSG_ERROR:
        error = _error(message)
        if error.errno == errno.ENOENT:
            return None
        raise error
    state = message[17]
    rqueue, wqueue, _, inode = _SOCKET.unpack_from(message, 72)
    position = 88
    while position + 4 <= size:
        length, attribute = struct.unpack_from("=HH", message, position)
        if attribute == INET_DIAG_INFO:
            if length - 4 < _INFO.size:
                raise OSError(errno.EPROTO, "tcp_info without bytes_sent (Linux before 4.19)")
            received, notsent, sent, retrans = _INFO.unpack_from(message, position + 4)
            return TcpEnd(state, rqueue, wqueue, inode, True, received, sent, retrans, notsent)
        position += length + 3 & ~3
    # A closed socket in FIN_WAIT2 or TIME_WAIT has nothing to count any more.
    return TcpEnd(state, rqueue, wqueue, inode, False)


def _listening(message: bytes) -> Listening:
    family, (port, _) = message[16], _PORTS.unpack_from(message, 20)
    host = socket.inet_ntop(family, message[24:28] if family == socket.AF_INET else message[24:40])
    queue, backlog, _, inode = _SOCKET.unpack_from(message, 72)
    return Listening(host, port, inode, queue, backlog)


class ProcNetTcp:
    """The same from /proc/net/tcp and tcp6: no counters, and as of the last `refresh`."""

    def __init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        self._ends: dict[tuple[Address, Address], TcpEnd] = {}
        for table in ("tcp", "tcp6"):
            path = Path("/proc/net", table)
            lines = path.read_text().splitlines()[1:] if path.exists() else []
            for line in lines:
                _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
                wqueue, rqueue = (int(part, 16) for part in queues.split(":"))
                end = TcpEnd(int(state, 16), rqueue, wqueue, int(inode), False)
                self._ends[readable(local), readable(remote)] = end

    def lookup(self, local: Address, remote: Address) -> TcpEnd | None:
        return self._ends.get((local, remote))

    def listener(self, host: str, port: int) -> int | None:
        for address in (host, "0.0.0.0", "::"):
            for anybody in ("0.0.0.0", "::"):
                end = self._ends.get(((address, port), (anybody, 0)))
                if end and end.state == LISTEN:
                    return end.rqueue
        return None

    def listeners(self) -> Iterator[Listening]:
        self.refresh()
        for ((host, port), _), end in self._ends.items():
            if end.state == LISTEN:
                yield Listening(host, port, end.inode, end.rqueue)

    def close(self) -> None:
        self._ends.clear()


def readable(text: str) -> Address:
    """An address of the tables of /proc/net; its words are in the machine's order, a mapped IPv4 one is IPv4."""
    digits, port = text.split(":")
    data = bytes.fromhex(digits)
    if sys.byteorder == "little":
        data = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    if len(data) == 16 and data.startswith(bytes(10) + b"\xff\xff"):
        data = data[12:]
    return socket.inet_ntop(socket.AF_INET6 if len(data) == 16 else socket.AF_INET, data), int(port, 16)


Tcp = SocketDiag | ProcNetTcp


def open_tcp() -> Tcp:
    """The best view of TCP sockets that there is here."""
    try:
        return SocketDiag()
    except NotShown:
        return ProcNetTcp()
