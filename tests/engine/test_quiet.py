"""Quiet is said when it is, soon, and never before; for servers of several makes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from harness.solution import diag, kernel, quiet, thread
from harness.solution.diag import Address, ProcNetTcp
from harness.solution.kernel import shown
from harness.solution.quiet import SETTLE, Look, SettleWatch, Watch, watch
from harness.wire.tcp import Connection

from .samples import ALL, Sample, answered

pytestmark = pytest.mark.skipif(bool(shown()), reason=shown() or "all is shown")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
EVERY = [pytest.param(name, marks=needs_node) if "node" in name else name for name in ALL]
RAW = ("loop.py", "loop_and_child.py", "threads.py", "prefork.py")


@pytest.fixture
def run() -> Iterator[Callable[..., Sample]]:
    samples: list[Sample] = []

    def start(name: str) -> Sample:
        samples.append(Sample(name))
        samples[-1].until_listening()
        samples[-1].settled()
        return samples[-1]

    yield start
    for sample in samples:
        sample.close()


@pytest.mark.parametrize("name", EVERY)
def test_it_is_quiet_after_its_answer_and_not_before(run, name):
    sample = run(name)
    connection = sample.connect()
    for _ in range(20):
        del connection.inbox[:]
        connection.send(sample.request("quick"))
        sample.settled()
        assert answered(connection), "quiet, but the answer came later"


@pytest.mark.parametrize("name", EVERY)
def test_it_is_not_quiet_while_it_computes(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("work", 50))
    looks = sample.settled()
    assert answered(connection), "quiet, but the answer came later"
    assert any("is running" in look.busy_because for look in looks)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "asgi.py"])
def test_a_due_timer_is_seen_and_waited_for(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("later", 400))
    sample.looks_until(lambda look: look.quiet and 0.3 < (look.next_timer or 0) <= 0.41)
    assert not answered(connection)
    sample.until(partial(answered, connection))


def test_a_timer_behind_a_tick_is_named_by_the_tick(run):
    """uvicorn wakes up every 100 ms: a later timer of its loop is a blind spot."""
    sample = run("asgi.py")
    connection = sample.connect()
    connection.send(sample.request("later", 400))
    look = sample.settled()[-1]
    assert look.next_timer is not None
    assert look.next_timer <= 0.1
    sample.until(partial(answered, connection))


@pytest.mark.parametrize("name", RAW)
def test_no_timer_is_due_when_none_was_set(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("quick"))
    assert sample.at_rest()
    assert answered(connection)


@pytest.mark.parametrize("name", RAW)
def test_input_that_is_left_unread_settles(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("deaf"))
    sample.settled()
    connection.send(b"unheard")
    looks = sample.settled()
    unread = [look for look in looks if "7 bytes of input are not read" in look.busy_because]
    assert len(unread) >= 2, "one look can't tell unread from not read yet"


@pytest.mark.parametrize("name", ["loop.py", "threads.py", "prefork.py"])
def test_a_half_sent_answer_is_not_quiet(run, name):
    """With a small window most of a big answer is still to be sent while every thread sleeps."""
    sample = run(name)
    connection = sample.connect(receive_buffer=4096)
    connection.send(sample.request("big", 3_000_000))
    sample.settled()
    assert answered(connection)
    assert len(connection.inbox) > 3_000_000


def _both_ways(connection: Connection) -> list[tuple[Address, Address]]:
    return [(connection.remote, connection.local), (connection.local, connection.remote)]


@pytest.mark.parametrize("name", ["loop.py", "threads.py", "prefork.py"])
def test_output_that_the_harness_does_not_read_settles(run, name):
    sample = run(name)
    connection = sample.connect(receive_buffer=4096)
    connection.stop_reading()
    connection.send(sample.request("big", 3_000_000))
    sample.settled()
    assert not connection.inbox
    theirs, ours = (sample.watch.tcp.lookup(*ends) for ends in _both_ways(connection))
    acknowledged = theirs.bytes_sent - theirs.bytes_retrans - (theirs.wqueue - theirs.notsent)
    assert acknowledged == ours.bytes_received, "quiet, but once it hears of them the writer goes on"
    connection.read_again()
    sample.settled()
    assert answered(connection)


@pytest.mark.parametrize("name", EVERY)
def test_a_connection_that_was_reset_is_noticed(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("quick"))
    sample.settled()
    connection.hang_up()
    sample.settled()
    assert sample.watch.noticed(connection)


@pytest.mark.parametrize("name", EVERY)
def test_a_connection_that_was_closed_is_noticed_once_the_server_closes_too(run, name):
    sample = run(name)
    connection = sample.connect()
    connection.send(sample.request("quick"))
    sample.settled()
    connection.close()
    sample.settled()
    sample.until(lambda: sample.look().quiet and sample.watch.noticed(connection))


def test_the_end_of_input_that_nobody_reads_is_no_unread_input(run):
    sample = run("loop.py")
    connection = sample.connect()
    connection.send(sample.request("deaf"))
    sample.settled()
    connection.half_close()
    looks = sample.settled()
    assert not any("not read" in look.busy_because for look in looks)
    theirs = sample.watch.tcp.lookup(connection.remote, connection.local)
    assert theirs is not None
    assert (theirs.state, theirs.rqueue) == (diag.CLOSE_WAIT, 1)


def test_connections_that_are_not_accepted_settle(run):
    sample = run("prefork.py")
    connections = [sample.connect() for _ in range(4)]
    for connection in connections[:2]:  # both workers serve one connection at a time
        connection.send(sample.request("quick"))
    looks = sample.settled()
    waiting = [look for look in looks if "accepted" in look.busy_because]
    assert len(waiting) >= 2
    sample.until(lambda: sum(map(answered, connections)) == 2)


def test_a_new_thread_is_seen(run):
    sample = run("loop.py")
    connection = sample.connect()
    for _ in range(5):
        del connection.inbox[:]
        connection.send(sample.request("thread", 10))
        sample.settled()
        assert answered(connection)


def test_threads_come_and_go(run):
    sample = run("threads.py")
    for _ in range(30):
        connection = sample.connect()
        connection.send(sample.request("quick"))
        sample.settled()
        assert answered(connection)
        connection.hang_up()
    sample.at_rest()
    assert len(sample.tree.threads()) <= 2


def test_a_child_is_seen_while_it_works_and_after_its_end(run):
    sample = run("loop.py")
    connection = sample.connect()
    for _ in range(5):
        del connection.inbox[:]
        connection.send(sample.request("fork", 10))
        sample.settled()
        assert answered(connection)


def test_a_stopped_program_is_not_quiet(run):
    sample = run("loop.py")
    os.kill(sample.process.pid, signal.SIGSTOP)
    sample.looks_until(lambda look: "is stopped" in look.busy_because)
    connection = sample.connect()
    connection.send(sample.request("quick"))
    assert not sample.look().quiet
    os.kill(sample.process.pid, signal.SIGCONT)
    sample.settled()
    assert answered(connection)


def test_a_process_that_the_harness_keeps_stopped_counts_as_asleep(run):
    sample = run("prefork.py")
    sample.until(lambda: len(sample.tree.pids()) == 3)
    worker = max(sample.tree.pids())
    sample.watch.tree.halted.add(worker)
    os.kill(worker, signal.SIGSTOP)
    sample.looks_until(lambda look: look.quiet)
    sample.watch.tree.halted.clear()
    sample.looks_until(lambda look: "is stopped" in look.busy_because)
    os.kill(worker, signal.SIGCONT)
    sample.looks_until(lambda look: look.quiet)


def test_a_program_that_is_gone_is_quiet(run):
    sample = run("loop.py")
    connection = sample.connect()
    connection.send(sample.request("exit", 3))
    assert sample.process.wait() == 3
    sample.at_rest()
    assert connection.ended


def test_many_connections_at_once(run):
    sample = run("loop.py")
    connections = [sample.connect() for _ in range(50)]
    for connection in connections:
        connection.send(sample.request("quick"))
    sample.settled()
    assert all(map(answered, connections))


def test_what_runs_between_two_scans_is_not_quiet(monkeypatch, run):
    sample = run("loop.py")
    sample.at_rest()

    def look_up_while_it_runs(host: str, port: int) -> int:
        sample.run_a_little()
        return 0

    monkeypatch.setattr(sample.watch.tcp, "listener", look_up_while_it_runs)
    assert sample.look().busy_because == "a thread has just run"


def test_what_becomes_readable_while_looking_is_not_quiet(run):
    sample = run("loop.py")
    look = sample.watch.look([], lambda: True)
    assert look == Look(False, "something has just arrived")


@pytest.mark.parametrize("name", ["loop.py", "threads.py", "loop_and_child.py"])
def test_it_works_without_sock_diag(monkeypatch, run, name):
    monkeypatch.setattr(quiet, "open_tcp", ProcNetTcp)
    monkeypatch.setattr(kernel, "open_tcp", ProcNetTcp)
    sample = run(name)
    connection = sample.connect()
    for mode, number in [("quick", 0), ("work", 20), ("quick", 0)]:
        del connection.inbox[:]
        connection.send(sample.request(mode, number))
        sample.settled()
        assert answered(connection)
    connection.hang_up()
    assert sample.settled()


def test_where_system_calls_are_secret_a_settle_time_stands_for_timers(monkeypatch, run):
    def refuse(self: thread.Thread, name: str) -> bytes:
        if name == "syscall":
            raise PermissionError
        return read(self, name)

    read = thread.Thread.read
    monkeypatch.setattr(thread.Thread, "read", refuse)
    sample = run("loop.py")
    connection = sample.connect()
    connection.send(sample.request("later", 20))
    first = sample.settled()[-1]
    assert first.next_timer is not None
    assert 0 < first.next_timer <= SETTLE
    sample.at_rest()
    assert answered(connection)
    assert "no timers" in sample.watch.describe()


def test_where_threads_are_secret_nothing_moves_for_a_while(run):
    sample = run("loop.py")
    sample.watch.close()
    sample.watch = SettleWatch("this system has no /proc")
    connection = sample.connect()
    connection.send(sample.request("work", 20))
    sample.settled()
    assert answered(connection)
    assert sample.watch.describe().startswith("nothing has moved for 150 ms")


def test_the_best_watch_is_chosen(monkeypatch):
    best = watch(os.getpid(), "127.0.0.1", 1)
    assert isinstance(best, Watch)
    best.close()
    monkeypatch.setattr(quiet, "shown", lambda: "darwin has no /proc")
    assert "darwin" in watch(os.getpid(), "127.0.0.1", 1).describe()
