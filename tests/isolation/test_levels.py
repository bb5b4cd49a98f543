"""What each level takes away, and that it leaves an honest program what it needs: facts, told from inside."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from harness.solution.isolation import limits

from .conftest import run

Facts = dict[str, Any]


def test_an_honest_program_finds_what_it_needs(facts: Facts):
    assert {what: how for what, how in facts["honest"].items() if how is not True} == {}


def test_a_program_is_never_root(facts: Facts):
    """Limits on processes are not enforced for root."""
    assert facts["uid"] != 0
    assert facts["capabilities"] == 0
    assert facts["no new privileges"] == "1"


def test_no_descriptor_is_inherited(facts: Facts):
    """A listening socket, or one for datagrams, could be reconnected to the host from any namespace."""
    assert [int(name) for name in facts["descriptors"] if int(name) > 3] == []  # 3 is the listing itself


def test_the_environment_is_a_short_list(facts: Facts):
    allowed = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV", "HOME", "TMPDIR", "STATE_DIR", "PWD"}
    allowed |= {"LD_LIBRARY_PATH"}  # of the interpreter, where it is shown at another place
    python = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    assert set(facts["environment"]) <= allowed | python | {"BACKEND_KATAS_RUN"}


def test_the_kit_is_not_beside_the_interpreter(facts: Facts):
    assert not facts["kit"]
    assert not facts["pytest"]


def test_limits_of_one_process(facts: Facts):
    assert 0 < facts["tasks"] < 100_000
    assert facts["core"] == 0
    assert facts["file size"] == limits.ONE_FILE


def test_its_own_folder_is_not_to_be_changed(facts: Facts, level: int):
    if level:
        assert facts["writes to its folder"] is not True
    assert facts["writes to /dev"] is not True
    assert facts["writes to /"] is not True


def test_system_calls_are_filtered(facts: Facts, level: int):
    if level:
        assert facts["seccomp"] == "2"
        assert not facts["makes a user namespace"]


def test_the_network_has_nothing_but_lo(facts: Facts, level: int):
    if level >= 2:
        assert facts["interfaces"] == ["lo"]


def test_shared_memory_is_bounded(facts: Facts, level: int):
    if level >= 2:
        assert facts["shared memory"] <= limits.SHARED_MEMORY


def test_the_process_table_is_its_own(facts: Facts, level: int):
    """bwrap itself is process 1, and its environment would be read from there."""
    if level == 3:
        assert facts["environment of process 1"] == ""
        assert set(facts["processes"]) < set(range(20))


def test_folders_on_the_way_can_be_entered(facts: Facts):
    assert all(int(mode, 8) & 0o100 for mode in facts["parents"])


@pytest.fixture
def program(tmp_path: Path):
    def write(text: str) -> Path:
        folder = tmp_path / "submission"
        folder.mkdir()
        script = folder / "solution.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        return script

    return write


WAITING = """
    import os, signal, sys
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(5))
    open(os.path.join(os.environ["STATE_DIR"], "ready"), "w").close()
    while True:
        signal.pause()
"""


def test_sigterm_reaches_the_program_itself(level: int, program):
    """bwrap would not hand it on."""
    assert run(level, program(WAITING), signal.SIGTERM)["status"] == 5


def test_an_end_by_a_signal_is_told_as_one(level: int, program):
    assert run(level, program(WAITING), signal.SIGKILL)["status"] == -signal.SIGKILL


DAEMON = """
    import os, sys
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", ["MARK", "60"], {})
        os._exit(0)
    os.wait()
"""


def test_what_daemonised_is_found_and_ended(level: int, program, tmp_path: Path):
    """It left its session, its parent and its environment; at level 3 its namespace ends with the program."""
    ended = run(level, program(DAEMON.replace("MARK", str(tmp_path))))

    assert ended["status"] == 0
    assert ended["left"] == ([] if level == 3 else ["left 1 process"])
    assert not [name for name in os.listdir("/proc") if name.isdigit() and str(tmp_path) in _arguments(name)]


def _arguments(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_nothing_is_left_of_a_run(level: int, program):
    assert not Path(run(level, program("print(1)"))["folder"]).exists()


def test_shared_pages_count_once(level: int, program):
    """Forked processes share what their parent had; memory is counted by proportion, or it would be exceeded here."""
    ended = run(
        level,
        program("""
            import os, signal, time
            big = b"x" * (200 << 20)
            children = []
            for _ in range(4):
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
            time.sleep(0.3)
            for child in children:
                os.kill(child, signal.SIGKILL)
        """),
    )
    assert ended["exceeded"] == ""


def test_memory_of_a_whole_tree_is_bounded(level: int, program):
    ended = run(
        level,
        program("""
            import os, signal
            for _ in range(8):
                if os.fork() == 0:
                    own = bytearray(b"x" * (100 << 20))
                    signal.pause()
            signal.pause()
        """),
    )
    assert ended["exceeded"].startswith("memory: ")
    assert ended["status"] == -signal.SIGKILL
