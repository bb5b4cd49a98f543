"""A Dask cluster of processes of this machine: a scheduler, and workers of one thread each under no nanny."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0  # seconds; a test that gets here has failed


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
        (scheduler,) = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self._scheduler = scheduler
        self.address = self._told("scheduler", "Scheduler at:")

    def _start(self, name: str, *words: str, kit: Path | None = None) -> list[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler" if name == "scheduler" else DASK_WORKER]
        environment = os.environ | {"PYTHONPATH": str(kit or self.kit), "PYTHONUNBUFFERED": "1"}
        with (self.folder / f"{name}.log").open("wb") as log:
            return [
                subprocess.Popen(
                    [*command, *words], cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
            ]

    def _told(self, name: str, words: str) -> str:
        """What the log says after `words`."""
        log = self.folder / f"{name}.log"

        def line() -> str:
            lines = [each for each in log.read_text().splitlines() if words in each]
            return lines[0].split(words)[1].strip() if lines else ""

        until(line, f"{name}: {words}")
        return line()

    def worker(self, threads: int = 1, kit: Path | None = None) -> subprocess.Popen[bytes]:
        """A worker more, once the scheduler knows it."""
        name = f"worker-{len(self.workers)}"
        words = ("--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--local-directory", str(self.folder))
        self.workers += self._start(name, self.address, "--host", "127.0.0.1", *words, kit=kit)
        self._told(name, "Registered to:")
        return self.workers[-1]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for process in [*self.workers, self._scheduler]:
            process.kill()
            process.wait()


DASK_WORKER = "distributed.cli.dask_worker"
