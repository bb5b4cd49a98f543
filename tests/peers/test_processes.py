"""What is told of processes that share a port, compared with what ss(8) shows: nginx, with a socket for each worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from harness import kata as katas
from harness import subjects, waiting
from harness.peers.jobs import Jobs
from harness.peers.processes import Processes
from harness.solution.program import Solution

from . import foreign

pytestmark = pytest.mark.oracle
WORKERS = 3


@pytest.fixture
def processes(scratch) -> Iterator[Processes]:
    foreign.require("nginx", "nginx-light")
    foreign.require("ss", "iproute2")
    foreign.require("ps", "procps")
    kata = katas.shipped("socket_sharding")
    subject = subjects.from_path(kata, foreign.ORACLES / "socket_sharding_nginx.py")
    solution = Solution(kata, subject, {"WORKERS": str(WORKERS)}, [Jobs], scratch)
    try:
        solution.until_ready()
        processes = Processes(solution)
        solution.until(lambda: len(processes.workers()) == WORKERS, "its workers")
        solution.settled()
        yield processes
    finally:
        solution.close()


def shown(processes: Processes, *options: str) -> list[str]:
    """The lines of ss about the solution's port."""
    port = processes.solution.address[1]
    words = ["ss", "-H", "-t", "-n", "-p", "-e", *options, f"sport = :{port}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def inode(line: str) -> int:
    found = re.search(r"\bino:(\d+)", line)
    return int(found[1]) if found else 0


def pids(line: str) -> set[int]:
    return {int(pid) for pid in re.findall(r"pid=(\d+)", line)}


def connect(processes: Processes, number: int) -> list:
    connections = [processes.solution.connect("client") for _ in range(number)]
    waiting.until_flushed(processes.solution)
    return connections


def test_listeners_and_who_has_them(processes):
    lines = {inode(line): pids(line) for line in shown(processes, "-l")}
    assert len(lines) == WORKERS
    holders = processes.holders()
    for number, holding in lines.items():
        assert {pid for pid, inodes in holders.items() if number in inodes} == holding


def test_the_parent_of_workers_is_their_supervisor(processes):
    parent = processes.supervisor
    words = ["ps", "-o", "pid=", "--ppid", str(parent)]
    children = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert set(processes.workers()) == set(map(int, children))
    assert parent != processes.solution.process.program, "the program only starts nginx"


def test_queues_and_backlogs(processes):
    with processes.halted("workers", *processes.workers()):
        connect(processes, 12)
        lines = {inode(line): line.split() for line in shown(processes, "-l")}
        queues = processes.queues()
        assert sum(queues.values()) == 12
        assert queues == {number: int(words[1]) for number, words in lines.items()}
        backlogs = {number: sock.backlog for number, sock in processes.listeners().items()}
        assert backlogs == {number: int(words[2]) for number, words in lines.items()}


def test_whose_a_connection_is(processes):
    (connection,) = connect(processes, 1)
    processes.solution.until(lambda: processes.owners(connection), "to accept")
    (line,) = [line for line in shown(processes) if f":{connection.local[1]}" in line]
    assert processes.owners(connection) == pids(line)
    with processes.halted("workers", *processes.workers()):
        (unaccepted,) = connect(processes, 1)
        assert processes.owners(unaccepted) == set()


def test_a_process_that_is_halted_stands_still_and_the_rest_can_be_quiet(processes):
    worker, *others = processes.workers()
    with processes.halted("a worker", worker):
        assert state(worker) == "T"
        assert all(state(other) == "S" for other in others)
        processes.solution.settled()
        assert processes.solution.look().quiet
    processes.solution.until(lambda: state(worker) == "S", "to go on")


def state(pid: int) -> str:
    return subprocess.run(["ps", "-o", "s=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


def test_who_has_run(processes):
    before = processes.asleep()
    assert processes.ran_since(before) == set()
    (connection,) = connect(processes, 1)
    processes.solution.until(lambda: processes.owners(connection), "to accept")
    assert processes.ran_since(before) == processes.owners(connection)


def test_who_is_gone(processes):
    worker, *_ = processes.workers()
    assert processes.alive(worker)
    assert not processes.reaped(worker)
    with processes.halted("the supervisor", processes.supervisor):
        processes.send(worker, signal.SIGKILL, "a worker")
        processes.solution.until(lambda: not processes.alive(worker), "an end")
        assert (state(worker), processes.reaped(worker)) == ("Z", False), "it is dead, and nobody has waited for it"
    processes.solution.until(lambda: processes.reaped(worker), "to reap it")
    assert not os.path.exists(f"/proc/{worker}")


def test_a_process_knows_itself_by_its_own_id(processes):
    worker, *_ = processes.workers()
    assert (processes.inner(worker), processes.outer(worker)) == (worker, worker), "there is no namespace here"
    assert (processes.inner(1 << 30), processes.outer(1 << 30)) == (0, 0)


def test_descriptors_are_counted(processes):
    worker, *_ = processes.workers()
    before = processes.descriptors()[worker]
    connections = connect(processes, 9)
    processes.solution.settled()
    owned = [connection for connection in connections if worker in processes.owners(connection)]
    assert processes.descriptors()[worker] == before + len(owned)
