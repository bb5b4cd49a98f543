"""What `kata doctor` sees, and when it says that something required is missing."""

import os
import shutil
import subprocess
import sys

import pytest

from harness.proof import programs
from harness.solution import guard, kernel, leftovers
from harness.solution.scratch import MARK, Scratch

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are seen in /proc")


def lines(ended):
    return {line.split(": ")[0].split(maxsplit=1)[1]: line for line in ended.out.splitlines()}


def test_each_line_is_ok_or_says_what_to_do(kata):
    ended = kata("doctor")

    for line in ended.out.splitlines():
        assert line.startswith("ok    ") or (line.startswith("lacks ") and "; " in line)
    assert {"Python", "platform", "quiet", "isolation 0"} <= set(lines(ended))


def test_a_kernel_that_does_not_show_enough_is_status_1(kata, monkeypatch):
    monkeypatch.setattr(kernel, "shown", lambda: "this system has no /proc")

    ended = kata("doctor")

    assert ended.status == 1
    assert lines(ended)["quiet"].startswith("lacks quiet: this system has no /proc; work on Linux")


def test_a_missing_oracle_is_no_fault(kata, monkeypatch):
    oracle = programs.oracles()[0]
    monkeypatch.setattr(shutil, "which", lambda command: None)

    ended = kata("doctor")

    assert ended.status == 0
    assert f"install {oracle.package}" in lines(ended)[f"oracle {oracle.path.stem}"]


@pytest.fixture
def marked():
    """Start a process with a mark, as a solution of a run carries it."""
    started = []

    def start(mark):
        environment = {**os.environ, MARK: mark}
        started.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment))
        return started[-1].pid

    yield start
    for process in started:
        process.communicate(b"\n")


@on_linux
def test_what_a_dead_run_left_behind_is_found(marked, tmp_path):
    (tmp_path / "backend-katas-dead").mkdir()
    orphan = marked("of-a-dead-run")

    pids, folders = leftovers.find(tmp_path)

    assert orphan in pids
    assert folders == [tmp_path / "backend-katas-dead"]


@on_linux
def test_what_belongs_to_a_living_run_is_let_alone(marked, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = Scratch()
    child = marked(run.mark)

    pids, folders = leftovers.find(tmp_path)
    run.close()

    assert child not in pids
    assert folders == []
    assert child not in guard.marked(f"{MARK}={run.mark}")


def test_folders_of_dead_runs_are_named_with_the_way_to_remove_them(kata, folder, monkeypatch):
    monkeypatch.setattr(leftovers, "find", lambda temporary: ([41, 42], [folder / "backend-katas-x"]))

    out = kata("doctor").out

    assert "kill -9 41 42" in out
    assert f"rm -r {folder}/backend-katas-x" in out
