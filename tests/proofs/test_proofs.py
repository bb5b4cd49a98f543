"""Each kata proves itself: its reference holds, each behaviour catches a mistake, and doing nothing earns nothing.

Of the mistakes one for each behaviour is tried here. All of them, each with all behaviours that are named for it, are
`make proofs`, and `kata prove` for one kata.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import kata as katas
from harness import subjects

KATAS = sorted(katas.catalogue())


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)


def one_for_each_behaviour(name: str) -> list[str]:
    """The test ids of a mistake for each behaviour: the first that is named for it."""
    kata = katas.shipped(name)
    chosen: dict[str, str] = {}
    for mutant in subjects.mutants(kata):
        for behaviour in mutant.caught_by:
            chosen.setdefault(behaviour, mutant.name)
    return [f"{kata.path}::{mutant}::test_{behaviour}" for behaviour, mutant in chosen.items()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KATAS)
def test_the_reference_holds(name):
    run = ran("pytest", str(katas.shipped(name).path), "--subject=reference", "-q", "-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KATAS)
def test_the_reference_holds_in_isolation(name):
    """At the best level of this machine; what the kata's peers hand to a program may be read there."""
    words = ("--subject=reference", "--isolation=best", "-q", "-p", "no:cacheprovider")
    run = ran("pytest", str(katas.shipped(name).path), *words)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KATAS)
def test_each_behaviour_catches_a_mistake(name):
    wanted = one_for_each_behaviour(name)
    run = ran("pytest", *wanted, "--subject=mutants", "-q", "--story=none", "-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(wanted)} passed" in run.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KATAS)
def test_doing_nothing_earns_nothing(name):
    proof = ran("harness.commands", "prove", name, "--only", "nulls")
    assert proof.returncode == 0, proof.stdout + proof.stderr
