"""The harness's end of isolation: what a run takes away from the programs that it starts.

`enter` comes first of all: at level 2 and above the harness itself moves, which it can do only while it has one thread
and no socket. After it, `staged` gives copies to run, `start` runs them, `close` ends whatever is left and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.solution import guard
from harness.solution.forks import Forked
from harness.solution.isolation import interpreter, limits, namespaces, places
from harness.solution.isolation.interpreter import SYSTEM_PATH, Interpreter
from harness.solution.isolation.launcher import BWRAP, MESSAGE
from harness.solution.isolation.staging import Staging
from harness.solution.kernel import ProcessTree
from harness.solution.thread import GONE
from harness.verdicts import Unusable

UIDS = range(60_000, 65_000)  # of no people and no services: what root gives to programs, one to each run
DISK_IN_MEMORY = limits.DISK + (192 << 20)  # bytes: what a program may write, the copies, and its packages
SHARED = tuple(Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"))
TOLD = 20  # of a long list
PR_SET_DUMPABLE = 4


class Isolated(Forked):
    """A program in isolation. `pid` is the root of its tree; at level 3 that is bwrap, and the program is another."""

    def __init__(self, pid: int, program: int, group: int) -> None:
        super().__init__(pid)
        self.program, self.group = program, group

    def _reap(self, options: int) -> int | None:
        status = super()._reap(options)
        wrapped = self.pid != self.program
        if wrapped and status is not None and 128 < status <= 128 + signal.SIGRTMAX:  # so bwrap tells of a signal
            self.returncode = 128 - status
        return self.returncode


@dataclass
class Findings:
    """What is known of a submission besides its verdicts."""

    level: int
    tampering: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # processes, after the program had ended
    left_out: list[str] = field(default_factory=list)  # of the submission's copy: links and special files


class Isolation:
    """One level, for all programs of one run."""

    def __init__(self, level: int) -> None:
        """Raises Unusable where there can be none; whether a level works is found out by `probe.py`."""
        if sys.platform != "linux":
            raise Unusable(
                f"--isolation needs Linux, this is {sys.platform}; run it in a virtual machine or a container"
            )
        self.findings = Findings(level)
        self._launcher: subprocess.Popen[bytes] | None = None
        self._spared: set[int] = set()
        self._forbidden: set[Path] = set()
        self.claim: socket.socket | None = None  # holds the user id for as long as it is open
        self.uid, self.gid = os.geteuid(), os.getegid()
        if self.uid == 0:
            self.uid = self.gid = self._claimed_uid()

    @property
    def level(self) -> int:
        return self.findings.level

    @property
    def own_user(self) -> bool:
        """Whether the programs run as a user that nobody else is."""
        return self.uid != os.geteuid()

    def _claimed_uid(self) -> int:
        """A user without processes, that no other harness takes meanwhile: limits don't hold for root."""
        taken = {os.stat(f"/proc/{name}").st_uid for name in os.listdir("/proc") if name.isdigit() and _exists(name)}
        for uid in UIDS:
            self.claim = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(OSError):
                if uid not in taken:
                    self.claim.bind(f"\0backend-katas-uid-{uid}")
                    return uid
            self.claim.close()
        raise Unusable("no user id is free for a program to run as; end some of the runs that are going on")

    def temporary_folder(self) -> str:
        """Where the run's folder is made: the programs' user has to get there."""
        places = [Path(tempfile.gettempdir()), *SHARED]
        own = self.uid == os.geteuid()
        found = next((place for place in places if own or (place.is_dir() and interpreter.open_to_all(place))), None)
        if found is None:
            raise Unusable(f"{places[0]} is closed to other users; set TMPDIR to a folder that is open to them")
        return str(found)

    def enter(self, folder: Path, spared: Collection[int]) -> None:
        """Move to where programs of this level live. `folder` is the run's, `spared` are processes of the harness."""
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        closed = self.uid != os.geteuid() and not interpreter.open_to_all(interpreter.BASE)
        folder.chmod(0o711)
        if self.level >= 2:
            namespaces.enter()
            namespaces.mount_memory("/dev/shm", limits.SHARED_MEMORY, limits.FILES, 0o1777)
            namespaces.mount_memory(str(folder), DISK_IN_MEMORY, 4 * limits.FILES, 0o711)
        elif closed:
            namespaces.own_mounts()
        base = interpreter.BASE
        if closed:  # others may not go where the interpreter lies, and it is shown to them elsewhere
            base = folder / "interpreter"
            base.mkdir()
            namespaces.show_read_only(str(interpreter.BASE), str(base))
        self.interpreter = Interpreter(folder / "python", base)
        self._folder = folder
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.solution.isolation.launcher"],
                stdin=theirs.fileno(),
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for the run
            )
        self._spared = {os.getpid(), self._launcher.pid, *spared}
        self._unreachable = namespaces.unreachable() if self.level >= 2 else 0
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody of the same user may look into the harness

    # -- what is run ----------------------------------------------------------------------------------------------

    def staged(self, source: Path, folder: Path) -> Path:
        """A copy of a submission in `folder`, below its own name and its parent's. Raises Unusable."""
        source = source.absolute()
        if source.is_file() and not source.is_symlink():
            return self.staged(source.parent, folder) / source.name
        target = folder / source.parent.name / source.name
        staging = Staging(source)
        staging.copy(target)
        self.findings.left_out += staging.not_copied[:TOLD]
        self.give(folder)
        return target

    def give(self, folder: Path) -> None:
        """Make a folder, and all in it, the programs' own."""
        if self.uid == os.geteuid():
            return
        os.chown(folder, self.uid, self.gid)
        for path, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(os.path.join(path, name), self.uid, self.gid, follow_symlinks=False)

    def forbid(self, programs: Collection[str]) -> None:
        """Let no submission find programs that would do its work, if they are installed here."""
        found = [shutil.which(name, path=SYSTEM_PATH) for name in programs]
        self._forbidden |= {Path(os.path.realpath(path)) for path in found if path}  # links then lead nowhere

    def start(
        self,
        words: list[str],
        folder: Path,
        environment: dict[str, str],
        log: Path,
        writable: Collection[Path],
        ports: Collection[int] = (),
    ) -> Isolated:
        """Start a program that may write to some folders and connect to some ports. Raises Unusable."""
        hidden = self._hidden()
        own = [folder, self.interpreter.folder]
        elsewhere = [place for place in (self.interpreter.base, places.prefix_of(words[0])) if place and _is_far(place)]
        for path in writable:
            self.give(path)
        order: dict[str, Any] = {
            "level": self.level,
            "words": words,
            "folder": str(folder),
            "environment": environment,
            "log": str(log),
            "uid": self.uid,
            "gid": self.gid,
            "own_files": self.uid != os.geteuid() or self.level == 3,
            "tasks": limits.TASKS + (limits.tasks_of(self.uid) if self.uid == os.geteuid() else 0),
            "bounded": str(self._folder) if self.level >= 2 else "",
            "ports": sorted(ports),
            "readable": [str(path) for path in self._readable(own, elsewhere, hidden)],
            "listable": [str(path) for path in places.taken_apart([*places.programs(), *elsewhere], hidden)],
            "writable": [str(path) for path in writable] + (list(places.DEVICES) if self.level < 3 else []),
            "hidden": [str(path) for path in hidden if _is_below(path, [*map(Path, places.PROGRAMS), *elsewhere])],
        }
        answer = self._ask({"start": order})
        if "error" in answer:
            raise Unusable(f"`{words[0]}` can't be executed: {answer['error']}; see `run` in kata.toml")
        return Isolated(**answer)

    def _readable(self, own: list[Path], elsewhere: list[Path], hidden: list[Path]) -> list[Path]:
        if self.level == 3:
            return [*elsewhere, *own]
        folders = [*places.programs(), *elsewhere]
        system = [path for folder in folders for path in places.without(folder, hidden)]
        return [*system, *map(Path, (*places.SETTINGS, *places.USERS, *places.KERNEL)), *own]

    def _hidden(self) -> list[Path]:
        """The kit, the packages that are installed beside it, and what is forbidden."""
        kit = {katas.HOME, Path(sys.prefix)} - {interpreter.BASE}
        return [*kit, *self.interpreter.hidden(), *self._forbidden]

    def run_to_end(
        self, words: list[str], folder: Path, environment: dict[str, str], log: Path, seconds: int
    ) -> int | None:
        """Run a step that may write to its own folder; its exit status, None when it took too long."""
        process = self.start(words, folder, environment, log, [folder, Path(environment["HOME"])])
        waiting = os.pidfd_open(process.pid)
        try:
            if not select.select([waiting], [], [], seconds)[0]:
                return None
            return process.wait()
        finally:
            os.close(waiting)
            self.sweep()
            process.wait()
            self.forget(process.pid)

    def exceeded(self, pid: int) -> str:
        """Which bound that program has exceeded, "" while it has kept them all."""
        return str(self._ask({"exceeded": pid})["exceeded"])

    def forget(self, pid: int) -> None:
        self._ask({"forget": pid})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        message = json.dumps(request).encode()
        if len(message) > MESSAGE:
            raise Unusable("the command in kata.toml is longer than any command needs to be; shorten `run`")
        self._control.send(message)
        answer: dict[str, Any] = json.loads(self._control.recv(MESSAGE) or b"null")
        return answer

    # -- the end --------------------------------------------------------------------------------------------------

    def strangers(self) -> list[int]:
        """Processes that the programs of this run left: the harness adopts every orphan, so none can hide."""
        tree = ProcessTree(os.getpid())
        found = {pid for pid in tree.members() if pid not in self._spared and _runs(pid)}
        if self.uid != os.geteuid():
            found |= {pid for name in os.listdir("/proc") if name.isdigit() and _owner(pid := int(name)) == self.uid}
        return sorted(found)

    def sweep(self) -> int:
        """Kill all of them; how many there were."""
        first = self.strangers()
        found = first
        for _ in range(100):
            if not found:
                break
            if self.own_user:
                guard.kill_all_of(self.uid)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            for pid in found:
                with contextlib.suppress(ChildProcessError, ProcessLookupError):
                    os.waitpid(pid, 0)
            found = self.strangers()
        return len(first)

    def _remove_leftovers(self) -> None:
        """Remove the programs' files where everybody may write, if a user of their own tells whose they are."""
        if self.uid == os.geteuid():
            return
        folders = [folder for folder in {*SHARED, self._folder.parent} if folder.is_dir()]
        for path in (path for folder in folders for path in folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # others' files come and go meanwhile
                if path.lstat().st_uid != self.uid:
                    continue
                self.findings.left.append(f"left {path}")
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()

    def left(self, count: int) -> None:
        """Note that processes outlived the program that started them; at level 3 they end with its namespace."""
        if count and self.level < 3:
            self.findings.left.append(f"left {count} process{'es' * (count > 1)}")

    def close(self) -> None:
        """End everything, then look at what can be seen of it."""
        if self._launcher is None:
            return
        self.left(self.sweep())
        self._remove_leftovers()
        if self.level >= 2 and (count := namespaces.unreachable() - self._unreachable):
            self.findings.tampering.append(f"tried {count} times to reach addresses outside")
        self._control.close()
        self._launcher.wait()


def _is_far(place: Path) -> bool:
    return not _is_below(place, map(Path, places.PROGRAMS))


def _is_below(path: Path, folders: Any) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _exists(name: str) -> bool:
    return os.path.exists(f"/proc/{name}")


def _owner(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid if _runs(pid) else None
    except GONE:
        return None


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that has and was not waited for is no longer in anybody's way."""
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except GONE:
        return False


def bwrap_lacks() -> str:
    """Why there is no bwrap to be tried, "" when there is."""
    return "" if os.access(BWRAP, os.X_OK) else "bubblewrap is not installed (apt install bubblewrap)"
