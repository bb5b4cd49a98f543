"""Quiet: the solution is idle and everything that was sent in either direction has arrived.

The rule, each part of which was needed in practice (threads alone call a half-sent response quiet):
1. every thread of the tree sleeps;
2. nothing is on its way and nothing lies unread in the solution's sockets; what it leaves unread or
   does not accept counts as settled once it did not change for `LOOKS` looks over `SPAN` seconds;
3. every thread still sleeps and none has run since 1;
4. nothing became readable on the harness's side.

`look` answers at once and never waits; who wants to wait asks again (`harness.waiting`). Quiet says
that nothing happens now: a timer that is due is named by `next_timer`, and kernel.py lists the
timers that can't be seen. Both ends of a connection are asked the same, so it does not matter
whether the harness or the solution opened it. What has arrived at the harness must be acknowledged: a
writer may sleep until it is. The solution's own delayed acknowledgements are not waited for. Of UDP no
datagram may be on its way or lie unread at a port that the harness sends to. Blind spots: of several
listeners on one port (SO_REUSEPORT) the accept queue of one is seen; an open connection is known to wait
in another by having no owner. And where the harness does not read, the kernel's own timer may send some
last bytes into what is left of the window, and wake the writer once more.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from harness.solution import datagrams, diag
from harness.solution.diag import TcpEnd, open_tcp
from harness.solution.kernel import ProcessTree, shown

LOOKS, SPAN = 3, 0.005
SETTLE = 0.150  # seconds without a change, where the kernel does not show more

FIN_LEFT = {diag.FIN_WAIT1, diag.FIN_WAIT2, diag.CLOSING, diag.LAST_ACK, diag.TIME_WAIT}
FIN_ARRIVED = {diag.CLOSE_WAIT, diag.LAST_ACK, diag.CLOSING, diag.TIME_WAIT}
OPENING = {diag.SYN_SENT, diag.SYN_RECV}
OPEN = {diag.ESTABLISHED, diag.CLOSE_WAIT}


class End(Protocol):
    """One connection between the harness and the solution, seen from the harness."""

    local: tuple[str, int]
    remote: tuple[str, int]
    reading: bool  # False while the harness leaves unread what comes
    sent_fin: bool
    reset: bool  # the harness hung up with a RST
    sent: int
    received: int

    def fileno(self) -> int: ...

    def acknowledge(self) -> None: ...


class DatagramEnd(Protocol):
    """One UDP socket of the harness."""

    ports: set[int]  # of the solution, that it sent to
    sent: int
    received: int


@dataclass(frozen=True)
class Look:
    quiet: bool
    busy_because: str  # "" when quiet
    timers: tuple[float, ...] = ()  # seconds until each thread that sleeps with a time-out wakes up by itself

    @property
    def next_timer(self) -> float | None:
        """Seconds until the earliest of them, None without one."""
        return min(self.timers, default=None)


class Unsettled(NamedTuple):
    """Something that is not at rest; with `facts` it counts as settled once they stay the same."""

    because: str
    facts: tuple[object, ...] | None = None


class Patience:
    """Remembers since when the facts that may stay as they are have not changed."""

    def __init__(self) -> None:
        self._facts: tuple[object, ...] = ()
        self._looks = 0
        self._since = 0.0

    def over(self, facts: tuple[object, ...]) -> bool:
        now = time.monotonic()
        if facts != self._facts:
            self._facts, self._looks, self._since = facts, 0, now
        self._looks += 1
        return self._looks >= LOOKS and now - self._since >= SPAN


class Watch:
    """Sees through the kernel whether a solution is quiet."""

    def __init__(self, pid: int, host: str, port: int, transports: Sequence[str] = ("tcp",)) -> None:
        self.tree = ProcessTree(pid)
        self.tcp = open_tcp()
        self._address = host, port
        self._ports = {port} if "udp" in transports else set()  # of UDP, that the harness sends to
        self._patience = Patience()
        self._settle = Settle()

    def look(
        self, ends: Iterable[End], readable: Callable[[], bool], datagram_ends: Sequence[DatagramEnd] = ()
    ) -> Look:
        """Is the solution quiet now? `readable` tells whether anything has come in since."""
        self._ports.update(*(end.ports for end in datagram_ends))
        before = self.tree.snapshot()
        if not before.asleep:
            return Look(False, before.busy_because)
        unsettled = self._unsettled(list(ends))
        if unsettled:
            return Look(False, unsettled)
        timers = self.tree.timers()
        if self.tree.opaque and (left := self._settle.left(before.threads)):
            timers.append(left)
        if self.tree.snapshot() != before:
            return Look(False, "a thread has just run")
        if readable():
            return Look(False, "something has just arrived")
        return Look(True, "", tuple(timers))

    def noticed(self, end: End) -> bool:
        """Has the solution seen the last of a connection that the harness has closed?"""
        self.tcp.refresh()
        theirs = self.tcp.lookup(end.remote, end.local)
        if theirs is None or theirs.state == diag.TIME_WAIT:
            return True
        return not theirs.inode and theirs.state not in OPEN

    def describe(self) -> str:
        how = "the kernel shows every thread asleep and every byte delivered"
        return f"{how}, but no timers" if self.tree.opaque else how

    def close(self) -> None:
        self.tree.close()
        self.tcp.close()

    def _unsettled(self, ends: list[End]) -> str:
        """Why not everything that was sent has arrived and been taken up, "" when it has."""
        self.tcp.refresh()
        resting: list[Unsettled] = []
        for unsettled in itertools.chain(self._all_unsettled(ends), self._datagrams()):
            if unsettled.facts is None:
                return unsettled.because
            resting.append(unsettled)
        over = self._patience.over(tuple(resting))
        return resting[0].because if resting and not over else ""

    def _all_unsettled(self, ends: list[End]) -> Iterator[Unsettled]:
        alive = {(end.local, end.remote) for end in ends if end.fileno() >= 0}
        for end in ends:
            reused = end.fileno() < 0 and (end.local, end.remote) in alive
            if end.local[1] and not reused:
                yield from self._between(end)
        queue = self.tcp.listener(*self._address)
        if queue:
            yield Unsettled(f"connections that wait to be accepted: {queue}", (queue,))

    def _datagrams(self) -> Iterator[Unsettled]:
        if not self._ports:
            return
        if datagrams.on_their_way():
            yield Unsettled("datagrams are on their way")
        unread = tuple(sock for sock in datagrams.sockets(self._ports) if sock.unread)
        if unread:
            yield Unsettled(f"datagrams are not read, on port {unread[0].port}", unread)

    def _between(self, end: End) -> Iterator[Unsettled]:
        name = f"the connection {end.local[1]}-{end.remote[1]}"
        theirs = self.tcp.lookup(end.remote, end.local)
        if end.reset:
            if theirs and theirs.state != diag.TIME_WAIT:
                yield Unsettled(f"the reset of {name} is on its way")
            return
        ours = self.tcp.lookup(end.local, end.remote)
        if theirs is None or theirs.state in OPENING or (ours and ours.state in OPENING):
            if ours and ours.state in (diag.ESTABLISHED, *OPENING):
                # While a listener's queue is full the kernel drops what comes, and tries again after a second or more.
                tries_again = self.tcp.listener(*self._address) == 0
                yield Unsettled(f"{name} is opening or closing", None if tries_again else (end.local, ours))
            return
        unread = _unread(theirs)
        if unread:
            facts = (end.local, theirs, ours)
            yield Unsettled(f"{unread} bytes of input are not read, on {name}", facts)
        if theirs.state in OPEN and not theirs.inode:
            yield Unsettled(f"{name} is not accepted", (end.local, theirs))
        if ours and not unread and not _delivered(ours, theirs):
            yield Unsettled(f"input of the solution is on its way, on {name}")
        if ours and end.fileno() >= 0 and _unacknowledged(theirs, ours):
            end.acknowledge()
            yield Unsettled(f"output of the solution is not acknowledged yet, on {name}")
        if ours and end.fileno() >= 0 and not _delivered(theirs, ours):
            stalled = None if end.reading else (end.local, theirs, ours)
            yield Unsettled(f"output of the solution is on its way, on {name}", stalled)


def _unread(end: TcpEnd) -> int:
    """Bytes in the receive queue, without the FIN, which counts as one until it is read."""
    return max(end.rqueue - (end.state in FIN_ARRIVED), 0)


def _delivered(sender: TcpEnd, receiver: TcpEnd) -> bool:
    """Has everything that was sent arrived, the FIN too?"""
    if sender.state in FIN_LEFT and receiver.state not in FIN_ARRIVED:
        return False
    if not (sender.counted and receiver.counted):
        return sender.wqueue == 0
    sent = sender.bytes_sent - sender.bytes_retrans
    return sender.notsent == 0 and receiver.bytes_received >= sent


def _unacknowledged(sender: TcpEnd, receiver: TcpEnd) -> bool:
    """Has something arrived of which the sender has not heard? Until then it may neither send nor take more."""
    if not (sender.counted and receiver.counted) or sender.state not in OPEN:
        return False
    in_flight = sender.wqueue - sender.notsent
    acknowledged = sender.bytes_sent - sender.bytes_retrans - in_flight
    return in_flight > 0 and receiver.bytes_received > acknowledged


class Settle:
    """A bounded time without a change, for what can't be seen."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = 0.0

    def left(self, seen: object) -> float:
        """Seconds until `seen` has been the same for long enough."""
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        return max(SETTLE - (now - self._since), 0.0)


class SettleWatch:
    """The same where no threads are shown: quiet once nothing has moved for a while. It can err."""

    def __init__(self, why: str) -> None:
        self._why = why
        self._settle = Settle()

    def look(
        self, ends: Iterable[End], readable: Callable[[], bool], datagram_ends: Sequence[DatagramEnd] = ()
    ) -> Look:
        moved = tuple((end.local, end.remote, end.sent, end.received, end.sent_fin, end.reset) for end in ends)
        datagrams = tuple((end.sent, end.received) for end in datagram_ends)
        if self._settle.left((moved, datagrams)) > 0:
            return Look(False, "something moved a moment ago")
        return Look(False, "something has just arrived") if readable() else Look(True, "")

    def noticed(self, end: End) -> bool:
        """Nothing shows it, so it is taken for granted."""
        return True

    def describe(self) -> str:
        span = f"nothing has moved for {SETTLE * 1000:.0f} ms"
        return f"{span}; {self._why}, so a slower answer would be missed"

    def close(self) -> None:
        """It holds nothing."""


def doubt() -> str:
    """What quiet rests on where the kernel does not show it, "" where it does."""
    why = shown()
    return SettleWatch(why).describe() if why else ""


def watch(pid: int, host: str, port: int, transports: Sequence[str] = ("tcp",)) -> Watch | SettleWatch:
    """The best watch that this system allows."""
    why = shown()
    return SettleWatch(why) if why else Watch(pid, host, port, transports)
