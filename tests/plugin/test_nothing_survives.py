"""However a run ends, its processes and its folders end with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .runs import BELL, Bench, read, until

ANSWER = 'connection.sendall(f"dong {word}\\n".encode())'
# It tells that it was met, with a child that left the session, and keeps the run waiting; but only once: xdist lets
# a new worker repeat what a dead one was at.
BUSY = BELL.replace(
    ANSWER,
    "\n        ".join(
        [
            'if os.path.exists("met"): return',
            "if not os.fork():",
            "    os.setsid()",
            "    signal.pause()",
            'open("met", "w").close()',
            "while True: pass",
        ]
    ),
)


@pytest.fixture
def met(bench: Bench):
    """A function that starts a run and returns it in the middle of its first behaviour."""
    runs: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        folder = bench.kata(BUSY)
        runs.append(bench.start("katas/bell", "-k", "hushed", *arguments, CAPS="OWED=60,60"))
        until((folder / "met").exists, "the solution is met")
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.wait()


def test_a_normal_run_leaves_nothing(bench: Bench):
    bench.kata()

    assert bench.pytest("katas/bell").status == 0

    assert bench.nothing_is_left()


def test_a_run_that_stops_at_the_first_failure_leaves_nothing(bench: Bench):
    bench.kata(BELL.replace('f"dong {word}', 'f"ding {word}'))

    assert bench.pytest("katas/bell", "-x").status == 1

    assert bench.nothing_is_left()


def test_an_interrupted_run_leaves_nothing(bench: Bench, met: Callable[..., subprocess.Popen[bytes]]):
    run = met()
    assert len(bench.solutions()) == 2, "the solution and its child"

    os.killpg(run.pid, signal.SIGINT)

    assert run.wait() == pytest.ExitCode.INTERRUPTED
    assert bench.nothing_is_left()


def test_a_terminated_run_leaves_nothing(bench: Bench, met: Callable[..., subprocess.Popen[bytes]]):
    run = met()

    run.terminate()
    run.wait()

    until(bench.nothing_is_left, "everything that was started is gone")


def test_a_killed_run_leaves_nothing(bench: Bench, met: Callable[..., subprocess.Popen[bytes]]):
    run = met()
    assert len(bench.solutions()) == 2, "the solution and its child"

    run.kill()
    run.wait()

    until(bench.nothing_is_left, "everything that was started is gone")


def test_a_killed_worker_leaves_nothing(bench: Bench, met: Callable[..., subprocess.Popen[bytes]]):
    run = met("-n", "1")
    (worker,) = {parent for pid in bench.solutions() if (parent := _parent(pid)) not in bench.solutions()}
    assert worker != run.pid

    os.kill(worker, signal.SIGKILL)

    assert run.wait() == pytest.ExitCode.TESTS_FAILED, "pytest-xdist reports the worker's behaviour as failed"
    until(bench.nothing_is_left, "everything that was started is gone")


def test_a_fault_within_pytest_leaves_nothing(bench: Bench):
    bench.kata()
    (bench.folder / "conftest.py").write_text("def pytest_runtest_teardown(item):\n    import os\n    os._exit(9)\n")

    assert bench.pytest("katas/bell").status == 9

    until(bench.nothing_is_left, "everything that was started is gone")


def _parent(pid: int) -> int:
    return int(read(pid, "stat").rpartition(b")")[2].split()[1])


def test_what_is_not_this_runs_own_is_left_alone(bench: Bench, tmp_path: Path):
    """Another run's folder and processes stand beside it, and stay."""
    other = bench.temporary / "backend-katas-other"
    other.mkdir()
    bystander = subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, env=bench.environment(BACKEND_KATAS_RUN="0123456789abcdef")
    )
    bench.kata()

    assert bench.pytest("katas/bell").status == 0

    assert other.is_dir()
    assert bystander.poll() is None
    bystander.communicate()
