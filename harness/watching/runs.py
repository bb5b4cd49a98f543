"""Runs of pytest, each in a process that is forked from a warm one: what a run imports has been imported before.

Starting Python, pytest and the kit takes longer than many a run. The warm process is multiprocessing's fork server; it
has one thread, and imports nothing that a learner may edit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from harness import kata as katas
from harness.results import Result
from harness.verdicts import Unusable

ENOUGH = 5.0  # seconds for an interrupted run to clean up after itself; then it is killed, and its guard cleans up
QUOTED_LINES = 12
WARM = "harness.watching.warm"


class Run:
    """One run that is under way. Its connection is readable when there is something to `take`."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        self.status: int | None = None
        self._began = False
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=carry_out, args=(arguments, str(log), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def take(self) -> list[Result] | None:
        """The results that have come, None when the run is over."""
        results = []
        try:
            while self.connection.poll():
                match self.connection.recv():
                    case "began":
                        self._began = True
                    case int() as status:
                        self.status = status
                    case table:
                        results.append(Result.from_json(table))
        except EOFError:
            if results:
                return results
            self._close()
            return None
        return results

    def cancel(self) -> None:
        """End it: pytest stops as after Ctrl-C, and ends every program that it started."""
        if self._began and self._process.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGINT)
            self._process.join(ENOUGH)
        self._process.kill()
        self._close()

    def last_words(self) -> list[str]:
        """The last lines that pytest wrote, for a run that had no results."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-QUOTED_LINES:]

    def _close(self) -> None:
        self._process.join()
        self._process.close()
        self.connection.close()


def warm_up(kata: str) -> None:
    """Start the process from which runs are forked, and let it import what runs of this kata need."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([WARM, __name__, *katas.imports_of(kata)])
    try:
        forkserver.ensure_running()
    except OSError as error:  # it is met at a socket below the folder for temporary files
        where = tempfile.gettempdir()
        raise Unusable(
            f"no socket can be made in {where} ({error}); set TMPDIR to a folder with a shorter path"
        ) from None


class Teller:
    """A pytest plugin that sends each result as soon as there is one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, value: Any) -> None:
        try:
            self._connection.send(value)
        except BrokenPipeError:
            pytest.exit("nobody watches any more")

    def pytest_runtest_logreport(self, report: Any) -> None:
        table = getattr(report, "behaviour", None)
        if table is not None and report.when != "teardown":
            self.tell(table)


def carry_out(arguments: list[str], log: str, connection: Connection) -> None:
    """The forked process: pytest with these arguments, its text in `log`, its results through `connection`."""
    os.setsid()  # Ctrl-C is for whoever watches
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    teller = Teller(connection)
    teller.tell("began")
    teller.tell(int(pytest.main(arguments, plugins=[teller])))
