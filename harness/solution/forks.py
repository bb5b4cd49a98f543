"""Starts Python solutions by forking an interpreter that has booted already (see `preloaded.py`), where it can.

A solution can't tell: flags, paths, arguments, environment, session, files and tracebacks are those of a plain start,
which is what it gets in all other cases (another language, another system, modules that shadow the standard library).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.solution import guard

PROGRAM = Path(guard.__file__).with_name("preloaded.py")
RUN_IT = f"exec(compile(open({str(PROGRAM)!r}).read(), {str(PROGRAM)!r}, 'exec'))"
POSSIBLE = sys.platform == "linux"  # only there does the harness inherit the forked processes


class Forked:
    """A process that was forked for the harness; to be waited for like a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """None while it runs; negative numbers are signals."""
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reap(0)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Forks:
    """The interpreter that is forked, started when first needed."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """`folder` is an empty one, and the `environment` what all programs have in common."""
        self._folder, self._environment = folder, environment
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._preloaded: set[Path] = set()

    def preload(self, folder: Path) -> None:
        """Let it import, meanwhile, what the files of a kata's skeleton import."""
        if POSSIBLE and folder.is_dir() and folder not in self._preloaded:
            self._preloaded.add(folder)
            self._tell({"preload": str(folder)})

    def start(self, script: str, folder: Path, environment: dict[str, str], log: Path) -> Forked | None:
        """Start a script; None where only a plain start will do."""
        if not POSSIBLE or not (folder / script).is_file():
            return None
        self._tell({"script": script, "folder": str(folder), "environment": environment, "log": str(log)})
        pid = self._told()
        return Forked(pid) if pid else None

    def leave(self) -> None:
        """After a fork of the harness: the interpreter is the other's."""
        if self._control:
            self._control.close()

    def close(self) -> None:
        if self._control and self._process:
            self._control.close()
            self._process.wait()

    def _tell(self, value: dict[str, Any]) -> None:
        if self._control is None:
            self._control = self._boot()
        self._control.sendall(json.dumps(value).encode() + b"\n")

    def _told(self) -> int:
        assert self._control is not None
        answer = b""
        while not answer.endswith(b"\n"):
            answer += (data := self._control.recv(64))
            if not data:
                raise ConnectionError(f"{PROGRAM.name} ended with status {self._process and self._process.wait()}")
        return int(answer)

    def _boot(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", RUN_IT],
                cwd=self._folder,
                env=self._environment | {"HOME": str(self._folder), "TMPDIR": str(self._folder)},
                stdin=theirs.fileno(),
                start_new_session=True,  # Ctrl-C is for the run
            )
        return ours
