"""Clients that nobody here wrote, in processes of their own: told what to do by lines of JSON, answering likewise.

The harness has one thread and moves bytes only in its turns; so whoever waits for a client passes the turn that
keeps the peers alive meanwhile.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

PROGRAMS = Path(__file__).parent / "programs"
RUNNERS = {".py": sys.executable, ".mjs": shutil.which("node") or "node"}
PATIENCE = 40.0  # seconds, for a machine under any load; a test that gets here has failed
PAUSE = 0.001

Turn = Callable[[float], object]


class Child:
    """A client program. It reads a JSON value a line, and answers each with one."""

    def __init__(self, name: str, turn: Turn, **environment: str) -> None:
        self.name, self._turn = name, turn
        path = PROGRAMS / name
        self._process = subprocess.Popen(
            [RUNNERS[path.suffix], path.name],
            cwd=PROGRAMS,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._from.fileno(), False)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._process.kill()
        self._process.wait()
        self._from.close()

    def tell(self, value: Any) -> None:
        """Let it begin; `told` has its answer."""
        self._to.write(json.dumps(value).encode() + b"\n")
        self._to.flush()

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Let the harness's network go on until something has happened, as long as the program lives."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < end, f"{self.name}: {what} did not come in {PATIENCE} s"
            self._turn(PAUSE)
            if select.select([self._from], [], [], 0)[0]:
                data = os.read(self._from.fileno(), 1 << 16)
                assert data, f"{self.name} ended with status {self._process.wait()}; its output is above"
                self._unread += data

    def told(self) -> Any:
        """Its next answer, when it has come."""
        self.until(lambda: b"\n" in self._unread, "an answer")
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def ask(self, value: Any) -> Any:
        self.tell(value)
        return self.told()
