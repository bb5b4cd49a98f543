"""Which levels work here: each is really run once, with a program that tries what the level forbids.

No file is looked for and no version compared: kernels, containers and distributions switch these things off in too
many ways. Run as `python -m harness.solution.isolation.probe LEVEL`, this tries one level, in a process that can
move into namespaces, and prints why it does not work, or nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import kata as katas
from harness.solution.isolation import LEVELS
from harness.solution.isolation.sandbox import Isolated, Isolation, bwrap_lacks
from harness.solution.kernel import ProcessTree
from harness.solution.scratch import Scratch
from harness.verdicts import Unusable

HIGHEST = max(LEVELS)
LOOK_AGAIN = 0.005  # seconds
LONG = 20  # seconds; whatever takes longer does not work

# What the canary finds within its reach; none of it should be. It stays until it is killed.
CANARY = """
import json, os, signal, socket, sys
found = []
def reaches(what, action):
    try:
        action()
    except OSError:
        return
    found.append(what)
kit, other, port, harness = sys.argv[1:]
reaches("the files of the kit", lambda: open(kit).close())
reaches("the modes of foreign files", lambda: os.chmod(other, 0o644))
reaches("the ports of others", lambda: socket.create_connection(("127.0.0.1", int(port)), 1).close())
reaches("other processes", lambda: os.kill(int(harness), 0))
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
with open(os.path.join(os.environ["STATE_DIR"], "found.json.new"), "w") as file:
    json.dump(found, file)
os.rename(file.name, file.name.removesuffix(".new"))
signal.pause()
"""


def best() -> int:
    """The highest level that works here. Raises Unusable when none does."""
    reasons = []
    for level in sorted(LEVELS, reverse=True):
        reason = why_not(level)
        if not reason:
            return level
        reasons.append(f"level {level}: {reason}")
    raise Unusable("programs can't be isolated here; " + "; ".join(reversed(reasons)))


def why_not(level: int) -> str:
    """Why a level does not work here, "" when it does: a tenth of a second or two."""
    if level == HIGHEST and (lacking := bwrap_lacks()):
        return lacking
    try:
        tried = subprocess.run(
            [sys.executable, "-P", "-m", __spec__.name, str(level)], capture_output=True, text=True, timeout=LONG
        )
    except subprocess.TimeoutExpired:
        return f"a trial did not end within {LONG} s"
    lines = tried.stdout.strip() or (tried.stderr.strip() if tried.returncode else "")
    return lines.splitlines()[-1] if lines else ""


def attempt(level: int) -> str:
    """Run the canary at that level; what is wrong, or ""."""
    with tempfile.NamedTemporaryFile() as other, socket.create_server(("127.0.0.1", 0)) as host:
        try:
            isolation = Isolation(level)
            scratch = Scratch(isolation)
        except (OSError, Unusable) as problem:
            return str(problem)
        try:
            return _canary(isolation, scratch, other.name, host.getsockname()[1])
        except (OSError, Unusable) as problem:
            return str(problem)
        finally:
            scratch.close()


def _canary(isolation: Isolation, scratch: Scratch, other: str, stranger: int) -> str:
    folder = scratch.new_folder("canary")
    state, port = folder / "state", _free_port()
    state.mkdir()
    (folder / "canary.py").write_text(CANARY, encoding="utf-8")
    isolation.give(folder)
    script = [str(isolation.interpreter.command), "canary.py"]
    script += [str(katas.HOME / "harness" / "kata.py"), other, str(stranger), str(os.getpid())]
    environment = scratch.environment | {"HOME": str(state), "STATE_DIR": str(state), "PORT": str(port)}
    process = isolation.start(script, folder, environment, folder / "log", [state], [port])
    told = _told(process, state / "found.json")
    if told is None:
        return f"a program could not run: {_last_line(folder / 'log') or 'it said nothing'}"
    tree = ProcessTree(process.pid)
    with contextlib.closing(tree):
        watched = ("127.0.0.1", port) in tree.listening()
        os.killpg(process.group, signal.SIGKILL)
        process.wait()
    if not watched:
        return "the harness may not look at the program's sockets (as root: it lacks CAP_SYS_PTRACE)"
    return f"a program still reaches {', '.join(told)}" if told and isolation.level else ""


def _told(process: Isolated, path: Path) -> list[str] | None:
    """What the canary wrote; None if it ended without a word."""
    end = os.pidfd_open(process.pid)
    try:
        while not path.exists():
            if select.select([end], [], [], LOOK_AGAIN)[0]:
                return None
        found: list[str] = json.loads(path.read_bytes())
        return found
    finally:
        os.close(end)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""


if __name__ == "__main__":
    print(attempt(int(sys.argv[1])))
