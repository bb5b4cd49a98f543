"""A solution as a process of its own: started in a clean environment, killed with everything it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.solution.forks import Forked
from harness.solution.scratch import Scratch
from harness.subjects import Subject
from harness.verdicts import Unusable

PYTHONS = {"python", "python3"}
LAST_LINES, LAST_BYTES = 30, 8192


def command(subject: Subject, words: tuple[str, ...]) -> list[str]:
    """The words to execute; `python` is the interpreter that the kit runs in, so that the kata's extras are there."""
    program, *arguments = words
    if program in PYTHONS:
        return [sys.executable, *arguments]
    if os.sep in program:
        return [str((subject.folder / program).resolve()), *arguments]
    if shutil.which(program) is None:
        raise Unusable(f"`{program}` is not installed, and {subject.folder} is run by `{' '.join(words)}`; install it")
    return [program, *arguments]


def build(subject: Subject) -> None:
    """Run the build step. Raises Unusable with its last lines when it fails."""
    if not subject.build:
        return
    words = command(subject, subject.build)
    building = _execute(words, cwd=subject.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = building.communicate()
    if building.returncode:
        lines = "\n".join(output.decode(errors="replace").splitlines()[-LAST_LINES:])
        raise Unusable(
            f"`{' '.join(subject.build)}` failed with status {building.returncode} in {subject.folder}:\n{lines}"
        )


def _execute(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start a program of the subject. Raises Unusable when there is none, or it may not be executed."""
    try:
        return subprocess.Popen(words, **how)
    except OSError as error:
        raise Unusable(f"`{words[0]}` can't be executed: {error.strerror}; see `run` in kata.toml") from None


def _forked(subject: Subject, environment: dict[str, str], scratch: Scratch, log: Path) -> Forked | None:
    program, *arguments = subject.run
    if program not in PYTHONS or len(arguments) != 1:
        return None
    return scratch.forks.start(arguments[0], subject.folder.resolve(), environment, log)


def _started(subject: Subject, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return _execute(
            command(subject, subject.run),
            cwd=subject.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Process:
    """One run of a subject's program."""

    def __init__(self, subject: Subject, environment: dict[str, str], scratch: Scratch, home: Path, log: Path) -> None:
        self.log, self.scratch = log, scratch
        whole = scratch.environment | {"HOME": str(home), "TMPDIR": str(home)} | environment
        self._process = _forked(subject, whole, scratch, log) or _started(subject, whole, log)
        self.pid = self._process.pid
        scratch.announce(self.pid)

    def exit_status(self) -> int | None:
        """None while it runs; negative numbers are signals."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, as an operator would."""
        if self.exit_status() is None:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self, stray: list[int]) -> None:
        """SIGKILL the whole tree: the session, and the `stray` processes that left it."""
        self.signal_group(signal.SIGKILL)
        self._process.wait()
        for pid in stray:
            if pid != self.pid:
                end(pid)

    def output_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def output(self, since: int = 0) -> str:
        """What the program printed from byte `since` on, at most its last lines."""
        if not self.log.exists():
            return ""
        size = self.output_size()
        with self.log.open("rb") as log:
            log.seek(max(since, size - LAST_BYTES))
            lines = log.read(LAST_BYTES).decode(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def end(pid: int) -> None:
    """Kill and reap a process that may be somebody else's child, or gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
