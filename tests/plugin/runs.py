"""Runs of pytest as a user has them: a process of its own, in a folder of its own, read by its results."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KIT = Path(__file__).parent / "kit"
BELL = (KIT / "solution.py").read_text(encoding="utf-8")
BEHAVIOURS = (KIT / "bell.py").read_text(encoding="utf-8")
PATIENCE = 60.0  # seconds, for a machine under any load; a test that gets here has failed
QUICKER = ("-p", "no:anyio", "-p", "no:hypothesispytest", "-W", "error")
PYTEST = (sys.executable, "-m", "pytest")
FORGETFUL = ("-p", "no:cacheprovider")


@dataclass
class Run:
    """What came of one run."""

    status: int
    text: str
    results: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """The last verdict of each behaviour, with its case."""
        return {_name(result): result["verdict"] for result in self.results}

    def one(self, behaviour: str) -> dict[str, Any]:
        """The last result of a behaviour."""
        return [result for result in self.results if _name(result) == behaviour][-1]

    def message(self, behaviour: str = "answers") -> str:
        result = self.one(behaviour)
        return " ".join([result["message"], *result["detail"]])


def _name(result: dict[str, Any]) -> str:
    return f"{result['behaviour']}[{result['case']}]" if result["case"] else result["behaviour"]


class Bench:
    """An empty folder in which katas are laid out and pytest is run; what it starts can be told by its TMPDIR."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "learner", folder / "home"
        self.temporary = folder / "temporary"
        for path in (self.folder, self.temporary, self.home / "behaviours", self.home / "reference" / "bell"):
            path.mkdir(parents=True)
        self.behaviours(BEHAVIOURS)
        self.reference(BELL)

    # -- what lies there

    def reference(self, text: str) -> None:
        (self.home / "reference" / "bell" / "solution.py").write_text(text, encoding="utf-8")

    def behaviours(self, text: str, name: str = "bell") -> None:
        """The behaviours of a kata."""
        (self.home / "behaviours" / f"{name}.py").write_text(text, encoding="utf-8")

    def kata(self, solution: str | None = BELL, folder: str = "katas/bell", toml: str = "", **fields: object) -> Path:
        """A kata's folder: its `kata.toml` from `fields` and `toml`, and its solution.py, if any."""
        path = self.folder / folder
        path.mkdir(parents=True, exist_ok=True)
        known = {
            "name": "bell",
            "title": "Bell",
            "summary": "A bell.",
            "speaks": "http",
            "hours": "1",
            "start": "Ring.",
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in (known | fields).items() if value is not None]
        (path / "kata.toml").write_text("\n".join([*lines, toml]), encoding="utf-8")
        if solution is not None:
            (path / "solution.py").write_text(solution, encoding="utf-8")
        return path

    # -- what is run there

    def words(self, *arguments: str | Path, forgetful: bool = True, command: Sequence[str] = PYTEST) -> list[str]:
        cache = FORGETFUL if forgetful else ()
        results = f"--results={self.temporary / 'results.json'}"
        return [*command, *QUICKER, *cache, "-p", "bench", results, *map(str, arguments)]

    def environment(self, own: bool = True, **more: str) -> dict[str, str]:
        katas = {"BENCH": str(self.home)} if own else {}
        return clean_environment() | {"TMPDIR": str(self.temporary), "PYTHONPATH": str(KIT)} | katas | more

    def pytest(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        forgetful: bool = True,
        own: bool = True,
        command: Sequence[str] = PYTEST,
        **more: str,
    ) -> Run:
        """Run pytest to its end; `forgetful` without its cache, `own` with the katas of this bench."""
        path = self.temporary / "results.json"
        path.unlink(missing_ok=True)
        done = subprocess.run(
            self.words(*arguments, forgetful=forgetful, command=command),
            cwd=cwd or self.folder,
            env=self.environment(own, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
        )
        return Run(done.returncode, done.stdout.decode(), results_of(path))

    def start(self, *arguments: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start pytest in a process group of its own, as a shell does."""
        return subprocess.Popen(
            self.words(*arguments),
            cwd=self.folder,
            env=self.environment(**more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    # -- what is left of it

    def processes(self) -> dict[int, str]:
        """Every living process that a run of this bench started, with its command line."""
        mark = str(self.temporary).encode()
        words = ((pid, read(pid, "environ") + read(pid, "cmdline")) for pid in pids())
        return {pid: read(pid, "cmdline").replace(b"\0", b" ").decode() for pid, text in words if mark in text}

    def solutions(self) -> list[int]:
        """The processes of solutions; the interpreter that they are forked from is none."""
        marked = (pid for pid in self.processes() if b"BACKEND_KATAS_RUN=" in read(pid, "environ"))
        return [pid for pid in marked if b"preloaded.py" not in read(pid, "cmdline")]

    def scratch(self) -> list[Path]:
        return list(self.temporary.glob("backend-katas-*"))

    def nothing_is_left(self) -> bool:
        return not self.processes() and not self.scratch()

    def kill_everything(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
                os.kill(pid, signal.SIGKILL)


def results_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []


def clean_environment() -> dict[str, str]:
    """This environment without what would colour, shape or steer the runs."""
    steering = ("PYTEST_", "PY_COLORS", "FORCE_COLOR", "NO_COLOR", "COV_", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(steering)}
    return kept | {"COLUMNS": "80"}


def pids() -> Iterable[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def read(pid: int, file: str) -> bytes:
    """A file of a process, empty when the process is gone or another user's."""
    try:
        return Path("/proc", str(pid), file).read_bytes()
    except OSError:
        return b""


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for yet has."""
    return read(pid, "stat").rpartition(b") ")[2][:1] not in (b"", b"Z", b"X")


def until(happened: Callable[[], object], what: str) -> None:
    """Look again and again until it has happened: no event tells of processes of somebody else."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} s"
        select.select([], [], [], 0.01)
