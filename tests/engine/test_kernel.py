"""What the kernel shows, checked against processes that do one thing and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from harness.solution import blocked, diag
from harness.solution.diag import ProcNetTcp, SocketDiag
from harness.solution.kernel import ProcessTree, shown

from .samples import Sample, answered

pytestmark = pytest.mark.skipif(bool(shown()), reason=shown() or "all is shown")
CALLS = ("epoll", "poll", "select", "clock_nanosleep", "nanosleep", "futex", "sigtimedwait")
OURS = ("127.0.0.1", "::ffff:127.0.0.1")


@pytest.fixture
def run() -> Iterator[Callable[..., Sample]]:
    samples: list[Sample] = []

    def start(name: str, *arguments: str, **environment: str) -> Sample:
        samples.append(Sample(name, *arguments, **environment))
        samples[-1].until_listening()
        return samples[-1]

    yield start
    for sample in samples:
        sample.close()


@pytest.fixture(params=[SocketDiag, ProcNetTcp])
def tcp(request: pytest.FixtureRequest) -> Iterator[diag.Tcp]:
    view = request.param()
    yield view
    view.close()


@pytest.fixture(params=[("127.0.0.1", False), ("::", True)], ids=["ipv4", "dual-stack"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    host, dual = request.param
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=dual) as sock:
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


# A tree of processes


@pytest.mark.parametrize("call", [*CALLS, "timerfd"])
def test_a_sleep_shows_when_it_ends(run, call):
    sample = run("timers.py", call, N="60000")
    looks = sample.looks_until(lambda look: look.quiet and look.next_timer)
    assert looks[-1].next_timer == pytest.approx(60, rel=0.2)


def test_a_deadline_comes_nearer_while_nothing_runs(run):
    """A span that began before it was first seen is counted from then, and not anew."""
    sample = run("timers.py", "epoll", N="60000")
    first = sample.looks_until(lambda look: look.quiet and look.next_timer)[-1].next_timer
    sample.looks_until(lambda look: look.quiet and look.next_timer < first - 0.02)


@pytest.mark.parametrize("call", ["poll", "nanosleep", "futex", "clock_nanosleep"])
def test_a_deadline_outlives_a_stop(run, call):
    sample = run("timers.py", call, N="60000")
    before = sample.looks_until(lambda look: look.quiet and look.next_timer)[-1].next_timer
    os.kill(sample.process.pid, signal.SIGSTOP)
    sample.looks_until(lambda look: "is stopped" in look.busy_because)
    os.kill(sample.process.pid, signal.SIGCONT)
    after = sample.looks_until(lambda look: look.quiet)[-1].next_timer
    assert after is not None
    assert before * 0.8 < after < before


def test_a_tree_has_its_children_and_loses_them(run):
    sample = run("prefork.py")
    sample.until(lambda: len(sample.tree.pids()) == 3)
    child = sample.tree.pids()[-1]
    before = sample.tree.cpu_seconds()

    os.kill(child, signal.SIGKILL)
    sample.until(lambda: len(sample.tree.pids()) == 2)

    assert sample.tree.cpu_seconds() >= before, "a child's work is not forgotten with it"
    assert sample.at_rest()


def test_a_child_belongs_to_the_tree_after_its_parent_is_gone(run):
    sample = run("prefork.py")
    sample.until(lambda: len(sample.tree.pids()) == 3)
    sample.process.kill()
    sample.process.wait()
    sample.until(lambda: len(sample.tree.pids()) == 2)
    assert sample.tree.listening() == [sample.address]


ORPHAN = """
import os, signal
if not os.fork():
    if not os.fork():
        signal.pause()
    os._exit(0)
os.wait()
print("ready", flush=True)
signal.pause()
"""


def test_a_child_whose_parent_was_never_seen_belongs_to_the_tree_by_its_session():
    program = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, start_new_session=True)
    with program:
        assert program.stdout is not None
        program.stdout.readline()
        tree = ProcessTree(program.pid)
        assert len(tree.pids()) == 2
        tree.close()
        os.killpg(program.pid, signal.SIGKILL)


def test_a_snapshot_is_complete_only_if_nothing_ran_while_processes_were_listed(monkeypatch, run):
    sample = run("loop.py")
    sample.at_rest()
    tree, list_all = ProcessTree(sample.process.pid), ProcessTree._list

    def list_while_it_runs(self: ProcessTree) -> None:
        list_all(self)
        sample.run_a_little()

    monkeypatch.setattr(tree, "_list", list_while_it_runs.__get__(tree))
    assert tree.snapshot().busy_because == "threads come and go"
    tree.close()


def test_a_tree_without_processes_is_not_alive(run):
    sample = run("loop.py")
    assert sample.tree.alive()
    sample.process.kill()
    sample.until(lambda: not sample.tree.alive())  # a zombie until it is waited for
    assert sample.tree.snapshot().asleep
    assert sample.tree.pids() == []


def test_cpu_time_of_a_child_that_came_and_went_is_counted(run):
    sample = run("loop.py")
    before = sample.tree.cpu_seconds()
    connection = sample.connect()
    connection.send(sample.request("fork", 100))
    sample.until(lambda: sample.tree.cpu_seconds() > before and answered(connection))
    assert sample.tree.cpu_seconds() - before > 0.05


def test_only_the_trees_own_listeners_count(run):
    sample = run("loop.py")
    with socket.create_server(("127.0.0.1", 0)):
        assert sample.tree.listening() == [sample.address]


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_a_dual_stack_listener_is_shown(run):
    sample = run("node.mjs")
    assert sample.tree.listening() == [("::", sample.address[1])]


def test_sockets_are_counted(run):
    sample = run("threads.py")
    sample.at_rest()
    before = sample.tree.sockets()
    connection = sample.connect()
    connection.send(sample.request("quick"))
    sample.until(lambda: answered(connection))
    assert sample.tree.sockets() == before + 1


def test_memory_is_measured(run):
    tree = run("prefork.py").tree
    assert 1 << 20 < tree.pss_bytes() < tree.rss_bytes() < 500 << 20


# System calls


def no_memory(address: int, size: int) -> bytes:
    raise AssertionError("nothing is to be read")


@pytest.mark.parametrize(
    ("name", "arguments", "milliseconds"),
    [
        ("epoll_wait", (3, 0, 1, 1500, 0, 0), 1500),
        ("epoll_wait", (3, 0, 1, 0xFFFFFFFF, 0, 0), None),
        ("epoll_pwait", (3, 0, 1, 0xFFFFFFFFFFFFFFFF, 0, 8), None),
        ("poll", (0, 1, 250, 0, 0, 0), 250),
        ("ppoll", (0, 1, 0, 0, 0, 0), None),
        ("futex", (1, 0x189, 0, 0, 0, 0xFFFFFFFF), None),
        ("futex", (1, 0x81, 1, 77, 0, 0), None),  # FUTEX_WAKE has a number where WAIT has a pointer
    ],
)
def test_time_outs_in_registers(name, arguments, milliseconds):
    timeout = blocked.timeout(blocked.Call(name, arguments), no_memory)
    assert timeout == (None if milliseconds is None else (milliseconds / 1000, None))


@pytest.mark.parametrize(
    ("name", "arguments", "clock"),
    [
        ("pselect6", (0, 0, 0, 0, 16, 0), None),
        ("futex", (1, 0x189, 0, 16, 0, 0xFFFFFFFF), blocked.REALTIME),
        ("futex", (1, 0x89, 0, 16, 0, 0xFFFFFFFF), blocked.MONOTONIC),
        ("futex", (1, 0x80, 0, 16, 0, 0), None),
        ("clock_nanosleep", (7, 1, 16, 0, 0, 0), 7),
        ("clock_nanosleep", (7, 0, 16, 0, 0, 0), None),
        ("epoll_pwait2", (3, 0, 1, 16, 0, 8), None),
    ],
)
def test_time_outs_in_memory(name, arguments, clock):
    memory = {16: (2).to_bytes(8, sys.byteorder) + (500_000_000).to_bytes(8, sys.byteorder)}
    timeout = blocked.timeout(blocked.Call(name, arguments), lambda address, size: memory[address][:size])
    assert timeout == (2.5, clock)


@pytest.mark.parametrize("line", [b"", b"running\n", b"-1 0x7ff 0x7f0\n", b"0 0 0 0 0 0 0 0 0\n"])
def test_a_line_without_a_time_out(line):
    assert blocked.call(line) is None


# Sockets


def test_both_ends_of_a_connection_are_shown(tcp, listener):
    with socket.create_connection(("127.0.0.1", port_of(listener))) as ours:
        theirs, _ = listener.accept()
        with theirs:
            local, remote = ours.getsockname(), ours.getpeername()
            ours.sendall(b"hello")
            tcp.refresh()
            end = tcp.lookup(remote, local)
            assert (end.state, end.rqueue) == (diag.ESTABLISHED, 5)
            assert end.inode == os.fstat(theirs.fileno()).st_ino
            assert tcp.lookup(local, remote).inode == os.fstat(ours.fileno()).st_ino


def test_the_accept_queue_is_shown(tcp, listener):
    port = port_of(listener)
    tcp.refresh()
    assert tcp.listener("127.0.0.1", port) == 0
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        tcp.refresh()
        assert tcp.listener("127.0.0.1", port) == 1
        assert tcp.lookup(waiting.getpeername(), waiting.getsockname()).inode == 0


def test_nobody_listens_and_nobody_is_connected(tcp, listener):
    port = port_of(listener)
    listener.close()
    tcp.refresh()
    assert tcp.listener("127.0.0.1", port) is None
    assert tcp.lookup(("127.0.0.1", port), ("127.0.0.1", 1)) is None


def test_a_listener_is_no_connection(tcp, listener):
    """The kernel's exact look-up falls back to the listener when there is no connection."""
    assert tcp.lookup(("127.0.0.1", port_of(listener)), ("127.0.0.1", 1)) is None


def test_listeners_are_named_with_their_inodes(tcp, listener):
    inode = os.fstat(listener.fileno()).st_ino
    host, port = listener.getsockname()[:2]
    assert (host, port, inode) in [(sock.host, sock.port, sock.inode) for sock in tcp.listeners()]


def test_each_of_several_listeners_on_one_port_has_its_own_queue(tcp):
    with socket.socket() as first, socket.socket() as second:
        address = ("127.0.0.1", 0)
        for backlog, sock in ((3, first), (5, second)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(backlog)
            address = sock.getsockname()
        second.close()  # so that the one that is left gets the next connection
        with socket.create_connection(address):
            (shown,) = [sock for sock in tcp.listeners() if sock.port == address[1]]
            assert (shown.inode, shown.queue) == (os.fstat(first.fileno()).st_ino, 1)
            assert shown.backlog == (3 if isinstance(tcp, SocketDiag) else None)


def test_sockets_are_told_by_process(run):
    sample = run("prefork.py")
    sample.until(lambda: len(sample.tree.pids()) == 3)
    (listener,) = sample.tree.listeners()
    holding = [pid for pid, inodes in sample.tree.sockets_by_process().items() if listener.inode in inodes]
    assert sorted(holding) == sample.tree.pids(), "a listener is told once, and all who have it open"
    if not shutil.which("ss"):
        pytest.skip("ss is not installed")
    shown = subprocess.run(["ss", "-ltnpe", f"sport = :{sample.port.number}"], capture_output=True, text=True)
    assert f"ino:{listener.inode} " in shown.stdout
    assert all(f"pid={pid}," in shown.stdout for pid in holding)


def test_bytes_are_counted_and_the_fin_is_counted_on_arrival_only(listener):
    tcp = SocketDiag()
    with socket.create_connection(("127.0.0.1", port_of(listener))) as ours:
        theirs, _ = listener.accept()
        with theirs:
            ours.sendall(b"hello")
            ours.shutdown(socket.SHUT_WR)
            local, remote = ours.getsockname(), ours.getpeername()
            assert tcp.lookup(local, remote).bytes_sent == 5
            assert tcp.lookup(remote, local).bytes_received == 6, "see TcpEnd: the rule relies on it"
            assert tcp.lookup(remote, local).rqueue == 6, "a FIN is one unread byte"
    tcp.close()
