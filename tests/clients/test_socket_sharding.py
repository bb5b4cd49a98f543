"""wrk against the reference of the kata `socket_sharding`: a load generator that opens a connection for each request.

Every answer says Connection: close, so wrk, which would keep its connections, connects anew for each request.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest

from harness.peers.jobs import Jobs
from harness.peers.processes import Processes
from harness.solution.program import Solution

from .launch import reference

pytestmark = pytest.mark.oracle
SECONDS, CLIENTS = 1, 40


@pytest.fixture
def service() -> Iterator[Solution]:
    if not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    with reference("socket_sharding", Jobs) as solution:
        yield solution


@pytest.fixture
def load(service) -> Iterator[subprocess.Popen[str]]:
    """wrk at work, once the first of its connections are there."""
    host, port = service.address
    words = [
        "wrk",
        "--threads",
        "2",
        "--connections",
        str(CLIENTS),
        "--duration",
        f"{SECONDS}s",
        f"http://{host}:{port}/",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wrk:
        processes = Processes(service)
        service.until(lambda: len(processes.workers()) == 4, "four workers")
        worked = service.cpu_seconds()
        while service.cpu_seconds() < worked + 0.02:
            service.turn(0.001)
        yield wrk


def report(load: subprocess.Popen[str]) -> tuple[int, str]:
    """How many requests were answered, and what wrk complains of."""
    text, _ = load.communicate(timeout=60)
    answered = re.search(r"(\d+) requests in", text)
    assert answered, text
    complaints = [line.strip() for line in text.splitlines() if "Socket errors" in line or "Non-2xx" in line]
    return int(answered[1]), "; ".join(complaints)


def test_load_is_served(load):
    answered, complaints = report(load)
    assert (answered > CLIENTS, complaints) == (True, "")


def test_a_reload_under_load_loses_nobody(load, service):
    processes, jobs = Processes(service), service.peer(Jobs)
    old = set(processes.workers())
    jobs.deploy("r1")
    service.signal(signal.SIGHUP, ends=False)
    while old & set(processes.workers()):
        service.turn(0.001)
    answered, complaints = report(load)
    assert (answered > CLIENTS, complaints) == (True, "")
