"""One worker a submission: it ends everything that the submission started, and never later than its grader."""

import os
import select
import signal
import time
from pathlib import Path

import pytest

from harness.grading import worker
from harness.grading.asking import Warm

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
def warm():
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def start(tmp_path, warm):
    """Start a worker on one test file, in the folder `room`; it prints into `printed`."""
    started = []
    (tmp_path / "room").mkdir()

    def start(test, seconds=PATIENCE):
        file = tmp_path / "test_it.py"
        file.write_text(test)
        options = ["-q", "-p", "no:cacheprovider", "-c", str(Path(worker.__file__).with_suffix(".ini"))]
        plugins = ["-p", "harness.plugin", "-p", "pytest_timeout"]
        order = {
            "kata": "jwt",
            "environment": {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "GIVEN": "yes"},
            "room": str(tmp_path / "room"),
            "seconds": seconds,
            "arguments": [str(file), *options, *plugins],
        }
        with (tmp_path / "printed").open("wb") as printed:
            started.append(warm.fork(order, printed.fileno()))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_the_status_is_that_of_pytest(start):
    assert start("def test_holds(): pass").wait() == 0
    assert start("def test_fails(): assert False").wait() == 1


def test_what_daemonised_is_dead_before_it_ends(start, tmp_path):
    mark = f"daemon-of-{tmp_path.name}"
    process = start(f"def test_it():\n    exec({DAEMON.format(mark=mark)!r})")

    assert process.wait() == 0, (tmp_path / "printed").read_text()
    assert alive(mark) == []


def test_it_ends_with_its_grader(start, tmp_path):
    mark = f"daemon-of-{tmp_path.name}"
    process = start(f"import signal\ndef test_it():\n    exec({DAEMON.format(mark=mark)!r})\n    signal.pause()")
    until(lambda: alive(mark), "the daemon")

    process.end()

    assert process.wait() == worker.INTERRUPTED
    assert alive(mark) == []
    assert not (tmp_path / "room").exists(), "nobody else would remove its folder"


def test_after_its_time_it_is_asked_to_end_and_does(start, tmp_path):
    process = start("import signal\ndef test_it():\n    signal.pause()", seconds=2)

    assert process.wait() == worker.OVERTIME
    assert "KeyboardInterrupt" in (tmp_path / "printed").read_text(), "it could still write what it knew"


def test_a_worker_that_dies_is_told_by_its_status(start):
    assert start("import os\ndef test_it():\n    os.kill(os.getpid(), 9)").wait() == worker.SIGNALLED + 9


def test_who_is_killed_tells_no_status(start):
    assert start("import os\ndef test_it():\n    os.kill(os.getppid(), 9)").wait() is None


def test_a_killed_forker_costs_one_worker_and_is_replaced(start, warm):
    assert start("def test_holds(): pass").wait() == 0
    os.kill(warm._process.pid, signal.SIGKILL)
    warm._process.wait()

    assert start("def test_holds(): pass").wait() == 0


def test_a_worker_has_its_own_environment_and_what_was_imported(start):
    wanted = {"PATH", "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "GIVEN"}
    test = f"""
import os, sys

def test_it():
    assert {wanted} <= set(os.environ)
    assert not set(os.environ) - {wanted} - {{"PYTEST_CURRENT_TEST", "PYTEST_VERSION"}}
    assert "harness.peers.identity_provider" in sys.modules
    assert "harness.behaviours.jwt" not in sys.modules, "pytest rewrites it"
    assert os.getcwd() == "/" and os.getsid(0) == os.getppid()
"""
    assert start(test).wait() == 0


def test_workers_do_not_share_what_they_change(start):
    assert (
        start("import os, sys\ndef test_it():\n    os.environ['LEFT'] = 'x'; sys.path.insert(0, '/left')").wait() == 0
    )
    assert (
        start("import os, sys\ndef test_it():\n    assert 'LEFT' not in os.environ and '/left' not in sys.path").wait()
        == 0
    )


def test_a_worker_can_end_beside_another(start, tmp_path):
    """Whoever held another's descriptors would keep its end from being seen."""
    begun = [tmp_path / "begun1", tmp_path / "begun2"]
    workers = []
    for path in begun:
        workers.append(start(f"import signal\ndef test_it():\n    open({str(path)!r}, 'w').close(); signal.pause()"))
        until(path.exists, "a worker")

    for each in workers:
        each.end()
        assert each.wait() == worker.INTERRUPTED


@pytest.mark.parametrize("name", ["conftest.py", "pytest.py", "json.py", "sitecustomize.py"])
def test_nothing_in_the_current_folder_is_imported(tmp_path, start, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "room" / name).write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path / "room")

    process = start("def test_holds(): pass")
    assert process.wait() == 0, (tmp_path / "printed").read_text()
