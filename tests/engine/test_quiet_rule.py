"""What the rule of quiet says of each state that the two ends of a connection can be in.

The kernel passes through most of these states too fast to be caught in them, so here they are made up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from harness.solution import diag, quiet
from harness.solution.diag import Address, TcpEnd
from harness.solution.kernel import shown
from harness.solution.quiet import Patience, Watch

pytestmark = pytest.mark.skipif(bool(shown()), reason=shown() or "all is shown")

OURS, THEIRS = ("127.0.0.1", 50000), ("127.0.0.1", 20000)


@dataclass
class Connection:
    local: Address = OURS
    remote: Address = THEIRS
    reading: bool = True
    sent_fin: bool = False
    reset: bool = False
    sent: int = 0
    received: int = 0
    closed: bool = False
    acknowledged: int = 0

    def acknowledge(self) -> None:
        self.acknowledged += 1

    def fileno(self) -> int:
        return -1 if self.closed else 5


class Tables:
    """Stands for the kernel's tables of sockets."""

    def __init__(self, ours: TcpEnd | None, theirs: TcpEnd | None, queue: int | None = 0) -> None:
        self.ends = {(OURS, THEIRS): ours, (THEIRS, OURS): theirs}
        self.queue = queue

    def refresh(self) -> None:
        pass

    def lookup(self, local: Address, remote: Address) -> TcpEnd | None:
        return self.ends[local, remote]

    def listener(self, host: str, port: int) -> int | None:
        return self.queue

    def close(self) -> None:
        pass


def end(
    state: int = diag.ESTABLISHED,
    rqueue: int = 0,
    wqueue: int = 0,
    inode: int = 7,
    counted: bool = True,
    received: int = 0,
    sent: int = 0,
    retrans: int = 0,
    notsent: int = 0,
) -> TcpEnd:
    return TcpEnd(state, rqueue, wqueue, inode, counted, received, sent, retrans, notsent)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watch = Watch(os.getpid(), "127.0.0.1", 20000)
    watch.tcp.close()
    yield watch
    watch.close()


def verdict(watch: Watch, connections: list[Connection], tables: Tables) -> tuple[str, bool]:
    """What is not settled at the first look, and whether it is for ever."""
    watch.tcp = tables  # type: ignore[assignment]
    found = list(watch._all_unsettled(connections))
    return (found[0].because, found[0].facts is None) if found else ("", False)


SETTLED = [
    ("idle", {}, end(), end()),
    ("all received", {}, end(sent=9, received=4), end(sent=4, received=9)),
    ("acknowledgement is due", {}, end(sent=9, wqueue=9), end(received=9)),
    ("sent twice", {}, end(sent=18, retrans=9), end(received=9)),
    ("our FIN is unread", {}, end(diag.FIN_WAIT2), end(diag.CLOSE_WAIT, rqueue=1, received=1)),
    ("their FIN is read", {}, end(diag.CLOSE_WAIT, received=1), end(diag.FIN_WAIT2, inode=0)),
    ("they wait, closed", {}, end(diag.CLOSE_WAIT), end(diag.FIN_WAIT2, inode=0, counted=False)),
    ("time passes there", {}, end(diag.CLOSE_WAIT, sent=1), end(diag.TIME_WAIT, counted=False)),
    ("time passes here", {}, end(diag.TIME_WAIT, counted=False), end(diag.LAST_ACK)),
    ("reset and gone", {"reset": True, "closed": True}, None, None),
    ("reset by them", {}, None, None),
    ("closed and gone", {"closed": True}, None, None),
    ("no counters", {}, end(counted=False), end(counted=False)),
]


@pytest.mark.parametrize(("flags", "ours", "theirs"), [pytest.param(*row, id=name) for name, *row in SETTLED])
def test_settled(watch, flags, ours, theirs):
    assert verdict(watch, [Connection(**flags)], Tables(ours, theirs)) == ("", False)


ON_ITS_WAY = [
    ("input of the solution is on its way", {}, end(sent=9), end(received=8)),
    ("input of the solution is on its way", {}, end(notsent=1), end()),
    ("input of the solution is on its way", {}, end(diag.FIN_WAIT1), end()),
    ("input of the solution is on its way", {}, end(counted=False, wqueue=1), end(counted=False)),
    ("output of the solution is on its way", {}, end(received=8), end(sent=9)),
    ("output of the solution is on its way", {}, end(), end(notsent=1)),
    ("output of the solution is on its way", {}, end(), end(diag.FIN_WAIT1, inode=0)),
    ("output of the solution is on its way", {}, end(counted=False), end(counted=False, wqueue=1)),
    ("output of the solution is not acknowledged", {}, end(received=9), end(sent=9, wqueue=9)),
    ("output of the solution is not acknowledged", {"reading": False}, end(received=9), end(sent=9, wqueue=9)),
    (
        "output of the solution is not acknowledged",
        {"reading": False},
        end(received=9),
        end(sent=9, wqueue=7, notsent=5),
    ),
    ("the reset", {"reset": True, "closed": True}, None, end()),
]


@pytest.mark.parametrize(("because", "flags", "ours", "theirs"), ON_ITS_WAY)
def test_on_its_way_however_long_it_takes(watch, because, flags, ours, theirs):
    said, for_ever = verdict(watch, [Connection(**flags)], Tables(ours, theirs))
    assert said.startswith(because)
    assert for_ever


def test_what_has_arrived_is_acknowledged_at_once(watch):
    connection = Connection(reading=False)
    verdict(watch, [connection], Tables(end(received=9), end(sent=9, wqueue=9)))
    assert connection.acknowledged == 1
    verdict(watch, [connection], Tables(end(received=9), end(sent=9)))
    assert connection.acknowledged == 1


MAY_STAY_SO = [
    ("4 bytes of input are not read", {}, end(sent=4), end(rqueue=4, received=4)),
    ("4 bytes of input are not read", {}, end(sent=9, notsent=5), end(rqueue=4, received=4)),
    ("4 bytes of input are not read", {}, end(diag.FIN_WAIT2), end(diag.CLOSE_WAIT, rqueue=5)),
    ("the connection 50000-20000 is not accepted", {}, end(), end(inode=0)),
    ("output of the solution is on its way", {"reading": False}, end(), end(sent=9, notsent=9)),
    ("output of the solution is on its way", {"reading": False}, end(received=4), end(sent=4, wqueue=9, notsent=9)),
    ("output of the solution is on its way", {"reading": False}, end(received=4), end(sent=9, wqueue=5)),
]


@pytest.mark.parametrize(("because", "flags", "ours", "theirs"), MAY_STAY_SO)
def test_what_the_solution_may_leave_so_settles(watch, because, flags, ours, theirs):
    said, for_ever = verdict(watch, [Connection(**flags)], Tables(ours, theirs))
    assert said.startswith(because)
    assert not for_ever


OPENING = [
    (end(diag.SYN_SENT), None),
    (end(diag.SYN_SENT), end(diag.SYN_RECV)),
    (end(sent=4), end(diag.SYN_RECV)),
    (end(), None),
]


@pytest.mark.parametrize(("ours", "theirs"), OPENING)
@pytest.mark.parametrize(("queue", "for_ever"), [(0, True), (1, False), (None, False)])
def test_an_opening_connection_settles_only_where_nobody_accepts(watch, ours, theirs, queue, for_ever):
    """A queue that was full for a moment let the kernel drop the handshake, which it repeats after a second or more."""
    said = verdict(watch, [Connection()], Tables(ours, theirs, queue))
    assert said == ("the connection 50000-20000 is opening or closing", for_ever)


def test_output_to_a_connection_that_the_harness_closed_is_not_waited_for(watch):
    tables = Tables(end(diag.FIN_WAIT2, inode=0, sent=1), end(diag.CLOSE_WAIT, sent=9, received=2))
    assert verdict(watch, [Connection(closed=True)], tables) == ("", False)


def test_a_closed_connection_is_not_mistaken_for_a_new_one_on_the_same_port(watch):
    both = [Connection(reset=True, closed=True), Connection()]
    assert verdict(watch, both, Tables(end(), end())) == ("", False)


def test_a_connection_without_an_address_is_none_yet(watch):
    assert verdict(watch, [Connection(local=("", 0))], Tables(None, None)) == ("", False)


@pytest.mark.parametrize(("queue", "said"), [(None, ""), (0, ""), (2, "connections that wait")])
def test_the_accept_queue(watch, queue, said):
    because, for_ever = verdict(watch, [], Tables(None, None, queue))
    assert because.startswith(said)
    assert bool(because) == bool(said)
    assert not for_ever


@pytest.mark.parametrize(
    ("theirs", "noticed"),
    [
        (None, True),
        (end(diag.TIME_WAIT), True),
        (end(diag.LAST_ACK, inode=0), True),
        (end(diag.CLOSE_WAIT), False),
        (end(diag.CLOSE_WAIT, inode=0), False),  # in the accept queue: it will be accepted yet
        (end(diag.LAST_ACK), False),
    ],
)
def test_noticed(watch, theirs, noticed):
    watch.tcp = Tables(None, theirs)
    assert watch.noticed(Connection(closed=True)) is noticed


def test_patience_wants_both_looks_and_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr(quiet.time, "monotonic", lambda: now)
    patience = Patience()
    assert [patience.over(("a",)) for _ in range(5)] == [False] * 5, "looks without time"
    now += 0.006
    assert patience.over(("a",))
    assert not patience.over(("b",)), "something changed"
    now += 0.006
    assert not patience.over(("b",)), "time without looks"
    assert patience.over(("b",))
    assert patience.over(()) is False, "nothing to be patient with"
    now += 0.006
    assert not patience.over(("b",)), "it went and came again"
