"""Asking one program everything: a worker process that runs the kata's behaviours on it, and what it found out.

What is asked is plain data (`Asked`), and so is what is found (`Found`): both cross to other machines, the signing key
does not.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.collecting import declared
from harness.grading import levels, warm, worker
from harness.kata import Kata
from harness.results import Result

RACES = 3  # the stage whose behaviours are repeated
LONGEST = 600  # seconds for a submission's run; a net, since each behaviour has bounds of its own
DEATHS = 2  # workers that one submission may cost
LAST_LINES, LAST_BYTES, LONGEST_TEXT = 4, 8192, 300
ALLOWED = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")  # of the environment; everything else stays outside
THROUGH = 0o711  # a program that runs as another user gets to its own folder, and sees no other on the way


@dataclass(frozen=True)
class Asked:
    """How a program is asked: with which random data, at which level of isolation, how often the races."""

    seed: int
    isolation: int = 0
    repeat: int = 1


@dataclass(frozen=True)
class Found:
    """What a run of the worker found out."""

    results: list[Result]
    findings: dict[str, Any]
    overtime: bool


class Asks(Protocol):
    """Who runs the behaviours: this machine, or others."""

    @property
    def size(self) -> int:
        """How many submissions can run at once."""

    def level(self, wanted: int | None, required: int) -> int:
        """The level of isolation there, as `levels.choose` has it. Raises Unusable."""

    def ask(self, folder: Path, kata: Kata, asked: Asked, room: Path) -> list[Found]:
        """What the runs of the program in `folder` found out; `room` is for files. Raises Failed and Interrupted."""

    def end(self) -> None:
        """Call everything off."""

    def close(self) -> None:
        """Let go of others."""


class Failed(Exception):
    """The kit or the machine failed, not the submission."""


class Interrupted(Exception):
    """The grading was called off."""


class Worker:
    """One process of `worker.py`. It ends when this end of its standard input is closed."""

    def __init__(self) -> None:
        self.theirs, self._life = os.pipe()
        self._told, self.status_to = os.pipe()

    def forked(self) -> None:
        """The worker holds its ends."""
        os.close(self.theirs)
        os.close(self.status_to)

    def wait(self) -> int | None:
        """Its status; None if it died before it could tell."""
        told = b""
        while data := os.read(self._told, 16):
            told += data
        os.close(self._told)
        return int(told) if told else None

    def end(self) -> None:
        if self._life >= 0:
            os.close(self._life)
            self._life = -1


class Warm:
    """The process that the workers of this one are forked from (`warm.py`), started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self, order: dict[str, Any], log: int) -> Worker:
        """A worker with an order as in `warm.py`, which prints into `log`."""
        worker = Worker()
        with self._lock, contextlib.suppress(ConnectionError):  # whom nobody forked tells no status
            descriptors = [worker.theirs, log, worker.status_to]
            socket.send_fds(self._running(), [json.dumps(order).encode()], descriptors)
        worker.forked()
        return worker

    def _running(self) -> socket.socket:
        if self._process is None or self._control is None or self._process.poll() is not None:
            if self._control:
                self._control.close()
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", warm.__file__],
                    cwd="/",
                    env=_environment(),
                    stdin=theirs.fileno(),
                    start_new_session=True,  # Ctrl-C is for the grader
                )
        return self._control

    def close(self) -> None:
        with self._lock:
            if self._control and self._process:
                self._control.close()
                self._process.wait()


WARM = Warm()
atexit.register(WARM.close)


class Workers:
    """The workers that run now; ending them ends what they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Worker] = set()
        self._ended = False

    @property
    def size(self) -> int:
        """Twice as many as cores: a run spends half its time waiting for what is to last a while."""
        return 2 * len(os.sched_getaffinity(0))

    def level(self, wanted: int | None, required: int) -> int:
        """The level of isolation to run at here. Raises Unusable."""
        return levels.choose(wanted, required)

    def close(self) -> None:
        """There are no others."""

    def ask(self, folder: Path, kata: Kata, asked: Asked, room: Path) -> list[Found]:
        """Run all behaviours once, and the races as often as is asked."""
        runs = [self._run(folder, kata, asked, room, asked.seed)]
        races = [f"test_{each.id}" for each in declared(kata) if each.stage == RACES]
        for number in range(1, asked.repeat if races else 1):
            runs.append(self._run(folder, kata, asked, room, asked.seed + number, races))
        return runs

    def start(self, order: dict[str, Any], log: int) -> Worker:
        with self._lock:
            if self._ended:
                raise Interrupted
            worker = WARM.fork(order, log)
            self._running.add(worker)
            return worker

    def wait(self, worker: Worker) -> int | None:
        status = worker.wait()
        with self._lock:
            self._running.discard(worker)
            worker.end()
            if self._ended:
                raise Interrupted
        return status

    def end(self) -> None:
        """Call everything off; each worker ends what its submission started before it ends itself."""
        with self._lock:
            self._ended = True
            for worker in self._running:
                worker.end()

    def _run(self, folder: Path, kata: Kata, asked: Asked, room: Path, seed: int, only: Sequence[str] = ()) -> Found:
        """Run the worker, once more if it dies. Raises Failed with the reason when it dies again."""
        problem = ""
        for _ in range(DEATHS):
            found, problem = self._attempt(_arguments(folder, kata, asked, room, seed, only), kata, room, only)
            if found:
                return found
        raise Failed(f"{DEATHS} workers died of it, the last one so: {problem}")

    def _attempt(self, arguments: list[str], kata: Kata, room: Path, only: Sequence[str]) -> tuple[Found | None, str]:
        results = _results(room)
        results.parent.mkdir(mode=0o700, exist_ok=True)
        results.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as log:
            order = {
                "kata": kata.name,
                "environment": _environment_in(room),
                "room": str(room),
                "seconds": LONGEST,
                "arguments": arguments,
            }
            status = self.wait(self.start(order, log.fileno()))
            table, overtime = _table(results), status == worker.OVERTIME
            if table and (overtime or (status in (0, 1) and _is_complete(table, kata, only))):
                told = [Result.from_json(each) for each in table["results"]]
                return Found(told, table.get("isolation") or {}, overtime), ""
            if overtime:
                return Found([], {}, overtime), ""
            log.seek(max(log.seek(0, os.SEEK_END) - LAST_BYTES, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            ended = "it was killed" if status is None else f"status {status}"
            return None, f"{ended}; {' / '.join(lines[-LAST_LINES:])}"[:LONGEST_TEXT]


def _results(room: Path) -> Path:
    return room / "results" / "results.json"


def _arguments(folder: Path, kata: Kata, asked: Asked, room: Path, seed: int, only: Sequence[str]) -> list[str]:
    wanted = [f"{kata.path}::{name}" for name in only] or [str(kata.path)]
    configured = ["-c", str(Path(worker.__file__).with_suffix(".ini")), f"--rootdir={kata.folder}"]
    plugins = ["-p", "no:cacheprovider", "-p", "harness.plugin", "-p", "pytest_timeout"]
    repeated = ["--unblocked"] if only else []
    return [
        *wanted,
        *configured,
        f"--confcutdir={kata.folder}",
        *plugins,
        *("-q", "--tb=no", "--color=no"),
        *repeated,
        f"--subject={folder}",
        f"--seed={seed}",
        "--story=none",
        f"--results={_results(room)}",
        f"--isolation={asked.isolation}",
    ]


def _environment() -> dict[str, str]:
    kept = {key: os.environ[key] for key in ALLOWED if key in os.environ}
    return kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _environment_in(room: Path) -> dict[str, str]:
    temporary = room / "tmp"
    temporary.mkdir(THROUGH, exist_ok=True)
    own = {"HOME": str(temporary), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    return _environment() | own


def _table(path: Path) -> dict[str, Any] | None:
    """What the worker wrote; None when it wrote nothing, or not all of it."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None


def _is_complete(table: dict[str, Any], kata: Kata, only: Sequence[str]) -> bool:
    tried = {each["behaviour"] for each in table["results"]}
    wanted = {name.removeprefix("test_") for name in only} or {each.id for each in declared(kata)}
    return wanted <= tried
