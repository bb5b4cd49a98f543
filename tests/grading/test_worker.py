"""One worker a submission: it ends everything that the submission started, and never later than its grader."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.grading import worker

PATIENCE = 60.0  # seconds; a test that gets here has failed
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import signal; signal.pause()", {mark!r}], {{}})
    os._exit(0)
os.wait()
"""


def alive(mark):
    """The processes whose command line has `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in words and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


def until(happened, what):
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE:.0f} s"
        select.select([], [], [], 0.01)


@pytest.fixture
def start(tmp_path):
    """Start a worker on one test file, in the folder `room`; it prints into `printed`."""
    started = []
    (tmp_path / "room").mkdir()

    def start(test, seconds=PATIENCE):
        file = tmp_path / "test_it.py"
        file.write_text(test)
        words = [sys.executable, "-I", worker.__file__, str(tmp_path / "room"), str(seconds), str(file)]
        options = ["-q", "-p", "no:cacheprovider", "-c", str(Path(worker.__file__).with_suffix(".ini"))]
        plugins = ["-p", "harness.plugin", "-p", "pytest_timeout"]
        environment = {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        with (tmp_path / "printed").open("wb") as printed:
            process = subprocess.Popen(
                [*words, *options, *plugins],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait(PATIENCE)


def test_the_status_is_that_of_pytest(start):
    assert start("def test_holds(): pass").wait(PATIENCE) == 0
    assert start("def test_fails(): assert False").wait(PATIENCE) == 1


def test_what_daemonised_is_dead_before_it_ends(start, tmp_path):
    mark = f"daemon-of-{tmp_path.name}"
    process = start(f"def test_it():\n    exec({DAEMON.format(mark=mark)!r})")

    assert process.wait(PATIENCE) == 0, (tmp_path / "printed").read_text()
    assert alive(mark) == []


def test_it_ends_with_its_grader(start, tmp_path):
    mark = f"daemon-of-{tmp_path.name}"
    process = start(f"import signal\ndef test_it():\n    exec({DAEMON.format(mark=mark)!r})\n    signal.pause()")
    until(lambda: alive(mark), "the daemon")

    process.stdin.close()

    assert process.wait(PATIENCE) == worker.INTERRUPTED
    assert alive(mark) == []
    assert not (tmp_path / "room").exists(), "nobody else would remove its folder"


def test_after_its_time_it_is_asked_to_end_and_does(start, tmp_path):
    process = start("import signal\ndef test_it():\n    signal.pause()", seconds=2)

    assert process.wait(PATIENCE) == worker.OVERTIME
    assert "KeyboardInterrupt" in (tmp_path / "printed").read_text(), "it could still write what it knew"


def test_a_worker_that_dies_is_told_by_its_status(start):
    assert start("import os\ndef test_it():\n    os.kill(os.getpid(), 9)").wait(PATIENCE) == worker.SIGNALLED + 9


@pytest.mark.parametrize("name", ["conftest.py", "pytest.py", "json.py", "sitecustomize.py"])
def test_nothing_in_the_current_folder_is_imported(tmp_path, start, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "room" / name).write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path / "room")

    process = start("def test_holds(): pass")
    assert process.wait(PATIENCE) == 0, (tmp_path / "printed").read_text()
