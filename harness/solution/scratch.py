"""One scratch folder a run, the mark that its processes carry, and the guard that cleans up after a killed run.

The guard comes first: it stays outside of the namespaces that an isolated run moves into, where it sees all of it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from harness.solution import guard
from harness.solution.forks import Forks

if TYPE_CHECKING:
    from harness.solution.isolation.sandbox import Isolation

MARK = "BACKEND_KATAS_RUN"
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "VIRTUAL_ENV")
PYTHON = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
PR_SET_CHILD_SUBREAPER = 36


class Scratch:
    """Folders for copies, state, homes and output of one run; all are gone when it is closed."""

    def __init__(self, isolation: Isolation | None = None) -> None:
        self.isolation = isolation
        self.folder = Path(
            tempfile.mkdtemp(prefix="backend-katas-", dir=isolation.temporary_folder() if isolation else None)
        )
        self.mark = secrets.token_hex(8)
        inherited = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        self.environment = inherited | PYTHON | {MARK: self.mark}  # of every program of the run
        self._made = 0
        become_subreaper()
        uid = str(isolation.uid) if isolation and isolation.own_user else ""
        claim = isolation.claim if isolation else None
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, f"{MARK}={self.mark}", str(self.folder), uid],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, not for its guard
            pass_fds=[claim.fileno()] if claim else [],  # nobody else gets the user before its last process is killed
        )
        if claim:
            claim.close()
        if isolation:
            isolation.enter(self.folder, [self._guard.pid])
            self.environment |= isolation.interpreter.environment
        self.forks = Forks(self.new_folder("forks"), self.environment)

    def new_folder(self, name: str) -> Path:
        self._made += 1
        folder = self.folder / f"{self._made}-{name}"
        folder.mkdir(mode=0o711)
        return folder

    def split_off(self) -> None:
        """After a fork of the harness: folders and an interpreter of its own; mark and guard are those of the run."""
        become_subreaper()
        self.folder = self.new_folder("twin")
        self.forks.leave()
        self._left = self.forks  # kept: an object that forgets a process which goes on is warned of
        self.forks = Forks(self.new_folder("forks"), self.environment)

    def announce(self, group: int) -> None:
        """Tell the guard of a process group, where it can't find processes by their mark."""
        if not os.path.isdir("/proc/self") and self._guard.stdin:
            self._guard.stdin.write(f"{group}\n".encode())
            self._guard.stdin.flush()

    def marked(self) -> list[int]:
        """The processes of this run, also those that left their session and their parent."""
        return guard.marked(f"{MARK}={self.mark}")

    def close(self) -> None:
        self.forks.close()
        if self.isolation:
            self.isolation.close()
        if self._guard.stdin:
            self._guard.stdin.close()
        self._guard.wait()  # it removes the folder


def become_subreaper() -> None:
    """Let orphans of solutions become children of the harness, so that they stay in sight (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
