"""The solution as behaviours meet it: an address to connect to, a process to stop and start, and nothing else.

Around it stands the scene: the harness's network, the peers that the kata names, and the record of what happened.
The scene outlives the process, so a behaviour can kill the solution and see what a new one remembers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from harness import waiting
from harness.kata import Kata
from harness.solution import datagrams
from harness.solution.diag import TcpEnd
from harness.solution.kernel import ProcessTree
from harness.solution.port import Port
from harness.solution.process import Process, how_it_ended
from harness.solution.quiet import End, Look, Watch, watch
from harness.solution.scratch import Scratch
from harness.story.record import Record
from harness.subjects import Subject
from harness.verdicts import Broken, Died, LimitReached, NotShown
from harness.wire.network import Network
from harness.wire.tcp import Connection, answers
from harness.wire.udp import Endpoint, size_of, taken

T = TypeVar("T")
STOPPED = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # exit statuses after SIGTERM; the last is what a JVM says of it
P = TypeVar("P", bound="Peer")


class Peer(Protocol):
    """A party that the solution connects to; the harness plays it for as long as the scene stands."""

    def __init__(self, solution: Solution) -> None: ...

    def environment(self) -> dict[str, str]:
        """What the solution is told of this peer."""

    def begin(self) -> None:
        """A new behaviour begins: forget the modes and the log of the last one."""


@dataclass(frozen=True)
class Tripwire:
    """What must not happen after a behaviour either; it is looked at once more at the end of the run."""

    owner: object
    tripped: Callable[[], bool]
    message: str
    left_at: float  # on the clock of `harness.waiting`


class DidNotStart(Broken):
    """The solution was never ready to be met."""


class Solution:
    """The program under test."""

    def __init__(
        self,
        kata: Kata,
        subject: Subject,
        environment: dict[str, str],
        peers: Sequence[type[Peer]],
        scratch: Scratch,
        seed: int = 0,
    ) -> None:
        self.kata, self.subject, self.scratch, self.seed = kata, subject, scratch, seed
        self.record = Record(waiting.now, kata.called)
        self.network = Network(self.record)
        self.folder = scratch.new_folder(subject.folder.name)
        for name in ("state", "home"):
            (self.folder / name).mkdir()
        self.settings = kata.environment | environment
        self.peers = [peer(self) for peer in peers]
        self.port = Port()
        self.process: Process | None = None
        self.ready = False
        self.expected_to_die = False
        self.lease = 0.0  # seconds for which a solution may sit out what a dead process left behind
        self.tripwires: list[Tripwire] = []
        self._owner: object = None
        self._output_mark = 0
        self._dropped: dict[int, int] = {}  # datagrams of each of the solution's sockets, before this behaviour
        self._exceeded = ""

    # -- the process --------------------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port.number

    def launch(self) -> None:
        """Start the process; `until_ready` waits for it."""
        host, port = self.address
        environment = {"HOST": host, "PORT": str(port), "STATE_DIR": str(self.folder / "state"), **self.told()}
        log = self.folder / "output.log"
        ports = {port, *self.network.ports}
        self.process = Process(self.subject, environment, self.scratch, self.folder / "home", log, ports)
        self.watch = watch(self.process.pid, host, port, self.transports)
        self.ready = self.expected_to_die = False

    def told(self) -> dict[str, str]:
        """What the kata and its peers tell the solution by environment variables."""
        environment = dict(self.settings)
        for peer in self.peers:
            environment |= peer.environment()
        return environment

    def until_ready(self) -> None:
        """Wait until the solution's own process tree listens on its port. Raises DidNotStart, saying why."""
        if self.ready:
            return
        if self.process is None:
            self.launch()
        problem = waiting.until_listening(self)
        if limit := self.exceeded():
            raise LimitReached(limit)
        if problem:
            raise DidNotStart(f"the solution did not start: {problem}")
        self.ready = True

    @property
    def tree(self) -> ProcessTree:
        """The solution's processes as the kernel shows them; where it does not, the behaviour is skipped."""
        if not isinstance(self.watch, Watch):
            raise NotShown(f"needs what only Linux shows of a process; {self.watch.describe()}")
        return self.watch.tree

    @property
    def transports(self) -> Sequence[str]:
        return self.kata.listens

    def listening(self, transport: str = "tcp") -> list[tuple[str, int]]:
        """Where the solution's own processes listen."""
        if isinstance(self.watch, Watch):
            return self.watch.tree.listening(transport)
        there = answers(self.address) if transport == "tcp" else taken(self.address)
        return [self.address] if there else []

    def exit_status(self) -> int | None:
        return self._running.exit_status()

    @property
    def _running(self) -> Process:
        assert self.process is not None, "launch() comes first"
        return self.process

    def signal(self, number: int, ends: bool = True) -> None:
        """Send a signal. If it may end the solution (`ends`), its end is no crash from now on."""
        self.expected_to_die = self.expected_to_die or ends
        self.record.note(self.record.solution, f"gets {signal.Signals(number).name}")
        self._running.signal(number)

    def kill(self) -> None:
        """SIGKILL, for the whole tree, now."""
        self.record.down(self.record.solution, "is killed (SIGKILL)")
        self.stop()

    def restart(self, same_port: bool = False, **settings: object) -> None:
        """Start again with the same STATE_DIR and peers, after a kill or an exit; on a new port by default.

        `settings` are environment variables that change; only a behaviour whose program is its own may do that.
        """
        self.stop()
        if not same_port:
            self.port.release()
            self.port = Port()
        self.settings |= {name: str(value) for name, value in settings.items()}
        self.record.up(self.record.solution, "is started again")
        self.launch()
        self.until_ready()

    def until_exit(self, owed: str = "to exit") -> int:
        """Wait for the process to exit by itself, and return its status."""
        self.expected_to_die = True
        waiting.until(self, lambda: self.exit_status() is not None, owed)
        status = self.exit_status()
        assert status is not None
        return status

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the whole solution (SIGSTOP) while the harness writes; then it finds everything at once."""
        process = self._running
        hold = self.record.hold(self.record.solution, "is frozen (SIGSTOP)")
        process.signal_group(signal.SIGSTOP)
        try:
            yield
            waiting.until_flushed(self)
        finally:
            process.signal_group(signal.SIGCONT)
            self.record.release(self.record.solution, "goes on (SIGCONT)", hold)

    def terminate(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        if self.process:
            self.signal(signal.SIGTERM)

    def stop(self) -> None:
        """End the process and all it started; the scene stays."""
        if self.process is None:
            return
        self.expected_to_die = True
        self._exceeded = self._exceeded or self.process.exceeded()
        self.process.kill(self.watch.tree.pids if isinstance(self.watch, Watch) else lambda: [])
        self.watch.close()
        self.process = None
        self.ready = False

    def close(self) -> None:
        """End the process and the scene."""
        self.stop()
        self.network.close()
        self.port.release()

    # -- waiting, seen from the solution ------------------------------------------------------------------------

    def turn(self, seconds: float = 0.0) -> bool:
        return self.network.turn(seconds)

    def look(self) -> Look:
        return self.watch.look(self._ends(), lambda: self.network.turn(0), list(self.network.parties(Endpoint)))

    def _ends(self) -> list[End]:
        departed = [party for party in self.network.departed if isinstance(party, Connection)]
        self.network.departed = [end for end in departed if not self.watch.noticed(end)]
        return [*self.network.parties(Connection), *departed]

    def cpu_seconds(self) -> float:
        """CPU time of the whole tree so far."""
        seconds = self.tree.cpu_seconds()
        self.record.fact(f"has used {seconds * 1000:.0f} ms of CPU time")
        return seconds

    def effort(self) -> float:
        """CPU time as far as it is known: a bound on waiting, not a measurement."""
        return self.watch.tree.cpu_seconds() if isinstance(self.watch, Watch) else 0.0

    def memory_bytes(self) -> int:
        """Resident memory of the whole tree."""
        size = self.tree.rss_bytes()
        self.record.fact(f"has {size / (1 << 20):.1f} MiB in memory")
        return size

    def kernel_holds(self, connection: Connection) -> int:
        """Bytes from the solution that wait in the kernel, on either side, because the harness does not read them."""
        theirs, ours = self._both_ends(connection)
        waiting_there = _not_read(theirs, ours)
        self.record.fact(f"{waiting_there:,} bytes for {connection.name} wait in the kernel")
        return waiting_there

    def unread(self, connection: Connection) -> int | None:
        """Bytes for the solution that wait in the kernel, on either side, because it does not read; None: it closed."""
        theirs, ours = self._both_ends(connection)
        if theirs is None or not theirs.inode:
            return None
        return _not_read(ours, theirs)

    def _both_ends(self, connection: Connection) -> tuple[TcpEnd | None, TcpEnd | None]:
        if not isinstance(self.watch, Watch):
            raise NotShown(f"needs what only Linux shows of a socket; {self.watch.describe()}")
        tcp = self.watch.tcp
        tcp.refresh()
        return tcp.lookup(connection.remote, connection.local), tcp.lookup(connection.local, connection.remote)

    def sockets(self) -> int:
        """How many sockets the tree holds open."""
        number = self.tree.sockets()
        self.record.fact(f"has {number} sockets open")
        return number

    def longest_duration(self) -> float:
        """The longest of the short durations (`..._MS`, up to 2 s) that the solution was told, in seconds."""
        told = [int(value) / 1000 for name, value in self.settings.items() if name.endswith("_MS")]
        return max([duration for duration in told if duration <= 2.0] + [self.lease])

    def require_alive(self, owed: str) -> None:
        """Raise Died when the process has exited unasked while `owed` was still to come."""
        if self.process is None or self.expected_to_die:
            return
        status = self.process.exit_status()
        if status is not None:
            raise Died(f"the solution {how_it_ended(status)}, and still owed {owed}")

    def exceeded(self) -> str:
        """Which limit the solution has exceeded since its behaviour began, "" while it has kept them all."""
        return self._exceeded or (self.process.exceeded() if self.process else "")

    def left_behind(self) -> int:
        """How many processes are left of a solution that has exited."""
        if self.process is None or self.exit_status() is None or not isinstance(self.watch, Watch):
            return 0
        return len(self.watch.tree.pids())

    def explain(self, broken: AssertionError) -> None:
        """Add to a broken promise that the process has ended, where it tells why a connection did."""
        # The record knows also of the ends that a peer has answered by closing.
        ends = [event for event in self.record.events if event.kind in ("fin", "reset")]
        ended = any(event.source == self.record.solution for event in ends)
        if isinstance(broken, Died) or not ended or self.process is None or self.expected_to_die:
            return
        status = waiting.until_gone(self)
        if status is not None:
            broken.add_note(f"the solution {how_it_ended(status)}")

    def undelivered(self) -> str:
        """What the kernel dropped of this behaviour's datagrams before they were read, "" for nothing.

        It is nobody's broken promise: UDP may lose them, and whoever waits for an answer waits in vain. A solution that
        rests and leaves its queue full has itself to blame.
        """
        ours = sum(endpoint.dropped() for endpoint in self.network.parties(Endpoint))
        if ours:
            return f"the kernel dropped {ours} datagrams of the {self.record.solution} before the harness read them"
        theirs = self._own_sockets()
        lost = sum(sock.dropped - self._dropped.get(sock.inode, 0) for sock in theirs)
        if lost <= 0 or any(sock.unread for sock in theirs):
            return ""
        return f"the kernel dropped {lost} datagrams before the {self.record.solution} read them"

    def _own_sockets(self) -> list[datagrams.UdpSocket]:
        """The UDP sockets at the solution's port."""
        shown = "udp" in self.kata.listens and self.process is not None and isinstance(self.watch, Watch)
        return list(datagrams.sockets({self.port.number})) if shown else []

    def until(self, happened: Callable[[], T], owed: str, to: str = "") -> T:
        """See `harness.waiting.until`."""
        return waiting.until(self, happened, owed, to)

    def settled(self) -> None:
        """See `harness.waiting.settled`."""
        waiting.settled(self)

    # -- the scene of one behaviour -----------------------------------------------------------------------------

    def begin(self, owner: object = None) -> None:
        """A new behaviour, `owner`, begins here: its record, its output, its peers' logs."""
        self._owner, self.lease, self._exceeded = owner, 0.0, ""
        self.record.begin()
        if self.network.tape:
            self.network.tape.begin()
        self._output_mark = self.process.output_size() if self.process else 0
        self._dropped = {sock.inode: sock.dropped for sock in self._own_sockets()}
        for peer in self.peers:
            peer.begin()

    def leave_tripwire(self, tripped: Callable[[], bool], message: str) -> None:
        """Quiet does not promise that no later timer acts; so `tripped` is asked again when the run ends."""
        self.tripwires.append(Tripwire(self._owner, tripped, message, waiting.now()))

    def conclude(self) -> None:
        """A behaviour is over: hang up what it opened, let the solution come to rest, and see that it lives."""
        for connection in list(self.network.parties(Connection)):
            if connection.opened_by_harness and not connection.stays:
                connection.close()
        for endpoint in list(self.network.parties(Endpoint)):
            if not endpoint.stays:
                endpoint.close()
        if self.process is None or self.expected_to_die:
            return
        self.settled()
        self.require_alive("nothing: it was at rest")

    def output(self) -> str:
        """The last lines that the solution printed during this behaviour."""
        return self.process.output(self._output_mark) if self.process else ""

    def peer(self, kind: type[P]) -> P:
        """The peer of that kind."""
        return next(peer for peer in self.peers if isinstance(peer, kind))

    def connect(self, name: str, slow_reader: bool = False) -> Connection:
        """Open a connection to the solution; `name` is what the story calls the harness's party."""
        return Connection.to(self.network, self.address, name, self.record.solution, slow_reader)

    def endpoint(self, name: str, told: Callable[[bytes], str] = size_of) -> Endpoint:
        """A UDP socket of the party `name`, to send to the solution's address; `told` words a datagram for a story."""
        return Endpoint(self.network, name, self.record.solution, told)


def _not_read(sender: TcpEnd | None, receiver: TcpEnd | None) -> int:
    """Bytes of the sender that its receiver has not read, each counted once.

    What has arrived, and is not acknowledged yet, stands in both queues; their sum would count it twice.
    """
    if sender and receiver and sender.counted and receiver.counted:
        under_way = sender.bytes_sent - sender.bytes_retrans - receiver.bytes_received
        return receiver.rqueue + sender.notsent + max(under_way, 0)
    return (sender.wqueue if sender else 0) + (receiver.rqueue if receiver else 0)
