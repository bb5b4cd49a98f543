"""A run from both ends: the process that pytest runs in takes the behaviours from the front, its twin from the back.

To judge one program is to wait for it in turns, which leaves a second core idle. So the process forks a twin once all
is collected, and whoever is free takes one more behaviour, until they meet. Each has programs, peers and ports of its
own. What is told does not depend on who was faster: the first process tells all reports, in order, and it alone decides
what is blocked. If the twin ends early, whatever it has not told is tried by the first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import termios
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from itertools import zip_longest
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import pytest
from _pytest.runner import runtestprotocol

from harness.collecting import behaviour_of, module_of

MOST_ITEMS = 10_000  # well below what a pipe holds
PR_SET_PDEATHSIG = 1
LATE, FAULT = "late", "fault"  # what is told that is no item's: their names hold "::"


def useful(config: pytest.Config, items: Sequence[pytest.Item]) -> bool:
    """Whether two processes may share these items, and a core is there for the second."""
    option = config.option
    watched = option.capture == "no" or option.usepdb or option.trace  # by somebody at a terminal
    one_of_many = hasattr(config, "workerinput") or getattr(option, "dist", "no") != "no"
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1  # a fork copies one thread only
        and not (watched or one_of_many)
        and 1 < len(items) <= MOST_ITEMS
        and all(behaviour_of(item) and not module_of(item).untouched for item in items)
    )


class Shares:
    """One byte in a pipe for each item: who takes an item takes a byte first, so nobody needs a lock."""

    def __init__(self, number: int) -> None:
        self._reading, writing = os.pipe()
        os.write(writing, bytes(number))
        os.close(writing)

    def take(self) -> bool:
        """Take one more item; False when all are taken."""
        return bool(os.read(self._reading, 1))

    @property
    def left(self) -> int:
        """How many items nobody has taken yet."""
        return int.from_bytes(fcntl.ioctl(self._reading, termios.FIONREAD, bytes(4)), sys.byteorder)

    def close(self) -> None:
        os.close(self._reading)


class First:
    """The plugin of the first process, which forks the twin."""

    def __init__(
        self,
        session: pytest.Session,
        work: Callable[[pytest.Session, Second], None],
        decided: Callable[[pytest.Item], bool],
        take_over: Callable[[pytest.Config, pytest.TestReport], None],
        leave: Callable[[pytest.Item], None],
    ) -> None:
        """`work` is what the twin does. `decided`: the item is blocked, whatever the twin may have seen of it.
        `take_over` takes a report of the twin's for one of this process, before it is told. `leave` is called with the
        last item that was tried here, while the twin still works."""
        self._config, self._decided, self._take_over, self._leave = session.config, decided, take_over, leave
        self.shares = Shares(len(session.items))
        self._tried: pytest.Item | None = None
        self._reports: dict[str, list[dict[str, Any]]] = {}
        self._late: list[dict[str, Any]] = []
        self._connection, theirs = Pipe(duplex=False)
        first = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._connection.close()
            _be_the_twin(first, session, Second(session.config, self.shares, theirs), work)
        theirs.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Tell what the twin says of an item that it has taken; all others are tried here, in the usual way."""
        if self.shares.take():
            self._tried = item
            return None
        if self._tried:
            self._leave(self._tried)
            self._tried = None
        if self._decided(item) or not self._has(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._tell(self._reports.pop(item.nodeid))
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        result = yield
        while self._receive():
            pass
        self._tell(self._late)
        return result

    def _has(self, item: pytest.Item) -> bool:
        """Wait for the twin's reports of an item; False if it has ended without them."""
        while item.nodeid not in self._reports:
            if not self._receive():
                return False
        return True

    def _receive(self) -> bool:
        try:
            name, told = self._connection.recv()
        except (EOFError, ConnectionError):
            return False
        if name == FAULT:
            warnings.warn(
                pytest.PytestWarning(f"the twin failed, what it had left is tried here:\n{told}"), stacklevel=1
            )
        elif name == LATE:
            self._late += told
        else:
            self._reports[name] = told
        return True

    def _tell(self, told: list[dict[str, Any]]) -> None:
        hook = self._config.hook
        for data in told:
            report = hook.pytest_report_from_serializable(config=self._config, data=data)
            self._take_over(self._config, report)
            hook.pytest_runtest_logreport(report=report)

    def close(self) -> None:
        """End the twin; its programs carry the mark of the run, and end with it."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._connection.close()
        self.shares.close()


class Second:
    """The plugin of the twin: reports go to the first process instead of to whoever tells them."""

    def __init__(self, config: pytest.Config, shares: Shares, connection: Connection) -> None:
        self._config, self.shares, self._connection = config, shares, connection

    def try_all(self, items: Sequence[pytest.Item]) -> pytest.Item | None:
        """Try one item after the other until all are taken; the last one that was tried here."""
        last = None
        for item, nextitem in zip_longest(items, items[1:]):
            if not self.shares.take():
                break
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            last = item
        return last

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        self._send(item.nodeid, runtestprotocol(item, log=False, nextitem=nextitem))
        return True

    def tell_late(self, report: pytest.TestReport) -> None:
        """A report of an item that was told already."""
        self._send(LATE, [report])

    def tell_fault(self, text: str) -> None:
        """An error of the kit, which ends the twin."""
        self._connection.send((FAULT, text))

    def _send(self, name: str, reports: list[pytest.TestReport]) -> None:
        serializable = self._config.hook.pytest_report_to_serializable
        self._connection.send((name, [serializable(config=self._config, report=report) for report in reports]))


def _be_the_twin(
    first: int, session: pytest.Session, second: Second, work: Callable[[pytest.Session, Second], None]
) -> NoReturn:
    """Work, and end: what pytest does at its end is for the first process."""
    try:
        _end_with(first)
        _fall_silent(session.config)
        session.config.pluginmanager.register(second)
        session.items.reverse()
        work(session, second)
    except BaseException:
        second.tell_fault(traceback.format_exc())
    finally:
        os._exit(0)


def _end_with(first: int) -> None:
    """End when the first process does, however that comes. Ctrl-C is its business."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != first:
        os._exit(1)
    signal.signal(signal.SIGINT, lambda *_: None)  # SIG_IGN would be inherited by programs


def _fall_silent(config: pytest.Config) -> None:
    """The terminal, and the files that catch output, belong to the first process."""
    config.pluginmanager.unregister(name="capturemanager")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    for stream in (1, 2):
        os.dup2(sys.stdout.fileno(), stream)
