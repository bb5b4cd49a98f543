"""What the kernel shows of a process tree: its sleep, timers, memory, sockets. Facts, no policy.

Linux only; `shown()` says whether this system has what is needed. The rules that hold here:
- A tree is the root and all its descendants; once seen, one belongs to it whoever adopts it.
- Everything may vanish between two reads; that is a change, never an error.
- A snapshot is complete when nothing ran between listing the processes and reading their threads:
  only a running thread can make another one. So nothing is listed again while nothing has run.

Blind spots: SO_RCVTIMEO, setitimer and POSIX timers are shown nowhere; a daemon that left the
session before its parent was ever seen is not found; what others do on the tree's behalf (the
kernel with io_uring, the system's resolver, a database) is theirs.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.solution import datagrams
from harness.solution.diag import Listening, Tcp, open_tcp
from harness.solution.thread import DEAD, GONE, Sight, Thread

PROC = Path("/proc")
STATES = {b"R": "is running", b"D": "waits for a device", b"T": "is stopped", b"t": "is traced"}
LISTINGS = 3  # a snapshot tries so often to be complete before it says "unsteady"
KEPT_OPEN = 100  # threads; more of them would eat up the harness's own descriptors
PAGE = os.sysconf("SC_PAGE_SIZE")

CLOSED = (*GONE, PermissionError)  # of a process that is ending, what it had belongs to root already

Threads = dict[tuple[int, int], Sight]


def shown() -> str:
    """Why this system does not show what is needed here, "" when it does."""
    if sys.platform != "linux":
        return f"{sys.platform} has no /proc"
    own = PROC / "self" / "task" / str(os.getpid())
    for name in ("stat", "schedstat", "syscall"):
        if not (own / name).exists():
            return f"this kernel has no /proc/PID/task/TID/{name}"
    if not int((own / "schedstat").read_text().split()[0]):
        return "this kernel does not count in /proc/PID/schedstat"
    return ""


@dataclass(frozen=True)
class Snapshot:
    """All threads of a tree at one moment. Two equal ones: nothing ran between them."""

    threads: Threads
    busy_because: str  # "" when every thread sleeps

    @property
    def asleep(self) -> bool:
        return not self.busy_because


class ProcessTree:
    """A process and all it started."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._pids = {root}
        self._strangers: set[int] = set()
        self.halted: set[int] = set()  # processes that the harness keeps stopped: they count as asleep, without timers
        self._newest = self._threads_as_of = b""
        self._threads: dict[tuple[int, int], Thread] = {}
        self._complete: Threads | None = None
        self._opaque = False
        self._spent: dict[int, float] = {}
        self._timerfds: list[str] = []
        self._timerfds_at: Threads | None = None
        self._tcp: Tcp | None = None

    # who belongs to it

    def pids(self) -> list[int]:
        """The living processes."""
        self._list()
        return sorted({pid for pid, _ in self._read()})

    def threads(self) -> list[Thread]:
        self._list()
        self._read()
        return list(self._threads.values())

    def alive(self) -> bool:
        return bool(self.pids())

    def members(self) -> list[int]:
        """The processes as of the last start of any, zombies included, without a look at what their threads do."""
        self._find()
        return sorted(self._pids)

    def _list(self) -> None:
        """Find new processes and threads."""
        self._find()
        if self._threads_as_of == self._newest:
            return
        self._threads_as_of = self._newest
        for pid in self._pids:
            for tid in _numbers(f"/proc/{pid}/task"):
                if (pid, tid) not in self._threads:
                    self._threads[pid, tid] = Thread(pid, tid)

    def _find(self) -> None:
        """Find new processes. /proc/PID/task/TID/children is not there everywhere."""
        newest = _newest()
        if newest == self._newest:
            return  # nobody on this machine has started anything since, and listing /proc is dear
        self._newest = newest
        listing = {int(name) for name in os.listdir(PROC) if name.isdigit()}
        self._strangers &= listing
        self._pids &= listing
        fresh = listing - self._strangers - self._pids
        family = {pid: kin for pid in fresh if (kin := _kin(pid))}
        while mine := {pid for pid, kin in family.items() if self._is_ours(*kin)} - self._pids:
            self._pids |= mine
        self._strangers |= fresh - self._pids

    def _is_ours(self, parent: int, session: int) -> bool:
        return parent in self._pids or session == self.root

    def _forget(self, thread: Thread) -> None:
        thread.close()
        del self._threads[thread.pid, thread.tid]
        if not any(pid == thread.pid for pid, _ in self._threads):
            self._pids.discard(thread.pid)  # its number may come back as somebody else's

    # what it does

    def snapshot(self) -> Snapshot:
        seen = self._read()
        for _ in range(LISTINGS):
            if seen == self._complete or self._awake(seen):
                break
            self._list()
            again = self._read()
            if again == seen:
                self._complete = again
            seen = again
        busy = self._awake(seen) or ("" if seen == self._complete else "threads come and go")
        return Snapshot(seen, busy)

    def _awake(self, threads: Threads) -> str:
        """Which thread does not sleep, "" when all do."""
        for (pid, tid), (state, _, _) in threads.items():
            if state != b"S" and not (state == b"T" and pid in self.halted):
                return f"thread {tid} of process {pid} {STATES.get(state, 'is busy')}"
        return ""

    def _read(self) -> Threads:
        seen: Threads = {}
        crowded = len(self._threads) > KEPT_OPEN
        for key, thread in list(self._threads.items()):
            sight = thread.sight()
            if sight is None:
                self._forget(thread)
            elif sight[0] not in DEAD:  # a zombie keeps its place until it is reaped
                seen[key] = sight
            if crowded:
                thread.close()
        self._opaque = any(not call for _, _, call in seen.values())
        return seen

    @property
    def opaque(self) -> bool:
        """Some thread's system call may not be read, so its timers are unknown."""
        return self._opaque

    def timers(self) -> list[float]:
        """Seconds until each thread wakes up that sleeps with a deadline, by the last snapshot."""
        spans = [thread.remaining() for thread in self._threads.values() if thread.pid not in self.halted]
        return [span for span in spans if span is not None] + list(self._timerfd())

    def _timerfd(self) -> Iterator[float]:
        if self._timerfds_at is not self._complete:
            self._timerfds_at = self._complete
            self._timerfds = [
                f"/proc/{pid}/fdinfo/{number}"
                for pid in self._pids
                for number, target in _descriptors(pid)
                if target == "anon_inode:[timerfd]"
            ]
        for path in self._timerfds:
            try:
                value = re.search(rb"it_value: \((\d+), (\d+)\)", Path(path).read_bytes())
            except GONE:
                continue
            if value and (left := int(value[1]) + int(value[2]) * 1e-9):
                yield left

    # what it costs

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree, its dead threads included, its dead processes as far as seen: only grows."""
        for pid in self.pids():
            with suppress(OSError):
                self._spent[pid] = max(self._spent.get(pid, 0.0), time.clock_gettime(_cpu_clock(pid)))
        return sum(self._spent.values())

    def rss_bytes(self) -> int:
        return sum(int(text.split()[1]) * PAGE for text in self._texts("statm"))

    def pss_bytes(self) -> int:
        """Memory with each shared page divided by its sharers."""
        found = (re.search(rb"^Pss:\s+(\d+) kB", text, re.MULTILINE) for text in self._texts("smaps_rollup"))
        return sum(int(match[1]) * 1024 for match in found if match)

    def _texts(self, name: str) -> Iterator[bytes]:
        for pid in self.pids():
            try:
                yield (PROC / str(pid) / name).read_bytes()
            except GONE:
                continue

    # what it holds

    def sockets(self) -> int:
        """How many descriptors of the tree are sockets."""
        return len(self._socket_inodes())

    def listening(self, transport: str = "tcp") -> list[tuple[str, int]]:
        """The addresses that the tree's own TCP sockets listen on, or its UDP sockets are bound to."""
        if transport == "tcp":
            return sorted({(sock.host, sock.port) for sock in self.listeners()})
        own = set(self._socket_inodes())
        return sorted({(sock.host, sock.port) for sock in datagrams.sockets() if sock.inode in own}) if own else []

    def listeners(self) -> list[Listening]:
        """The tree's own TCP sockets that listen, each once."""
        own = set(self._socket_inodes())
        if not own:
            return []
        self._tcp = self._tcp or open_tcp()
        return [sock for sock in self._tcp.listeners() if sock.inode in own]

    def sockets_by_process(self) -> dict[int, set[int]]:
        """The inodes of the sockets that each living process has open."""
        return {pid: set(_sockets(pid)) for pid in self.pids()}

    def _socket_inodes(self) -> list[int]:
        return [inode for pid in self.pids() for inode in _sockets(pid)]

    def close(self) -> None:
        for thread in self._threads.values():
            thread.close()
        self._threads.clear()
        if self._tcp:
            self._tcp.close()


def _newest() -> bytes:
    """The number that was given to the newest process or thread of this machine; they are given in turn."""
    with open("/proc/loadavg", "rb", buffering=0) as load:
        return load.read(64).split()[-1]


def _cpu_clock(pid: int) -> int:
    """The clock of clock_getcpuclockid(3): nanoseconds of all threads of a process, also of those that are gone.

    The threads' own counters vanish with them, which would make a server with a thread a request look cheap.
    """
    return ~pid << 3 | 2


def _numbers(folder: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder)]
    except CLOSED:
        return []


def _kin(pid: int) -> tuple[int, int] | None:
    """The parent and the session of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            fields = stat.read().rpartition(b") ")[2].split()
    except GONE:
        return None
    return int(fields[1]), int(fields[3])


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """The open descriptors of a process, and what they are."""
    for number in _numbers(f"/proc/{pid}/fd"):
        try:
            yield number, os.readlink(f"/proc/{pid}/fd/{number}")
        except CLOSED:
            continue


def _sockets(pid: int) -> Iterator[int]:
    """The inodes of a process's sockets, one for each descriptor."""
    targets = (target for _, target in _descriptors(pid))
    return (int(target[8:-1]) for target in targets if target.startswith("socket:["))
