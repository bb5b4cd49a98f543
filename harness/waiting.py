"""The three ways to wait, and the only file that may look at a clock.

1. until an event: `until(solution, happened, owed)` returns as soon as `happened()` is true;
2. a fence: an event whose arrival proves that earlier ones were handled; the protocol gives it, a peer offers it;
3. quiet: `settled(solution)` returns once every thread of the solution sleeps, all queues are empty and no
   timer is due, so nothing more is coming.

(1) is cut short by (3): when the solution is quiet the event will never come, and that is known in
milliseconds. A solution that is still working gets more time, however slow the machine is, up to a bound on
its own work that is reported as a limit. A timer that is due may belong to a program that polls or batches:
it is waited for, until it has fired `TICKS` times over at least `TICK_SPAN` seconds without effect, or for as long
as the longest duration that the solution was told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeVar

from harness.solution.process import how_it_ended
from harness.solution.quiet import Look
from harness.story.record import Record
from harness.verdicts import Broken, LimitReached, NotReached
from harness.wire.network import Network
from harness.wire.tcp import Connection
from harness.wire.udp import Endpoint

T = TypeVar("T")

now = time.monotonic
unix_time = time.time  # for dates that a protocol tells; durations are measured with `now`


class Bound(NamedTuple):
    """What a solution may spend since anything last moved, in seconds of its own work and of the clock."""

    cpu: float
    wall: float


OWED = Bound(5.0, 40.0)  # with a reply owed; then it is a limit, and nothing was decided
ENDLESS = 60.0  # seconds; who keeps sending for so long, and never what is owed, will go on
RESTLESS = Bound(0.3, 3.0)  # without any effect; then a program that never rests is left alone
START_CAP = 10.0  # seconds until a solution must listen; see the launch contract
ANY_ADDRESS = ("0.0.0.0", "::", "::ffff:127.0.0.1")
TICKS, TICK_SPAN, TIMER_PATIENCE = 3, 0.3, 2.5
BATCH_TIMER = 0.02  # seconds; a timer this short is part of the work at hand (a batched write), not a later act
LINGER = 0.1  # seconds
DYING = 1.0  # seconds, at most, from the end of a process's connections to its own
FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.003
SYN_TIME = 0.1  # seconds, ample for the loopback device to open a connection


class Scene(Protocol):
    """A solution with its network, as far as waiting needs to know it."""

    network: Network
    record: Record

    @property
    def address(self) -> tuple[str, int]: ...

    def turn(self, seconds: float = 0.0) -> bool: ...
    def look(self) -> Look: ...
    def effort(self) -> float: ...
    def longest_duration(self) -> float: ...
    def require_alive(self, owed: str) -> None: ...
    @property
    def transports(self) -> Sequence[str]: ...

    def listening(self, transport: str) -> list[tuple[str, int]]: ...
    def exit_status(self) -> int | None: ...


class Patience:
    """How long a quiet solution is given for the timers that it sleeps on.

    Every timer that is in sight when the solution first rests is waited for, and so are those that follow it:
    a program that polls needs a few rounds, and one loop's tick may hide a later timer of the same loop.
    """

    def __init__(self, horizon: float = TIMER_PATIENCE, span: float = TICK_SPAN) -> None:
        self.horizon, self.span = horizon, span
        self.idle = 0.0
        self.progress()

    def progress(self) -> None:
        """Something moved: the solution is at work, in rounds that its timers set."""
        self._ticks = 0
        self._goal: float | None = None

    def pause(self, timers: Sequence[float]) -> float | None:
        """Seconds worth waiting for the next timer, None when no timer is worth it."""
        near = [timer for timer in timers if timer <= self.horizon - self.idle]
        if not near:
            return None
        if self._goal is None:
            self._goal = self.idle + max(*near, self.span)
        if self._ticks >= TICKS and self.idle >= self._goal:
            return None
        return max(min(near), 0.0) + 0.001

    def spent(self, seconds: float) -> None:
        self._ticks += 1
        self.idle += seconds


def patience_with(scene: Scene) -> Patience:
    """Patience for as long as the solution may let pass by the durations that it was given."""
    span = max(TICK_SPAN, 1.2 * scene.longest_duration())
    return Patience(max(TIMER_PATIENCE, span), span)


class Effort:
    """The bound on the solution's own work between two signs of progress."""

    def __init__(self, scene: Scene, bound: Bound) -> None:
        self.scene, self.bound = scene, bound
        self.renew()

    def renew(self) -> None:
        self._cpu: float | None = None
        self._since = now()

    def check(self, owed: str, why: str) -> None:
        if self._cpu is None:
            self._cpu = self.scene.effort()
        worked = self.scene.effort() - self._cpu
        if worked > self.bound.cpu:
            raise LimitReached(f"time: the solution worked for {worked:.0f} s of CPU time ({why}); owed is {owed}")
        if now() - self._since > self.bound.wall:
            raise LimitReached(
                f"time: the solution did not rest within {self.bound.wall:.0f} s ({why}); owed is {owed}"
            )


def _wait(scene: Scene, happened: Callable[[], T], owed: str, patience: Patience, bound: Bound) -> T | None:
    """Wait until `happened()` is true (its value), or the solution is quiet with nothing due (None)."""
    effort, pause, began = Effort(scene, bound), FIRST_PAUSE, now()
    while True:
        if scene.turn():
            if now() - began > ENDLESS:
                raise LimitReached(f"time: the solution kept sending for {ENDLESS:.0f} s; owed is {owed}")
            effort.renew()
            patience.progress()
            pause = FIRST_PAUSE
            continue
        if value := happened():
            return value
        look = scene.look()
        if look.quiet:
            if value := happened():  # what the kernel tells (an exit) may have come since
                return value
            scene.require_alive(owed)
            timer = patience.pause(look.timers)
            if timer is None:
                return None
            before = now()
            moved = scene.turn(timer)
            patience.spent(now() - before)
            if moved:
                effort.renew()
                patience.progress()
        else:
            if pause == LONGEST_PAUSE:  # before that it can't have worked for long, and a look at it has its price
                effort.check(owed, look.busy_because)
            scene.turn(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)


def until(scene: Scene, happened: Callable[[], T], owed: str, to: str = "") -> T:
    """Wait for `happened()` to be true, and return its value.

    `owed` says in a few words what that is, and `to` which party of the harness waits for it.

    Raises Broken as soon as it can't come any more, LimitReached when that could not be decided.
    """
    value = _wait(scene, happened, owed, patience_with(scene), OWED)
    if value is None:
        record = scene.record
        record.fact("is idle")
        record.owed(record.solution, to or record.solution, owed)
        whom = f"{to} is owed" if to else f"the {record.solution} owes"
        raise Broken(f"{whom} {owed}; the {record.solution} is idle, so it will not come")
    return value


def until_reached(scene: Scene, happened: Callable[[], T], wanted: str) -> T:
    """Like `until`, for what merely sets the scene: if it does not come, nothing was learned (NotReached)."""
    value = _wait(scene, happened, wanted, patience_with(scene), OWED)
    if value is None:
        raise NotReached(f"the scene could not be set: {wanted}; the solution is idle, so it will not come")
    return value


def settled(scene: Scene) -> None:
    """Wait until the solution is quiet: what was sent so far has had all the effect it will have for now.

    A later timer of the solution may still act; what must not happen then is watched by a tripwire. A program that
    never rests (many threads that poll) counts as settled once it has worked for a while and nothing has moved.
    """
    with suppress(LimitReached):
        _wait(scene, lambda: None, "to come to rest", Patience(BATCH_TIMER, 0.0), RESTLESS)


def until_gone(scene: Scene) -> int | None:
    """The exit status of a solution whose connections ended, None if it lives on: it rests, or works for a while."""
    end = now() + DYING
    while scene.exit_status() is None and now() < end and not scene.look().quiet:
        scene.turn(FIRST_PAUSE)
    return scene.exit_status()


def until_stopped(scene: Scene, grace: float) -> None:
    """Wait for a solution that was told to stop: until it has, or `grace` seconds are over, or it plainly won't."""
    with suppress(LimitReached):
        _wait(scene, lambda: scene.exit_status() is not None, "an end", Patience(), Bound(grace, grace))


def until_flushed(scene: Scene) -> None:
    """Wait until everything that was sent and reset has left for the kernel; needs nothing of the solution."""
    began = now()
    while left := _unflushed(scene.network):
        if now() > began + SYN_TIME and all(isinstance(party, Connection) and party.connecting for party in left):
            return  # the accept queue is full; they are opened once it is not
        if now() > began + OWED.wall:
            raise NotReached("the scene could not be set: the solution's receive queue is full")
        scene.turn(LONGEST_PAUSE)


def _unflushed(network: Network) -> list[Connection | Endpoint]:
    parties: list[Connection | Endpoint] = [*network.parties(Connection), *network.parties(Endpoint)]
    return [party for party in parties if not party.flushed]


def until_listening(scene: Scene) -> str:
    """Wait until the solution's own processes listen where they were told to; "" or what is wrong."""
    deadline, patience = now() + START_CAP, Patience()
    host, port = scene.address
    while now() < deadline:
        look = scene.look()  # before the listeners are looked at: what is quiet now had its chance to listen
        missing = next((name for name in scene.transports if not _listens(scene, name)), None)
        if missing is None:
            return ""
        where = f"{host}:{port}" if scene.transports == ("tcp",) else f"{host}:{port} ({missing.upper()})"
        status = scene.exit_status()
        if status is not None:
            foreground = "" if status else "; it must serve until it gets SIGTERM, in the foreground"
            return f"it {how_it_ended(status)} before it listened on {where}{foreground}"
        pause = patience.pause(look.timers) if look.quiet else LONGEST_PAUSE
        if pause is None:
            return f"it is idle, but does not listen on {where}" + _elsewhere(scene.listening(missing))
        before = now()
        scene.turn(pause)
        if look.quiet:
            patience.spent(now() - before)
    return f"it did not listen on {where} within {START_CAP:.0f} s"


def _listens(scene: Scene, transport: str) -> bool:
    host, port = scene.address
    return any(address in (host, *ANY_ADDRESS) and number == port for address, number in scene.listening(transport))


def _elsewhere(listening: list[tuple[str, int]]) -> str:
    if not listening:
        return "; use the environment variables HOST and PORT"
    places = " and ".join(f"{host}:{port}" for host, port in listening)
    return f"; it listens on {places}: use the environment variables HOST and PORT"


def linger(scene: Scene, since: float) -> None:
    """Give late timers `LINGER` seconds to act, from the last tripwire on, which was left at `since`."""
    while (left := since + LINGER - now()) > 0:
        scene.turn(left)
    while scene.turn():
        pass


def elapse(scene: Scene, milliseconds: float) -> None:
    """Let a duration pass that the kata's contract names (a key's time to live), the network going on meanwhile."""
    end = now() + milliseconds / 1000
    while (left := end - now()) > 0:
        scene.turn(left)
