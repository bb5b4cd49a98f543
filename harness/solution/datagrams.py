"""What the kernel shows of UDP sockets: who is bound where, what lies unread, what was dropped, what is on its way.

Facts only, as in diag.py; what they mean for quiet is said in quiet.py. The tables of /proc/net are enough here: one
short read shows every socket of a port, also those of a group with SO_REUSEPORT, of which an exact look-up finds one.

A datagram between two sockets of one machine has no sender's queue to lie in: it waits in the backlog of a processor
until that puts it into the receiver's queue, usually before the sender's call returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.solution.diag import readable

TABLES = ("/proc/net/udp", "/proc/net/udp6")
BACKLOGS = "/proc/net/softnet_stat"
BACKLOG = 11  # the column of each processor's line; kernels before 5.6 don't have it


class UdpSocket(NamedTuple):
    """One UDP socket. `unread` is in bytes, the kernel's overhead included; `dropped` in datagrams."""

    host: str
    port: int
    unread: int
    inode: int
    dropped: int  # since the socket was made, for want of room


def sockets(ports: set[int] | None = None) -> Iterator[UdpSocket]:
    """The sockets that are bound to one of `ports`, by default to any."""
    for table in TABLES:
        path = Path(table)
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            host, port = readable(fields[1])
            if ports is None or port in ports:
                unread = int(fields[4].partition(":")[2], 16)
                yield UdpSocket(host, port, unread, int(fields[9]), int(fields[12]))


def on_their_way() -> int:
    """How many packets wait in the backlogs of this machine's processors; 0 where that is not shown."""
    path = Path(BACKLOGS)
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(int(fields[BACKLOG], 16) for line in lines if len(fields := line.split()) > BACKLOG)
