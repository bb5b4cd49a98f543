"""Asking one program everything: a worker process that runs the kata's behaviours on it, and what it found out.

What is asked is plain data (`Asked`), and so is what is found (`Found`): both cross to other machines, the signing key
does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.collecting import declared
from harness.grading import levels, worker
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


class Workers:
    """The workers that run now; ending them ends what they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    @property
    def size(self) -> int:
        """Half as many again as cores: a run spends a third of its time waiting for what is to last a while."""
        cores = len(os.sched_getaffinity(0))
        return cores + (cores + 1) // 2

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

    def start(self, words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise Interrupted
            process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True, **how)
            self._running.add(process)
            return process

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        status = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._ended:
                raise Interrupted
        assert process.stdin is not None
        process.stdin.close()
        return status

    def end(self) -> None:
        """Call everything off; each worker ends what its submission started before it ends itself."""
        with self._lock:
            self._ended = True
            for process in self._running:
                assert process.stdin is not None
                process.stdin.close()

    def _run(self, folder: Path, kata: Kata, asked: Asked, room: Path, seed: int, only: Sequence[str] = ()) -> Found:
        """Run the worker, once more if it dies. Raises Failed with the reason when it dies again."""
        problem = ""
        for _ in range(DEATHS):
            found, problem = self._attempt(_words(folder, kata, asked, room, seed, only), kata, room, only)
            if found:
                return found
        raise Failed(f"{DEATHS} workers died of it, the last one so: {problem}")

    def _attempt(self, words: list[str], kata: Kata, room: Path, only: Sequence[str]) -> tuple[Found | None, str]:
        results = _results(room)
        results.parent.mkdir(mode=0o700, exist_ok=True)
        results.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as log:
            process = self.start(words, cwd="/", env=_environment(room), stdout=log, stderr=subprocess.STDOUT)
            status = self.wait(process)
            table, overtime = _table(results), status == worker.OVERTIME
            if table and (overtime or (status in (0, 1) and _is_complete(table, kata, only))):
                told = [Result.from_json(each) for each in table["results"]]
                return Found(told, table.get("isolation") or {}, overtime), ""
            if overtime:
                return Found([], {}, overtime), ""
            log.seek(max(log.seek(0, os.SEEK_END) - LAST_BYTES, 0))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            return None, f"status {status}; {' / '.join(lines[-LAST_LINES:])}"[:LONGEST_TEXT]


def _results(room: Path) -> Path:
    return room / "results" / "results.json"


def _words(folder: Path, kata: Kata, asked: Asked, room: Path, seed: int, only: Sequence[str]) -> list[str]:
    wanted = [f"{kata.path}::{name}" for name in only] or [str(kata.path)]
    configured = ["-c", str(Path(worker.__file__).with_suffix(".ini")), f"--rootdir={kata.folder}"]
    plugins = ["-p", "no:cacheprovider", "-p", "harness.plugin", "-p", "pytest_timeout"]
    repeated = ["--unblocked"] if only else []
    return [
        *(sys.executable, "-I", worker.__file__, str(room), str(LONGEST)),
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


def _environment(room: Path) -> dict[str, str]:
    temporary = room / "tmp"
    temporary.mkdir(THROUGH, exist_ok=True)
    kept = {key: os.environ[key] for key in ALLOWED if key in os.environ}
    return kept | {
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


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
