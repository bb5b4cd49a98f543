"""Katas whose solution listens on UDP: when it is ready, and what is said of datagrams that are lost."""

from __future__ import annotations

import pytest

from .runs import Bench

SOLUTION = """
import os, signal, socket

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
address = os.environ["HOST"], int(os.environ["PORT"])
if "tcp" in {transports}:
    listener = socket.create_server(address)
if "udp" in {transports}:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(address)
while {reads}:
    data, source = sock.recvfrom(65536)
    if data != b"hush":
        sock.sendto(data, source)
signal.pause()
"""
HEAD = """
import pytest
from harness.behaviour import Source, behaviour

RULES = Source("README")

@pytest.fixture
def visitor(solution):
    visitor = solution.endpoint("visitor")
    visitor.say = lambda data: visitor.send(data, solution.address)
    return visitor
"""
BEHAVIOUR = '''

@behaviour(stage=1, source=RULES)
def test_{name}(solution, visitor):
    """{name} is promised."""
    {body}
'''
FLOOD = """
    with solution.frozen():
        for number in range(3000):
            visitor.say(b"x" * 100)
    solution.settled()
    assert len(visitor.inbox) == 3000
"""


def solution(*transports: str, reads: bool = True) -> str:
    return SOLUTION.format(transports=set(transports) or "{}", reads=reads)


def behaving(**bodies: str) -> str:
    return HEAD + "".join(BEHAVIOUR.format(name=name, body=body.strip()) for name, body in bodies.items())


ANSWERS = behaving(answers='visitor.say(b"hello"); solution.until(lambda: visitor.inbox, "an echo", "visitor")')


def test_it_is_ready_when_it_is_bound(bench: Bench):
    bench.behaviours(ANSWERS)
    bench.kata(solution("udp"), listens=["udp"])

    assert bench.pytest("katas/bell").verdicts == {"answers": "holds"}


@pytest.mark.parametrize(
    ("does", "wanted", "lacking"),
    [
        (("tcp",), ["udp"], "(UDP)"),
        (("udp",), ["tcp", "udp"], "(TCP)"),
        (("tcp",), ["udp", "tcp"], "(UDP)"),
        ((), ["udp", "tcp"], "(UDP)"),
    ],
)
def test_a_transport_that_is_missing_is_named(bench: Bench, does: tuple[str, ...], wanted: list[str], lacking: str):
    bench.behaviours(ANSWERS)
    bench.kata(solution(*does, reads=False), listens=wanted)

    message = bench.pytest("katas/bell").message()

    assert "it is idle, but does not listen on 127.0.0.1:" in message
    assert lacking in message


@pytest.mark.parametrize("listens", [[], ["sctp"], ["udp", 5], "udp"])
def test_what_it_listens_on_is_checked(bench: Bench, listens: object):
    bench.kata(listens=listens)

    run = bench.pytest("katas/bell")

    assert run.status not in (0, 1)
    assert "`listens` must" in run.text


def test_an_answer_that_never_comes_is_known_at_once_and_told(bench: Bench):
    bench.behaviours(ANSWERS.replace('b"hello"', 'b"hush"'))
    bench.kata(solution("udp"), listens=["udp"])

    run = bench.pytest("katas/bell")

    assert run.verdicts == {"answers": "broken"}
    assert "visitor is owed an echo; the solution is idle, so it will not come" in run.message()
    assert "4 bytes" in run.text, "the datagram is in the story"


def test_lost_datagrams_decide_nothing(bench: Bench):
    bench.behaviours(behaving(answers=FLOOD))
    bench.kata(solution("udp"), listens=["udp"])

    run = bench.pytest("katas/bell")

    assert run.verdicts == {"answers": "limit"}
    assert "datagrams before the solution read them, so nothing was decided" in run.message()


def test_losses_of_one_behaviour_are_not_those_of_the_next(bench: Bench):
    lossy = FLOOD.replace("assert len(visitor.inbox) == 3000", "assert visitor.inbox")
    bench.behaviours(behaving(answers=lossy, fails="assert not visitor.closed and 0, 'owed is more'"))
    bench.kata(solution("udp"), listens=["udp"])

    assert bench.pytest("katas/bell").verdicts == {"answers": "holds", "fails": "broken"}


def test_a_solution_that_rests_with_a_full_queue_has_itself_to_blame(bench: Bench):
    bench.behaviours(behaving(answers=FLOOD))
    bench.kata(solution("udp", reads=False), listens=["udp"])

    assert bench.pytest("katas/bell").verdicts == {"answers": "broken"}
