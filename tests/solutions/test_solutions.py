"""Correct solutions of other designs pass: a behaviour must not ask for more than the brief does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness import kata as katas
from harness.proof import programs
from harness.proof.runs import Bench, Run

HERE = Path(__file__).parent
SOLUTIONS = [(name, path) for name, kata in katas.catalogue().items() for path in programs.solutions(kata)]
NEEDS = {path: command for command, path in programs.runtimes()}


def test_every_kata_has_another_solution():
    assert {name for name, _ in SOLUTIONS} == set(katas.catalogue())


@pytest.mark.parametrize(("name", "path"), SOLUTIONS, ids=[f"{name}-{path.name}" for name, path in SOLUTIONS])
def test_all_behaviours_hold(name, path):
    if path in NEEDS and not shutil.which(NEEDS[path]):
        pytest.skip(f"{path.relative_to(HERE)} is run by {NEEDS[path]}, which is not installed")
    with Bench(katas.shipped(name)) as bench:
        (outcome,) = bench.all([Run("solution", (f"--subject={path}",))], 1, lambda _: None)

    assert not outcome.problem
    told = [f"{result.behaviour}: {result.verdict}, {result.message}" for result in outcome.unheld]
    assert not told, "\n".join([f"seed {outcome.seed}", *told])
