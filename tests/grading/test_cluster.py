"""`kata grade --dask`: a real scheduler and workers, as processes of this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.grading import cluster, seal

from .cluster import PATIENCE, Processes, ancestors, until

pytestmark = pytest.mark.timeout(300)  # a cluster is half a dozen programs that start slowly
TIMES = {"graded_at", "milliseconds", "signature", "at"}


@pytest.fixture
def processes(kit, tmp_path):
    started = Processes(kit.root, tmp_path / "cluster")
    yield started
    started.close()


def without_times(value):
    """A result as canonical bytes, without what differs between two runs anywhere."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_results_are_those_of_this_machine(classroom, processes, tmp_path):
    processes.start(2)
    classroom.hand_in("alice")
    classroom.hand_in("bob", classroom.program.replace('"WELCOME "', '"HELLO "'))
    classroom.hand_in("carol").joinpath("solution.py").rename(classroom.submissions / "carol" / "main.py")
    here = classroom.grade("--seed", "5", "--isolation", "0")
    local = {name: without_times(classroom.result(name)) for name in ("alice", "bob", "carol")}
    classroom.out.rename(classroom.folder / "local")

    there = classroom.grade("--seed", "5", "--isolation", "0", "--dask", processes.address)

    assert (here.status, there.status) == (1, 1), there.err
    for name, result in local.items():
        distributed = without_times(classroom.result(name))
        assert json.dumps(distributed, sort_keys=True) == json.dumps(result, sort_keys=True)
    assert classroom.kit.kata("verify", str(classroom.out)).status == 0, "they are signed with the teacher's key"


def test_the_key_and_the_students_stay_here(classroom, processes):
    """All that was sent stands in the scheduler's and the workers' memory; neither knows the key or a name."""
    (worker,) = processes.start(1)
    classroom.hand_in("alice-the-student")
    ended = classroom.grade("--dask", processes.address, "--isolation", "0")

    assert classroom.result("alice-the-student")["score"] == 3, ended.err
    secret = seal.key_of(classroom.folder / "out.key")
    for process in (worker, processes.scheduler):
        memory = b"".join(readable_memory(process.pid))
        assert b"distributed" in memory, "its memory was read"
        assert secret not in memory
        assert b"alice-the-student" not in memory


def readable_memory(pid):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, modes, *_ = line.split()
            if modes.startswith("rw"):
                first, last = (int(end, 16) for end in span.split("-"))
                memory.seek(first)
                yield memory.read(last - first)


HELLO = 'visitor.say(f"HELLO {visitor.name}\\n")'
HELD = """import os, pathlib
    (pathlib.Path({folder!r}) / f"running-{{os.getpid()}}").touch()
    os.close(os.open({gate!r}, os.O_RDONLY))  # until somebody opens it for writing
    """
POISON = """import os, pathlib
    if b"poison" in (visitor.solution.subject.folder / "solution.py").read_bytes():
        pid = os.getpid()
        while b"dask_worker" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
            pid = int(pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        os.kill(pid, 9)
    """


@pytest.fixture
def before_hello(kit):
    """Makes the kit do something before the first behaviour speaks; to be called before workers start."""
    path = kit.root / "harness/behaviours/door.py"
    honest = path.read_text()
    assert honest.count(HELLO) == 1

    def plant(lines):
        path.write_text(honest.replace(HELLO, lines + HELLO))

    yield plant
    path.write_text(honest)


def test_what_a_killed_worker_had_is_graded_elsewhere(classroom, before_hello, processes, tmp_path):
    """It is killed while its first submission runs, and that cannot end before."""
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    seen.mkdir()
    os.mkfifo(gate)
    before_hello(HELD.format(folder=str(seen), gate=str(gate)))
    workers = {worker.pid: worker for worker in processes.start(3)}
    names = [f"pupil{number}" for number in range(5)]
    for name in names:
        classroom.hand_in(name)
    teacher = classroom.start("--dask", processes.address, "--isolation", "0")
    until(lambda: list(seen.iterdir()) or teacher.poll() is not None, "a submission runs")
    assert teacher.poll() is None, teacher.communicate()

    running = int(next(seen.iterdir()).name.partition("-")[2])
    (dying,) = set(ancestors(running)) & set(workers)
    workers[dying].kill()
    workers[dying].wait()
    opened = os.open(gate, os.O_RDWR)
    out, err = teacher.communicate(timeout=PATIENCE)
    os.close(opened)

    assert teacher.returncode == 0, out + err
    assert {name: classroom.result(name)["score"] for name in names} == dict.fromkeys(names, 3)
    assert out.count(" 3 of 3 points") == 5, "each is told of once"


def test_a_submission_that_two_workers_die_of_is_given_up(classroom, before_hello, processes):
    """Its neighbours are graded, also those that ran beside it when the first worker died."""
    before_hello(POISON)
    processes.start(3, threads=2)
    classroom.hand_in_with("eve", "# poison")
    for name in ("ann", "bea", "zoe"):
        classroom.hand_in(name)

    ended = classroom.grade("--dask", processes.address, "--isolation", "0")

    assert ended.status == 1, ended.out + ended.err
    eve = classroom.result("eve")
    assert (eve["status"], eve["score"]) == ("not gradable", None), ended.err
    assert re.fullmatch(r"2 workers died of it: tcp://\S+, tcp://\S+", eve["reason"])
    assert {name: classroom.result(name)["score"] for name in ("ann", "bea", "zoe")} == {"ann": 3, "bea": 3, "zoe": 3}
    assert [worker.poll() is None for worker in processes.workers].count(True) == 1


def test_suspects_run_alone():
    turns, order = cluster.Turns(), []
    entered, leave = threading.Event(), threading.Event()

    def honest():
        with turns.take(alone=False):
            entered.set()
            leave.wait(PATIENCE)
            order.append("honest")

    def suspect():
        with turns.take(alone=True):
            order.append("suspect")

    first, second = threading.Thread(target=honest), threading.Thread(target=suspect)
    first.start()
    entered.wait(PATIENCE)
    with turns.take(alone=False):
        second.start()
        leave.set()
        first.join(PATIENCE)
        order.append("another beside")
    second.join(PATIENCE)

    assert order == ["honest", "another beside", "suspect"]


def test_an_interrupt_calls_the_cluster_off(classroom, before_hello, processes, tmp_path):
    seen, gate = tmp_path / "seen", tmp_path / "gate"
    seen.mkdir()
    os.mkfifo(gate)
    before_hello(HELD.format(folder=str(seen), gate=str(gate)))
    processes.start(1)
    classroom.hand_in("alice")
    teacher = classroom.start("--dask", processes.address, "--isolation", "0")
    until(lambda: list(seen.iterdir()) or teacher.poll() is not None, "a submission runs")
    assert teacher.poll() is None, teacher.communicate()
    running = int(next(seen.iterdir()).name.partition("-")[2])

    teacher.send_signal(signal.SIGINT)
    out, err = teacher.communicate(timeout=PATIENCE)

    assert teacher.returncode == 130, out + err
    assert "0 of 1 are graded and kept, and --resume grades the others" in err
    until(lambda: not Path(f"/proc/{running}").exists(), "what ran there is ended")


def test_a_cluster_that_is_none_is_one_sentence(classroom, processes):
    """No workers, an address where nobody speaks, one where nobody listens, one of no kind."""
    classroom.hand_in("alice")
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        closed, mute = (f"tcp://127.0.0.1:{each.getsockname()[1]}" for each in (gone, silent))
        gone.close()
        addresses = (processes.address, mute, closed, "nonsense://")
        gradings = [classroom.start("--dask", address) for address in addresses]  # side by side: they wait for long
        errors = [grading.communicate(timeout=PATIENCE)[1] for grading in gradings]

    assert [(grading.returncode, error.count("\n")) for grading, error in zip(gradings, errors, strict=True)] == [
        (2, 1)
    ] * 4, errors
    assert errors[0].startswith(f"kata: there are no workers at {processes.address}; start some with `dask worker")
    for address, error in zip(addresses[1:], errors[1:], strict=True):
        assert error.startswith(f"kata: no Dask scheduler answers at {address} (")
    assert not (classroom.out / "results").exists(), "nothing was begun"


def test_a_worker_with_another_kit_is_told_of(classroom, processes, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(classroom.kit.root, other)
    behaviours = other / "harness/behaviours/door.py"
    behaviours.write_text(behaviours.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    processes.start(1, kit=other)
    classroom.hand_in("alice")

    ended = classroom.grade("--dask", processes.address)

    assert ended.status == 2
    assert re.fullmatch(
        r"kata: the worker tcp://\S+ has another kit \(.+\); install this one \(.+\) there\n", ended.err
    )


def test_without_distributed_it_says_what_to_install(classroom, tmp_path):
    (tmp_path / "distributed.py").write_text("raise ModuleNotFoundError('No module named distributed')")
    classroom.hand_in("alice")
    path = os.pathsep.join([str(tmp_path), str(classroom.kit.root)])
    words = [sys.executable, "-m", "harness.commands", *classroom.words("--dask", "tcp://127.0.0.1:1")]

    ended = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)

    assert ended.returncode == 2
    assert ended.stderr == (
        "kata: --dask needs the package distributed, which is not installed: pip install 'backend-katas[grade]'\n"
    )
