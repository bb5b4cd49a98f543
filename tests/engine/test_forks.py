"""A forked solution can't tell that it was forked: whatever it looks at is as after a plain start."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.solution import forks, process
from harness.solution.process import Process
from harness.solution.scratch import Scratch
from harness.subjects import Subject

pytestmark = pytest.mark.skipif(not forks.POSSIBLE, reason="solutions are forked on Linux only")

ABOUT_ITSELF = """
import json, os, resource, signal, sys, threading
def fds():
    return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd")) if fd < 3}
main = sys.modules["__main__"]
print(json.dumps({
    "name": __name__, "file": __file__, "spec": str(__spec__), "package": str(__package__), "doc": __doc__,
    "own": sorted(vars()), "is_main": main.__dict__ is globals(), "loader": type(__loader__).__name__,
    "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "flags": repr(sys.flags), "cwd": os.getcwd(),
    "environment": {key: value for key, value in sorted(os.environ.items())}, "fds": fds(),
    "open": sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")),
    "leads": [os.getpid() == os.getsid(0), os.getpid() == os.getpgrp()],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "threads": threading.active_count(),
    "main_thread": threading.main_thread() is threading.current_thread(), "limits": resource.getrlimit(7),
    "umask": os.umask(0), "parent": os.getppid(), "encoding": [sys.stdout.encoding, sys.stderr.errors],
    "shown": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)), "comm": open("/proc/self/comm").read(),
    "bytecode": sys.dont_write_bytecode, "unbuffered": sys.stdout.write_through,
}))
"""

PROGRAMS = {
    "ends": "print('done')",
    "exits": "import sys; sys.exit(3)",
    "exits with a word": "raise SystemExit('enough')",
    "fails": "def f():\n    1 / 0\nf()",
    "fails in a chain": "try:\n    {}['x']\nexcept KeyError as e:\n    raise ValueError('no x') from e",
    "is no Python": "def f(:",
    "is cut short": "import os; os._exit(4)",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "is interrupted": "raise KeyboardInterrupt",
    "says good-bye": "import atexit; atexit.register(print, 'bye'); 1 / 0",
    "waits for its threads": "import threading\nthreading.Timer(0.01, lambda: print('late')).start()",
    "imports its neighbour": "import neighbour",
    "shadows a module": "import queue; print(queue.MINE)",
    "spawns": (
        "import multiprocessing as m\ndef work(q): q.put(__name__)\n"
        "if __name__ == '__main__':\n    c = m.get_context('spawn'); q = c.SimpleQueue()\n"
        "    p = c.Process(target=work, args=(q,)); p.start(); print(q.get()); p.join()"
    ),
    "reads and writes": "import sys; print(repr(sys.stdin.read())); print('told', file=sys.stderr)",
}


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    scratch = Scratch()
    yield scratch
    scratch.close()


@pytest.fixture
def outcome(scratch, tmp_path, monkeypatch) -> Callable[..., tuple[int | None, str]]:
    """The exit status and the output of a program, started in one way or the other."""
    folder = tmp_path / "a solution"
    folder.mkdir()
    (folder / "neighbour.py").write_text("print('here I am')")
    (tmp_path / "home").mkdir()

    def run(text: str, forked: bool) -> tuple[int | None, str]:
        (folder / "solution.py").write_text(text)
        monkeypatch.setattr(forks, "POSSIBLE", forked)
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        subject = Subject("solution", folder, ("python", "solution.py"))
        running = Process(subject, {"HOST": "here", "PORT": "1"}, scratch, tmp_path / "home", log)
        assert isinstance(running._process, forks.Forked) is forked, "it was started in the way that is tried"
        return running._process.wait(), log.read_text()

    return run


def test_it_finds_the_same_around_itself(outcome):
    (status, plain), (forked_status, forked) = outcome(ABOUT_ITSELF, False), outcome(ABOUT_ITSELF, True)
    assert (status, forked_status) == (0, 0), plain + forked
    assert json.loads(forked) == json.loads(plain)
    assert json.loads(plain)["parent"] == os.getpid(), "the harness inherits it, and learns how it ends"


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "shadows a module"])
def test_it_ends_in_the_same_way_and_says_the_same(outcome, name):
    assert outcome(PROGRAMS[name], True) == outcome(PROGRAMS[name], False)


def test_a_module_of_its_own_that_shadows_a_preloaded_one_is_imported(scratch, tmp_path):
    (tmp_path / "queue.py").write_text("MINE = 'my own queue'")
    (tmp_path / "solution.py").write_text(PROGRAMS["shadows a module"])
    skeleton = scratch.new_folder("skeleton")
    (skeleton / "solution.py").write_text("import queue")
    scratch.forks.preload(skeleton)

    subject = Subject("solution", tmp_path, ("python", "solution.py"))
    running = Process(subject, {}, scratch, tmp_path, tmp_path / "log")

    assert not isinstance(running._process, forks.Forked)
    assert (running._process.wait(), (tmp_path / "log").read_text()) == (0, "my own queue\n")


def test_what_skeletons_import_is_there_already_and_only_that(scratch, tmp_path):
    skeleton = scratch.new_folder("skeleton")
    (skeleton / "solution.py").write_text("import neighbour, not_installed\nimport tomllib as t\nfrom wave import open")
    (skeleton / "neighbour.py").write_text("raise SystemExit('files of a skeleton are read, and not run')")
    scratch.forks.preload(skeleton)
    (tmp_path / "solution.py").write_text(
        "import sys; print([n for n in ('tomllib', 'wave', 'neighbour', 'mailbox') if n in sys.modules])"
    )

    subject = Subject("solution", tmp_path, ("python", "solution.py"))
    running = Process(subject, {}, scratch, tmp_path, tmp_path / "log")

    assert (running._process.wait(), (tmp_path / "log").read_text()) == (0, "['tomllib', 'wave']\n")


def test_the_forking_interpreter_ends_with_the_run_and_is_told_apart_from_solutions(scratch, tmp_path):
    (tmp_path / "solution.py").write_text("import signal; print('up'); signal.pause()")
    subject = Subject("solution", tmp_path, ("python", "solution.py"))
    running = Process(subject, {}, scratch, tmp_path, tmp_path / "log")
    booted = scratch.forks._process
    assert booted is not None
    running.kill(lambda: [])
    assert running.exit_status() == -signal.SIGKILL
    assert booted.poll() is None, "it serves the next start"

    scratch.close()

    assert booted.returncode == 0


def test_another_language_is_never_forked(scratch, tmp_path):
    script = tmp_path / "solution.sh"
    script.write_text("#!/bin/sh\nexit 5\n")
    script.chmod(0o755)
    subject = Subject("solution", tmp_path, (f".{os.sep}{Path('solution.sh')}",))
    running = Process(subject, {}, scratch, tmp_path, tmp_path / "log")
    assert isinstance(running._process, process.subprocess.Popen)
    assert running._process.wait() == 5


def test_a_file_that_is_no_python_does_not_end_it(scratch, tmp_path):
    """In a clone, what is preloaded is the very folder that a learner edits."""
    kata = tmp_path / "kata"
    kata.mkdir()
    (kata / "solution.py").write_text("def f(:")
    (kata / "null.py").write_bytes(b"x = 1\0")

    scratch.forks.preload(kata)

    assert scratch.forks.start("solution.py", kata, {}, tmp_path / "log") is not None
