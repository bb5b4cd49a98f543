"""A run from both ends tells what a run from one end tells."""

from __future__ import annotations

import os
import sys

import pytest

from .runs import BEHAVIOURS, BELL, Bench

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="a twin needs Linux and a second core"
)

HEAD = """
import os, signal
from harness import waiting
from harness.behaviour import behaviour
from harness.behaviours.ringing import RULES, Ringer, visitor

def note():
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{os.getpid()}\\n")

def noted():
    with open(os.environ["NOTES"]) as notes:
        return set(notes.read().split())

def meet(solution):
    note()
    while len(noted()) < 2:
        solution.turn(0.005)
"""
BEHAVIOUR = '''

@behaviour(stage=1, source=RULES{more})
def test_{name}(solution, visitor):
    """{name} is promised."""
    {body}
'''
NOTE, MEET = "note()", "meet(solution)"  # the latter waits until the other end has noted something too


def behaving(*bodies: str, **more: str) -> str:
    """Behaviours with these bodies: b0, b1, ...; `more` is said beside the source of those that it names."""
    named = [(f"b{number}", body) for number, body in enumerate(bodies)]
    return HEAD + "".join(BEHAVIOUR.format(name=name, body=body, more=more.get(name, "")) for name, body in named)


@pytest.fixture
def notes(bench: Bench):
    bench.behaviours(BEHAVIOURS, "ringing")
    bench.kata()
    return bench.temporary / "notes"


def test_two_processes_share_a_run_and_the_order_is_kept(bench: Bench, notes):
    bench.behaviours(behaving(MEET, *[NOTE] * 6, MEET))

    run = bench.pytest("katas/bell", NOTES=str(notes))

    assert run.status == 0
    assert [result["behaviour"] for result in run.results] == [f"b{number}" for number in range(8)]
    processes = notes.read_text(encoding="utf-8").split()
    assert len(processes) == 8
    assert len(set(processes)) == 2
    assert bench.nothing_is_left()


def test_one_process_is_enough_for_somebody_at_a_terminal(bench: Bench, notes):
    bench.behaviours(behaving(*[NOTE] * 4))

    run = bench.pytest("katas/bell", "-s", NOTES=str(notes))

    assert run.status == 0
    assert len(set(notes.read_text(encoding="utf-8").split())) == 1


def test_what_breaks_at_the_other_end_has_its_story(bench: Bench, notes):
    bench.behaviours(behaving(MEET, NOTE, "visitor.ring('a'); meet(solution); assert 0, 'owed is more'"))

    run = bench.pytest("katas/bell", NOTES=str(notes))

    assert run.status == 1
    assert run.verdicts == {"b0": "holds", "b1": "holds", "b2": "broken"}
    assert run.one("b2")["story"]
    assert "ring a" in run.text


def test_what_needs_a_broken_one_is_blocked_although_the_other_end_tried_it(bench: Bench, notes):
    last = {"b3": ", needs=['b0']"}
    bench.behaviours(behaving("meet(solution); assert 0, 'no'", NOTE, NOTE, MEET, **last))

    run = bench.pytest("katas/bell", NOTES=str(notes))

    assert run.verdicts == {"b0": "broken", "b1": "holds", "b2": "holds", "b3": "blocked"}


def test_what_a_killed_twin_has_not_told_is_tried_again(bench: Bench, notes):
    first_time = "os.path.exists(os.environ['NOTES']) or (" + NOTE + ", os.kill(os.getpid(), signal.SIGKILL))"
    bench.behaviours(behaving("while not os.path.exists(os.environ['NOTES']): solution.turn(0.005)", first_time))

    run = bench.pytest("katas/bell", NOTES=str(notes))

    assert notes.exists()
    assert run.verdicts == {"b0": "holds", "b1": "holds"}
    assert bench.nothing_is_left()


def test_a_fault_of_the_twin_is_told(bench: Bench, notes):
    fault = (
        "os.path.exists(os.environ['NOTES']) or (note(), exec('raise KeyboardInterrupt'))"  # ends more than one item
    )
    bench.behaviours(behaving("while not os.path.exists(os.environ['NOTES']): solution.turn(0.005)", fault))

    run = bench.pytest("katas/bell", "-W", "default", NOTES=str(notes))

    assert run.status == 0
    assert run.verdicts == {"b0": "holds", "b1": "holds"}
    assert "the twin failed" in run.text
    assert "KeyboardInterrupt" in run.text


def test_a_run_that_stops_early_stops_both_ends(bench: Bench, notes):
    bench.kata(BELL)
    bench.behaviours(behaving("assert 0, 'no'", *[NOTE] * 6))

    run = bench.pytest("katas/bell", "-x", NOTES=str(notes))

    assert run.status == 1
    assert run.verdicts == {"b0": "broken"}
    assert bench.nothing_is_left()
