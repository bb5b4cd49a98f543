"""One hostile submission, graded as any other, with targets laid out around it: what comes of them is looked at.

The targets are open to everybody on purpose: a careless teacher's. Only isolation stands between them and a submission.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SUBMISSIONS = Path(__file__).parent / "submissions"
GIVEN = ("target.py", "solution.py")
UNTOUCHED = "nobody but its owner writes here\n"
LONGEST = 150.0  # seconds a run may take, whatever its submission does
SECRETS = {"GITHUB_OUTPUT": "x", "SECRET_TOKEN": "x", "CI": "true"}


@dataclass
class Outcome:
    """What came of a run, and of its surroundings."""

    status: int | None  # None: it did not end in time
    seconds: float
    text: str
    table: dict[str, Any]
    harm: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> dict[str, str]:
        return {result["behaviour"]: result["verdict"] for result in self.table.get("results", [])}

    @property
    def messages(self) -> dict[str, str]:
        return {
            result["behaviour"]: " ".join([result["message"], *result["detail"]])
            for result in self.table.get("results", [])
        }

    @property
    def loot(self) -> str:
        printed = (result["output"] for result in self.table.get("results", []))
        return next((line for text in printed for line in text.splitlines() if line.startswith("LOOT")), "")

    @property
    def findings(self) -> dict[str, Any]:
        return self.table.get("isolation") or {}


class Stage:
    """A folder with a submission, and what it should not reach: a file, others' work, servers."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kata-attack-"))
        self.folder.chmod(0o755)
        self.mark = f"kata-attack-{secrets.token_hex(6)}"
        self.canary = self.folder / "open" / "canary.txt"
        self.others = [self.folder / "open" / name / "solution.py" for name in ("ann", "bob")]
        for path in (self.canary, *self.others):
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o777)
            path.write_text(UNTOUCHED)
            path.chmod(0o666)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract, self.unix = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.abstract.bind(f"\0{self.mark}")
        self.unix.bind(str(self.folder / "open" / "server"))
        os.chmod(self.folder / "open" / "server", 0o777)
        self._listening = (self.tcp, self.abstract, self.unix)
        for server in (self.abstract, self.unix):
            server.listen()
        for server in (*self._listening, self.udp):
            server.setblocking(False)

    def targets(self) -> dict[str, Any]:
        return {
            "canary": str(self.canary),
            "others": [str(path) for path in self.others],
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "abstract": self.mark,
            "unix": str(self.folder / "open" / "server"),
            "mark": self.mark,
            "kit": [str(ROOT / "harness"), str(ROOT / "reference"), sysconfig.get_path("purelib")],
            "files": [str(ROOT / "harness" / "kata.py"), *map(str, self.others)],
            "site_packages": [sysconfig.get_path("purelib")],
            "leave": [str(Path.home()), "/tmp"],
        }

    def submission(self, name: str, kata: str, files: Mapping[str, str], build: bool = False) -> Path:
        """Lay out the submission of an attack: the reference of a kata, and the attack before it or as its build."""
        folder = self.folder / "submission"
        folder.mkdir()
        for path in (ROOT / "reference" / kata).glob("*.py"):
            shutil.copy(path, folder / ("honest.py" if path.name == "solution.py" else path.name))
        for given in GIVEN:
            shutil.copy(SUBMISSIONS / given, folder / given)
        text = (SUBMISSIONS / f"{name}.py").read_text(encoding="utf-8") if name else ""
        (folder / "attack.py").write_text("BUILD = True\n" if build else text, encoding="utf-8")
        if build:
            (folder / "building.py").write_text(text, encoding="utf-8")
            toml = (ROOT / "katas" / kata / "kata.toml").read_text(encoding="utf-8")
            (folder / "kata.toml").write_text('build = ["python", "building.py"]\n' + toml, encoding="utf-8")
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content.replace("CANARY", str(self.canary)), encoding="utf-8")
        (folder / "target.json").write_text(json.dumps(self.targets()), encoding="utf-8")
        return folder

    def grade(self, folder: Path, kata: str, level: int, only: str) -> Outcome:
        """Grade it as a teacher's machine does, and look what it did besides."""
        results, junit = self.folder / "results.json", self.folder / "junit.xml"
        words = [sys.executable, "-P", "-m", "pytest", str(ROOT / "katas" / kata), "-c", str(ROOT / "pyproject.toml")]
        words += [f"--rootdir={ROOT}", f"--confcutdir={ROOT}", "-p", "no:cacheprovider", f"--subject={folder}"]
        words += [f"--isolation={level}", "--seed=7", f"--results={results}", f"--junitxml={junit}", "-k", only]
        elsewhere = self.folder / "elsewhere"
        temporary = self.folder / "temporary"
        for path in (elsewhere, temporary):
            path.mkdir(exist_ok=True)
        began = time.monotonic()
        run = subprocess.Popen(
            words,
            cwd=elsewhere,
            env=os.environ | SECRETS | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_bounded,
        )
        status: int | None = None
        try:
            output, _ = run.communicate(timeout=LONGEST)
            status = run.returncode
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            output, _ = run.communicate()
        seconds = time.monotonic() - began
        table = json.loads(results.read_text()) if results.exists() else {}
        outcome = Outcome(status, seconds, output.decode(errors="replace"), table)
        outcome.harm = [*self._harm(), *_malformed(outcome, junit)]
        return outcome

    def _harm(self) -> Iterator[str]:
        """What was done to the surroundings."""
        for path in (self.canary, *self.others):
            if not path.exists():
                yield f"{path.name} of others was deleted"
            elif path.read_text() != UNTOUCHED or path.stat().st_mode & 0o777 != 0o666 or path.stat().st_mtime < 1:
                yield f"{path.name} of others was changed"
        if self.canary.with_name("link").is_symlink():
            yield "a link was made outside"
        for server in self._listening:
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                yield "a server outside was connected to"
        with contextlib.suppress(BlockingIOError):
            self.udp.recv(100)
            yield "a datagram came out"
        for folder in (*self.targets()["leave"], "/var/tmp", "/dev/shm", "/dev/mqueue"):
            if (left := Path(folder, self.mark)).exists():
                left.unlink()
                yield f"a file was left in {folder}"
        own = (self.mark.encode(), os.fsencode(self.folder))
        living = [pid for pid in _pids() if any(word in _arguments(pid) for word in own)]
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if living:
            yield f"{len(living)} processes were left"

    def close(self) -> None:
        for server in (*self._listening, self.udp):
            server.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _bounded() -> None:
    """The net below the limits that are tried: what the run and its submission may do in all."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _malformed(outcome: Outcome, junit: Path) -> Iterator[str]:
    if outcome.status is None:
        yield f"the run did not end within {LONGEST:.0f} s"
    elif outcome.status not in (0, 1) or not outcome.table:
        yield f"the run ended with status {outcome.status}"
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in outcome.text):
        yield "control characters came through"
    if any(line.startswith(("::", "{")) for line in outcome.text.splitlines()):
        yield "a line of the submission stands as the grader's own"
    if junit.exists():
        try:
            xml.parse(junit)
        except xml.ParseError as error:
            yield f"JUnit's report is malformed: {error}"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
