"""A Dask cluster of processes of this machine: a scheduler, and workers of one thread each under no nanny."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120.0  # seconds; a test that gets here has failed


def until(happened: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} s"
        select.select([], [], [], 0.01)


class Processes:
    """The cluster, with the kit that lies in `kit`."""

    def __init__(self, kit: Path, folder: Path) -> None:
        self.kit, self.folder = kit, folder
        self.workers: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.scheduler = self._start("scheduler", "distributed.cli.dask_scheduler", *words)
        self.address = self._told("scheduler", "Scheduler at:")

    def _start(self, name: str, *words: str, kit: Path | None = None) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(kit or self.kit)}
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _told(self, name: str, words: str) -> str:
        """What the log says after `words`."""
        log = self.folder / f"{name}.log"

        def line() -> str:
            lines = [each for each in log.read_text().splitlines() if words in each]
            return lines[0].split(words)[1].strip() if lines else ""

        until(line, f"{name}: {words}")
        return line()

    def start(self, number: int, threads: int = 1, kit: Path | None = None) -> list[subprocess.Popen[bytes]]:
        """Some workers more, once the scheduler knows them."""
        names = [f"worker-{len(self.workers) + index}" for index in range(number)]
        words = ("--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--local-directory", str(self.folder))
        at = ("distributed.cli.dask_worker", self.address, "--host", "127.0.0.1")
        started = [self._start(name, *at, *words, kit=kit) for name in names]
        self.workers += started
        for name in names:
            self._told(name, "Registered to:")
        return started

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


def ancestors(pid: int) -> list[int]:
    """The processes above `pid`, the nearest first."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        found.append(pid)
    return found
