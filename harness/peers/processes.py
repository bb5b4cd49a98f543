"""What the kernel shows of a service of several processes that share a port, and what is done to single ones of them.

Who has which listener open, how many wait in its queue, to which process a connection belongs, who has run. Of the
processes that have one of the port's listeners open those that are the parent of another are supervisors, as is the one
that was started, and the others are workers. Process ids are those that the harness sees; a program in a namespace of
its own knows itself by another one (see `inner`).
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import waiting
from harness.solution.diag import Listening
from harness.solution.kernel import ProcessTree, Threads
from harness.solution.program import Solution
from harness.waiting import ANY_ADDRESS
from harness.wire.tcp import Connection

STOPPED = (b"T", b"Z", b"X")  # stopped, or dead: it will not run
NS_PID = re.compile(r"^NSpid:(?:\s+\d+)*\s+(\d+)$", re.MULTILINE)


class Processes:
    """The processes of a solution. Raises NotShown where the system does not show them."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution

    @property
    def tree(self) -> ProcessTree:
        return self.solution.tree

    @property
    def supervisor(self) -> int:
        """The parent of the workers, which is the process that was started unless that only starts another."""
        assert self.solution.process is not None
        parents = {self._parent(pid) for pid in self.workers()} & set(self.holders())
        return parents.pop() if len(parents) == 1 else self.solution.process.program

    # -- sockets ------------------------------------------------------------------------------------------------

    def listeners(self) -> dict[int, Listening]:
        """The listening sockets at the solution's port, by inode."""
        host, port = self.solution.address
        mine = (sock for sock in self.tree.listeners() if sock.port == port and sock.host in (host, *ANY_ADDRESS))
        return {sock.inode: sock for sock in mine}

    def queues(self) -> dict[int, int]:
        """How many connections wait to be accepted, by the inode of their listener."""
        queues = {inode: sock.queue for inode, sock in self.listeners().items()}
        told = ", ".join(str(queue) for queue in queues.values())
        self.solution.record.fact(f"has connections waiting in the queues of its listeners: {told}")
        return queues

    @staticmethod
    def longest_backlog() -> int:
        """What the kernel grants at most, whatever listen() was given."""
        return int(Path("/proc/sys/net/core/somaxconn").read_text())

    def holders(self) -> dict[int, set[int]]:
        """Which of those listeners each process has open; processes without any are left out."""
        listeners = set(self.listeners())
        held = {pid: inodes & listeners for pid, inodes in self.tree.sockets_by_process().items()}
        return {pid: inodes for pid, inodes in held.items() if inodes}

    def workers(self) -> dict[int, set[int]]:
        """The same, of workers only."""
        assert self.solution.process is not None
        holders = self.holders()
        supervisors = {self._parent(pid) for pid in holders} | {self.solution.process.program}
        return {pid: inodes for pid, inodes in holders.items() if pid not in supervisors}

    def owners(self, connection: Connection) -> set[int]:
        """The processes that have accepted a connection; nobody while it waits in a queue."""
        tcp = self.solution.watch.tcp  # type: ignore[union-attr]  # `tree` has raised where there is none
        tcp.refresh()
        end = tcp.lookup(connection.remote, connection.local)
        if end is None or not end.inode:
            return set()
        return {pid for pid, inodes in self.tree.sockets_by_process().items() if end.inode in inodes}

    # -- processes ----------------------------------------------------------------------------------------------

    def alive(self, pid: int) -> bool:
        return pid in self.tree.pids()

    def reaped(self, pid: int) -> bool:
        """It is gone, and so is its entry in the table of processes (or that is somebody else's by now)."""
        return self._parent(pid) not in (*self.tree.pids(), os.getpid())

    @staticmethod
    def _parent(pid: int) -> int:
        """The parent of a process, also of one that is dead and not reaped; 0 when it is gone."""
        try:
            return int(Path("/proc", str(pid), "stat").read_bytes().rpartition(b") ")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0

    def inner(self, pid: int) -> int:
        """The id by which a process knows itself; 0 when it is gone."""
        try:
            found = NS_PID.search(Path("/proc", str(pid), "status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return int(found[1]) if found else pid

    def outer(self, pid: int) -> int:
        """The process that knows itself by this id; 0 when there is none."""
        return next((mine for mine in self.tree.pids() if self.inner(mine) == pid), 0)

    def descriptors(self) -> dict[int, int]:
        """How many descriptors each process has open."""
        counts = {}
        for pid in self.tree.pids():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                counts[pid] = len(os.listdir(f"/proc/{pid}/fd"))
        return counts

    def asleep(self) -> Threads:
        """All threads, as they sleep; waits for it."""
        self.solution.settled()
        return self.tree.snapshot().threads

    def ran_since(self, before: Threads) -> set[int]:
        """The processes of which a thread has run since they were `asleep`, or has begun or ended."""
        now = self.asleep()
        return {key[0] for key in before.keys() | now.keys() if before.get(key, ())[1:2] != now.get(key, ())[1:2]}

    # -- what is done to them -----------------------------------------------------------------------------------

    def send(self, pid: int, number: int, whom: str) -> None:
        """Send a signal to one process; `whom` says in the story who that is."""
        self.solution.record.note(self.solution.record.solution, f"{whom} gets {signal.Signals(number).name}")
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    @contextmanager
    def halted(self, whom: str, *pids: int) -> Iterator[None]:
        """Stop these processes (SIGSTOP) until the block ends. The others go on, and can be at rest meanwhile."""
        record, halted = self.solution.record, self.tree.halted
        hold = record.hold(record.solution, f"{whom}: stopped (SIGSTOP)")
        halted |= set(pids)
        try:
            self._each(pids, signal.SIGSTOP)
            waiting.until_reached(self.solution, lambda: all(map(self._stopped, pids)), f"{whom} stopped")
            yield
        finally:
            halted -= set(pids)
            self._each(pids, signal.SIGCONT)
            record.release(record.solution, f"{whom}: continued (SIGCONT)", hold)

    @staticmethod
    def _each(pids: tuple[int, ...], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @staticmethod
    def _stopped(pid: int) -> bool:
        try:
            status = Path("/proc", str(pid), "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return status.rpartition(b") ")[2][:1] in STOPPED
