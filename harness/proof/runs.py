"""Runs of pytest, side by side: started, timed, and ended with everything they started.

What a run found comes from its `--results` file; its terminal text is only quoted when there is no such file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import kata as katas
from harness import waiting
from harness.kata import Kata
from harness.results import Result
from harness.verdicts import Verdict

QUIETLY = ("-q", "--story=none", "-p", "no:cacheprovider")
QUOTED_LINES = 8
BUSY = Path(__file__).parent / "busy.py"  # a program; importing it would run it


@dataclass(frozen=True)
class Run:
    """A run of pytest on a kata that is wanted: a name for people, and what is said beyond the kata's folder."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    run: Run
    seconds: float
    seed: int
    results: tuple[Result, ...]
    problem: str  # why there are no results, "" when there are

    def with_verdict(self, *verdicts: Verdict) -> list[Result]:
        return [result for result in self.results if result.verdict in verdicts]

    @property
    def unheld(self) -> list[Result]:
        return [result for result in self.results if result.verdict is not Verdict.HOLDS]


class Bench:
    """Where runs on one kata take place; leaving it ends what still runs."""

    def __init__(self, kata: Kata) -> None:
        self.kata = kata
        self._lock = threading.Lock()
        self._closed = False
        self._running: set[subprocess.Popen[bytes]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill(process)

    def all(self, runs: list[Run], width: int, done: Callable[[Outcome], None]) -> list[Outcome]:
        """Carry out the runs, `width` at a time, and call `done` as each ends; the outcomes in the runs' order."""
        pool = ThreadPoolExecutor(width)
        futures = [pool.submit(self._one, run) for run in runs]
        try:
            for future in as_completed(futures):
                done(future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return [future.result() for future in futures]

    @contextmanager
    def busy(self, number: int) -> Iterator[None]:
        """Let `number` processes use up the processor meanwhile."""
        hogs = [subprocess.Popen([sys.executable, "-I", "-S", str(BUSY)]) for _ in range(number)]
        try:
            yield
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()

    def _one(self, run: Run) -> Outcome:
        words = [sys.executable, "-m", "pytest", str(self.kata.folder), *QUIETLY, *run.arguments]
        with tempfile.TemporaryDirectory(prefix="kata-prove-") as folder, tempfile.TemporaryFile() as log:
            file = Path(folder, "results.json")
            before = waiting.now()
            process = self._start([*words, f"--results={file}"], log.fileno())
            status = process.wait()
            seconds = waiting.now() - before
            with self._lock:
                self._running.discard(process)
            log.seek(0)
            return _outcome(run, status, seconds, file, log.read().decode(errors="replace"))

    def _start(self, words: list[str], output: int) -> subprocess.Popen[bytes]:
        with self._lock:  # so that nothing starts once the bench is closed
            if self._closed:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                words,
                cwd=katas.HOME,
                env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the bench, which then ends the runs
            )
            self._running.add(process)
        return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a run and its workers; its solutions are ended by the guard that every run has."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(run: Run, status: int, seconds: float, file: Path, output: str) -> Outcome:
    table: dict[str, Any] = (
        json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"seed": 0, "results": []}
    )
    results = tuple(Result.from_json(each) for each in table["results"])
    problem = ""
    if status not in (0, 1) or not results:
        last = [line for line in output.splitlines() if line.strip()][-QUOTED_LINES:]
        problem = "\n".join([f"pytest ended with status {status}; its last lines:", *last])
    return Outcome(run, seconds, table["seed"], results, problem)
