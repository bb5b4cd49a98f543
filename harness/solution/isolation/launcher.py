"""Starts programs in isolation, and watches their limits: a process of one thread, so that it may fork.

Run as `python -m harness.solution.isolation.launcher`; its standard input is a socket of packets, one JSON value each:

    {"start": ORDER}     {"pid": ..., "program": ..., "group": ...} or {"error": ...}
    {"exceeded": PID}    {"exceeded": SENTENCE}, "" while that program has kept its bounds
    {"forget": PID}      {}: it has ended

A started program is no child of this process: the harness inherits it (as a subreaper), and learns how it ends. What
exceeds a bound is killed with its whole tree, after the fact was noted. Ends when the harness does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
from typing import Any

from harness.solution import guard
from harness.solution.isolation import bubblewrap, landlock, limits, seccomp
from harness.solution.isolation.bubblewrap import Inside
from harness.solution.isolation.limits import Folders, Watchdog

TICK = 20  # milliseconds between two looks at the limits
NICE, LAUNCHER_NICE = 10, -10  # a growing tree must not starve who looks after it
MESSAGE = 3 << 16  # bytes; a folder that is taken apart has many names
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
BWRAP = "/usr/bin/bwrap"
Order = dict[str, Any]  # see `Isolation.start` in sandbox.py


class Failed(Exception):
    """A program could not be started; the message says why."""


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _bounded_later(order: Order) -> bool:
    """A namespace's first process counts those of its user outside too, unless it is bounded once it stands."""
    return bool(order["level"] == 3 and order["uid"] == os.geteuid())


# -- in the child, between fork and exec ------------------------------------------------------------------------------


def _become(order: Order, gate: int, told: int) -> None:
    """What a program gets at any level: session, files, limits, user, and an end together with the harness."""
    os.setsid()
    os.write(told, f"{os.getpid()}\n".encode())
    os.read(gate, 1)  # until the process in between is gone, so that the parent is the harness
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    for target, source in enumerate((nothing, log, log)):
        os.dup2(source, target)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    limits.set_own(0 if _bounded_later(order) else order["tasks"])
    if order["uid"] != os.geteuid():
        os.setgroups([])
        os.setresgid(order["gid"], order["gid"], order["gid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the user has cleared it
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _confined(order: Order, kept: dict[str, int]) -> None:
    """Execute the program at levels 0 to 2."""
    os.chdir(order["folder"])
    if order["level"] >= 1:
        landlock.restrict(order["readable"], order["listable"], order["writable"], order["ports"])
        seccomp.install(seccomp.program(order["own_files"]))
    os.execve(order["words"][0], order["words"], order["environment"])


def _wrapped(order: Order, kept: dict[str, int]) -> None:
    """Execute bwrap, which executes the program at level 3."""
    inside = Inside(
        tuple(order["words"]),
        order["folder"],
        order["environment"],
        tuple(order["readable"]),
        tuple(order["hidden"]),
        tuple(order["writable"]),
    )
    data = {"seccomp": seccomp.program(own_files=True), **bubblewrap.files(order["uid"], order["gid"])}
    descriptors = kept | {name: _memory(content) for name, content in data.items()}
    told = _memory(bubblewrap.arguments(inside, descriptors))
    for descriptor in (*descriptors.values(), told):
        os.set_inheritable(descriptor, True)
    os.chdir("/")
    os.execve(BWRAP, ["bwrap", "--args", str(told), "--", *order["words"]], {})


def _memory(content: bytes) -> int:
    """A descriptor from which `content` is read."""
    descriptor = os.memfd_create("data")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


# -- in the launcher --------------------------------------------------------------------------------------------------


def _fork(order: Order, kept: dict[str, int]) -> int:
    """The process id of a program that has been executed. Raises Failed."""
    hearing, told = os.pipe()
    waiting, gate = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)
        os.close(gate)
        try:
            _become(order, waiting, told)
            (_wrapped if order["level"] == 3 else _confined)(order, kept)
        except BaseException as error:
            os.write(told, f"{type(error).__name__}: {error}".encode())
        os._exit(127)
    for descriptor in (told, waiting):
        os.close(descriptor)
    os.waitpid(between, 0)
    os.close(gate)
    with os.fdopen(hearing, "rb") as words:  # its end is the exec, or the end
        pid, _, problem = words.read().decode(errors="replace").partition("\n")
    if problem or not pid:
        raise Failed(problem or "it ended before it was executed")
    return int(pid)


def _started(order: Order) -> tuple[dict[str, int], int | None]:
    """The processes of a program; and what bwrap writes to until its end, to be closed after it."""
    if order["level"] < 3:
        pid = _fork(order, {})
        return {"pid": pid, "program": pid, "group": pid}, None
    hearing, status = os.pipe()
    block, go = os.pipe()
    try:
        pid = _fork(order, {"status": status, "block": block})
    finally:
        os.close(status)
        os.close(block)
    line = b""
    while not line.endswith(b"\n"):
        line += (data := os.read(hearing, MESSAGE))
        if not data:
            raise Failed("bwrap could not set up its namespaces")
    first = int(json.loads(line)["child-pid"])
    if _bounded_later(order):
        with contextlib.suppress(ProcessLookupError):
            limits.bound_tasks(first, order["tasks"])
    os.write(go, b"go")
    os.close(go)
    return {"pid": pid, "program": _child_of(first) or pid, "group": first}, hearing


def _child_of(first: int) -> int | None:
    """The program, which the first process of a namespace starts; None when both are gone already."""
    while os.path.exists(f"/proc/{first}"):
        for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):
            try:
                with open(f"/proc/{pid}/stat", "rb") as stat:
                    fields = stat.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            if int(fields[1]) == first:
                return pid
            if pid == first and fields[0] in b"ZX":
                return None
    return None


class Launcher:
    """The programs that were started, each with its watchdog."""

    def __init__(self) -> None:
        self._watched: dict[int, Watchdog] = {}
        self._exceeded: dict[int, str] = {}
        self._orders: dict[int, tuple[Order, int]] = {}
        self._hearing: dict[int, int] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"start": order}:
                try:
                    started, hearing = _started(order)
                except (Failed, OSError) as problem:
                    return {"error": str(problem)}
                folders = Folders(order["log"], tuple(order["writable"]), order["bounded"])
                self._watched[started["pid"]] = Watchdog(started["pid"], folders)
                self._orders[started["pid"]] = order, started["group"]
                if hearing is not None:
                    self._hearing[started["pid"]] = hearing
                return dict(started)
            case {"exceeded": pid}:
                return {"exceeded": self._exceeded.get(pid, "")}
            case {"forget": pid}:
                self._drop(pid)
                if (hearing := self._hearing.pop(pid, None)) is not None:
                    os.close(hearing)
                return {}
        raise ValueError(f"not a request: {request}")

    def look(self) -> None:
        for pid, watchdog in list(self._watched.items()):
            if why := watchdog.exceeded():
                self._exceeded[pid] = why
                _end(watchdog, self._orders[pid], why)
                self._drop(pid)

    def _drop(self, pid: int) -> None:
        if watchdog := self._watched.pop(pid, None):
            watchdog.close()

    def serve(self, control: socket.socket) -> None:
        poll = select.poll()
        poll.register(control, select.POLLIN)
        while True:
            if poll.poll(TICK if self._watched else None):
                data = control.recv(MESSAGE)
                if not data:
                    return
                control.send(json.dumps(self.answer(json.loads(data))).encode())
            self.look()


def _end(watchdog: Watchdog, started: tuple[Order, int], why: str) -> None:
    """Kill a tree that may be growing: in one step where there is one, else it is stopped first."""
    order, group = started
    if order["level"] == 3:
        guard.kill(group)  # the first process of its namespace, and with it all others
    elif why.startswith("processes") and order["uid"] != os.geteuid():
        guard.kill_all_of(order["uid"])
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for _ in range(3):
            for pid in watchdog.tree.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def main() -> None:
    _prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(PermissionError):  # root's privilege; others have to do without it
        os.nice(LAUNCHER_NICE)
    with socket.socket(fileno=0) as control:
        os.set_inheritable(control.fileno(), False)
        Launcher().serve(control)


if __name__ == "__main__":
    main()
