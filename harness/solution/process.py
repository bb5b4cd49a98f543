"""A solution as a process of its own: started in a clean environment, killed with everything it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.solution.forks import Forked
from harness.solution.scratch import Scratch
from harness.subjects import Subject
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from harness.solution.isolation.sandbox import Isolated, Isolation

SWEEPS = 20  # over a tree that may be growing
PYTHONS = {"python", "python3"}
LAST_LINES, LAST_BYTES = 30, 8192
BUILD_SECONDS = 60  # of an isolated build: a learner's own may take its time


def command(subject: Subject, words: tuple[str, ...], python: str = sys.executable) -> list[str]:
    """The words to execute; `python` is an interpreter that has the kata's extras."""
    program, *arguments = words
    if program in PYTHONS:
        return [python, *arguments]
    if os.sep in program:
        return [str((subject.folder / program).resolve()), *arguments]
    found = shutil.which(program)
    if found is None:
        raise Unusable(f"`{program}` is not installed, and {subject.folder} is run by `{' '.join(words)}`; install it")
    return [found, *arguments]


def build(subject: Subject, scratch: Scratch) -> None:
    """Run the build step. Raises Unusable with its last lines when it fails."""
    if not subject.build:
        return
    status, output = (_built_isolated if scratch.isolation else _built)(subject, scratch)
    if status:
        lines = "\n".join(output.decode(errors="replace").splitlines()[-LAST_LINES:])
        raise Unusable(f"`{' '.join(subject.build)}` failed with status {status} in {subject.folder}:\n{lines}")


def _built(subject: Subject, scratch: Scratch) -> tuple[int, bytes]:
    words = command(subject, subject.build)
    building = _execute(words, cwd=subject.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = building.communicate()
    return building.returncode, output


def _built_isolated(subject: Subject, scratch: Scratch) -> tuple[int, bytes]:
    assert scratch.isolation
    folder = scratch.new_folder("build")
    home, log = folder / "home", folder / "output.log"
    home.mkdir()
    words = command(subject, subject.build, str(scratch.isolation.interpreter.command))
    whole = scratch.environment | {"HOME": str(home), "TMPDIR": str(home)}
    status = scratch.isolation.run_to_end(words, subject.folder, whole, log, BUILD_SECONDS)
    if status is None:
        raise Unusable(f"`{' '.join(subject.build)}` did not end within {BUILD_SECONDS} s")
    with log.open("rb") as output:
        output.seek(max(log.stat().st_size - LAST_BYTES, 0))
        return status, output.read()


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


def _isolated(
    isolation: Isolation, subject: Subject, environment: dict[str, str], log: Path, ports: Collection[int]
) -> Isolated:
    words = command(subject, subject.run, str(isolation.interpreter.command))
    writable = {Path(environment[name]) for name in ("STATE_DIR", "HOME")}
    return isolation.start(words, subject.folder, environment, log, sorted(writable), ports)


class Process:
    """One run of a subject's program: `pid` is the root of its tree, and, unless it is wrapped, the program itself."""

    def __init__(
        self,
        subject: Subject,
        environment: dict[str, str],
        scratch: Scratch,
        home: Path,
        log: Path,
        ports: Collection[int] = (),
    ) -> None:
        """`ports` are those that the program may connect to, where that can be limited."""
        self.log, self.scratch = log, scratch
        whole = scratch.environment | {"HOME": str(home), "TMPDIR": str(home)} | environment
        self._process: Isolated | Forked | subprocess.Popen[bytes]
        if scratch.isolation:
            self._process = _isolated(scratch.isolation, subject, whole, log, ports)
            self._program, self._group = self._process.program, self._process.group
        else:
            self._process = _forked(subject, whole, scratch, log) or _started(subject, whole, log)
            self._program = self._group = self._process.pid
        self.pid = self._process.pid
        scratch.announce(self.pid)

    def exceeded(self) -> str:
        """Which limit it has exceeded, "" if none; only isolation sets any."""
        return self.scratch.isolation.exceeded(self.pid) if self.scratch.isolation else ""

    def exit_status(self) -> int | None:
        """None while it runs; negative numbers are signals."""
        return self._process.poll()

    @property
    def program(self) -> int:
        """The process id of the program itself, which signals go to."""
        return self._program

    def signal(self, number: int) -> None:
        """Send a signal to the program itself, as an operator would."""
        if self.exit_status() is None:
            os.kill(self._program, number)

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, number)

    def kill(self, living: Callable[[], list[int]]) -> None:
        """SIGKILL the whole tree: the session, and those of the `living` that left it, until none is left."""
        stray = living()
        self.signal_group(signal.SIGKILL)
        if self._group != self.pid:
            end(self.pid, reap=False)
        self._process.wait()
        for _ in range(SWEEPS):
            for pid in stray:
                if pid != self.pid:
                    end(pid)
            stray = living() if stray else []
        if self.scratch.isolation:
            self.scratch.isolation.forget(self.pid)

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


def end(pid: int, reap: bool = True) -> None:
    """Kill and reap a process that may be somebody else's child, or gone already."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        if reap:
            os.waitpid(pid, 0)


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
