"""UDP: what the kernel shows of it, quiet with it, and losses that are never held against a solution."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from harness.solution import datagrams
from harness.solution.kernel import shown
from harness.solution.quiet import SettleWatch
from harness.story.record import Record
from harness.wire import udp
from harness.wire.network import Network
from harness.wire.udp import Datagram, Endpoint

from .samples import DATAGRAMS, Sample

pytestmark = pytest.mark.skipif(bool(shown()), reason=shown() or "all is shown")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
EVERY = [pytest.param(name, marks=needs_node) if "node" in name else name for name in DATAGRAMS]
FLOOD = 4000  # datagrams, more than any receive queue of a test holds


@pytest.fixture
def run() -> Iterator[Callable[[str], Sample]]:
    samples: list[Sample] = []

    def start(name: str) -> Sample:
        samples.append(Sample(name))
        samples[-1].until_listening()
        samples[-1].settled()
        return samples[-1]

    yield start
    for sample in samples:
        sample.close()


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def shown_of(sock: socket.socket) -> datagrams.UdpSocket:
    (found,) = datagrams.sockets({sock.getsockname()[1]})
    return found


# What the kernel shows


def test_a_bound_socket_is_shown_with_its_owner(receiver):
    host, port = receiver.getsockname()
    assert shown_of(receiver) == (host, port, 0, os.fstat(receiver.fileno()).st_ino, 0)


def test_a_dual_stack_socket_is_shown():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 0))
        assert shown_of(sock).host == "::"


def test_all_sockets_of_a_shared_port_are_shown(receiver):
    with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(first.getsockname() if sock is second else ("127.0.0.1", 0))
        assert len(list(datagrams.sockets({first.getsockname()[1]}))) == 2


def test_what_lies_unread_is_shown_until_it_is_read(receiver):
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", receiver.getsockname())
        assert receiver.recv(5, socket.MSG_PEEK) == b"hello"
        assert shown_of(receiver).unread > 0
        receiver.recv(5)
        assert shown_of(receiver).unread == 0


def test_what_was_dropped_is_counted(receiver):
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        for _ in range(FLOOD):
            sender.sendto(b"hello", receiver.getsockname())
    receiver.setblocking(False)
    read = 0
    while True:
        try:
            read += bool(receiver.recv(5))
        except BlockingIOError:
            break
    assert shown_of(receiver).dropped == FLOOD - read


def test_packets_on_their_way_are_counted(monkeypatch, tmp_path):
    backlogs = tmp_path / "softnet_stat"
    monkeypatch.setattr(datagrams, "BACKLOGS", str(backlogs))
    for waiting, lines in [(0, [0, 0]), (17, [1, 16])]:
        row = " ".join(["00000001"] * datagrams.BACKLOG)
        backlogs.write_text("".join(f"{row} {number:08x} 00000000\n" for number in lines))
        assert datagrams.on_their_way() == waiting
    backlogs.write_text("00000001 00000000\n")
    assert datagrams.on_their_way() == 0, "a kernel that does not show it"


@pytest.mark.parametrize("name", EVERY)
def test_readiness_is_the_trees_own_socket(run, name, receiver):
    sample = run(name)
    assert sample.tree.listening("udp") == [sample.address]
    assert sample.tree.listening("tcp") == []


# The harness's sockets


def test_a_datagram_goes_there_and_back(run):
    sample = run("datagrams_loop.py")
    endpoint = sample.endpoint()
    endpoint.send(b"quick 7", sample.address)
    sample.until(lambda: endpoint.inbox)
    assert endpoint.take() == [Datagram(b"done quick 7\n", sample.address)]
    assert endpoint.take() == []
    told = [(event.source, event.target, event.head) for event in sample.network.record.events]
    assert told == [("client", "server", b"quick 7"), ("server", "client", b"done quick 7\n")]


def test_an_empty_and_a_largest_datagram_arrive_whole(run, receiver):
    sample = run("datagrams_loop.py")
    endpoint = sample.endpoint()
    for data in (b"", bytes(65507)):
        receiver.sendto(data, endpoint.local)
        sample.until(lambda: endpoint.inbox)
        assert endpoint.take() == [Datagram(data, receiver.getsockname())]


def test_nobody_else_can_bind_the_harnesss_port(run):
    endpoint = run("datagrams_loop.py").endpoint()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket(type=socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(endpoint.local)


def test_a_port_that_nobody_is_bound_to_is_told(run, receiver):
    sample = run("datagrams_loop.py")
    endpoint, nowhere = sample.endpoint(), receiver.getsockname()
    receiver.close()
    endpoint.send(b"hello?", nowhere)
    sample.until(lambda: endpoint.unreachable)
    assert not sample.network.turn(), "the selector is not woken up again and again for it"
    endpoint.send(b"quick 1", sample.address)
    sample.until(lambda: endpoint.inbox)
    assert endpoint.unreachable == 1


def test_what_the_harness_missed_is_counted(run, receiver):
    endpoint = run("datagrams_loop.py").endpoint()
    endpoint.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    assert endpoint.dropped() == 0
    for _ in range(FLOOD):
        receiver.sendto(b"hello", endpoint.local)
    while endpoint.network.turn():
        pass
    assert endpoint.dropped() == FLOOD - endpoint.received


def test_whether_an_address_is_taken_is_known_without_the_kernels_tables(receiver):
    address = receiver.getsockname()
    assert udp.taken(address)
    receiver.close()
    assert not udp.taken(address)


# Quiet


@pytest.mark.parametrize("name", EVERY)
def test_it_is_quiet_after_its_answer_and_not_before(run, name):
    sample = run(name)
    endpoint = sample.endpoint()
    for number in range(20):
        endpoint.send(b"quick %d" % number, sample.address)
        sample.settled()
        assert endpoint.take(), "quiet, but the answer came later"


@pytest.mark.parametrize("name", EVERY)
def test_it_is_not_quiet_while_it_computes(run, name):
    sample = run(name)
    endpoint = sample.endpoint()
    endpoint.send(b"work 50", sample.address)
    looks = sample.settled()
    assert endpoint.take(), "quiet, but the answer came later"
    assert any("is running" in look.busy_because for look in looks)


@pytest.mark.parametrize("name", EVERY)
def test_silence_is_known_at_once(run, name):
    sample = run(name)
    endpoint = sample.endpoint()
    endpoint.send(b"silent 0", sample.address)
    assert sample.at_rest()
    assert endpoint.take() == []


@pytest.mark.parametrize("name", EVERY)
def test_a_due_timer_is_seen_and_waited_for(run, name):
    sample = run(name)
    endpoint = sample.endpoint()
    endpoint.send(b"later 400", sample.address)
    sample.looks_until(lambda look: look.quiet and 0.3 < (look.next_timer or 0) <= 0.41)
    assert not endpoint.inbox
    sample.until(lambda: endpoint.inbox)


@pytest.mark.parametrize("name", EVERY)
def test_a_burst_is_answered_before_it_is_quiet(run, name):
    sample = run(name)
    endpoint = sample.endpoint()
    for number in range(100):
        endpoint.send(b"quick %d" % number, sample.address)
    sample.settled()
    assert len(endpoint.take()) == 100
    assert endpoint.dropped() == 0


def test_what_is_left_unread_settles(run):
    sample = run("datagrams_threads.py")
    endpoint = sample.endpoint()
    endpoint.send(b"deaf 0", sample.address)
    sample.settled()
    endpoint.send(b"quick 0", sample.address)
    looks = sample.settled()
    assert sum("datagrams are not read" in look.busy_because for look in looks) >= 2


def test_what_a_closed_socket_of_the_harness_sent_is_still_looked_for(run):
    sample = run("datagrams_threads.py")
    endpoint = sample.endpoint()
    os.kill(sample.process.pid, signal.SIGSTOP)
    sample.looks_until(lambda look: "is stopped" in look.busy_because)
    endpoint.send(b"work 20", sample.address)
    sample.look()
    endpoint.close()
    before = sample.tree.cpu_seconds()
    os.kill(sample.process.pid, signal.SIGCONT)
    sample.settled()
    assert sample.tree.cpu_seconds() - before > 0.015, "it was not quiet before it had done what was asked"


def test_a_packet_on_its_way_is_not_quiet(run, monkeypatch):
    sample = run("datagrams_loop.py")
    endpoint = sample.endpoint()
    endpoint.send(b"quick 0", sample.address)
    sample.settled()
    monkeypatch.setattr(datagrams, "on_their_way", lambda: 1)
    assert sample.look().busy_because == "datagrams are on their way"


def test_where_threads_are_secret_nothing_moves_for_a_while(run):
    sample = run("datagrams_loop.py")
    sample.watch.close()
    sample.watch = SettleWatch("this system has no /proc")
    endpoint = sample.endpoint()
    endpoint.send(b"work 20", sample.address)
    sample.settled()
    assert endpoint.take()


@pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
def test_a_solutions_losses_are_seen(run):
    sample = run("datagrams_threads.py")
    endpoint = sample.endpoint()
    os.kill(sample.process.pid, signal.SIGSTOP)
    sample.looks_until(lambda look: "is stopped" in look.busy_because)
    for _ in range(FLOOD):
        endpoint.send(b"silent 0", sample.address)
    (theirs,) = datagrams.sockets({sample.address[1]})
    os.kill(sample.process.pid, signal.SIGCONT)
    assert theirs.dropped > 0
    assert theirs.dropped < FLOOD


def test_an_endpoint_is_closed_with_its_network():
    network = Network(Record(lambda: 0.0))
    endpoint = Endpoint(network, "client", "server")
    network.close()
    assert endpoint.closed
    endpoint.send(b"too late", endpoint.local)
    assert (endpoint.sent, endpoint.dropped()) == (0, 0)
