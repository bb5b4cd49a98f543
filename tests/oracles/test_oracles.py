"""The behaviours of a kata hold for real servers too, but for the deviations that are listed with their reason.

Whoever adds an oracle adds a file: KATA, the program that it NEEDS, the PACKAGE that brings it, and DEVIATIONS.
"""

from __future__ import annotations

import os

import pytest

from harness import kata as katas
from harness.proof import programs
from harness.proof.programs import Oracle
from harness.proof.runs import Bench, Run
from harness.summary import merge_cases
from harness.verdicts import Verdict

ORACLES = programs.oracles()


def require(oracle: Oracle) -> None:
    if not oracle.missing:
        return
    why = f"{oracle.path.name} needs {oracle.missing}; on Debian: apt install {oracle.package}"
    if os.environ.get("REQUIRE_ORACLES") == "1":
        pytest.fail(why)
    pytest.skip(why)


def test_there_are_oracles():
    assert ORACLES, "no file beside this one says KATA = ..."


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.path.stem)
def test_an_oracle_says_what_it_needs(oracle):
    assert (oracle.kata in katas.catalogue(), bool(oracle.needs), bool(oracle.package)) == (True, True, True)
    assert all(reason.strip() for reason in oracle.deviations.values()), "a deviation has a reason"
    assert set(oracle.unsteady) <= set(oracle.deviations)


@pytest.mark.oracle
@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.path.stem)
def test_behaviours_hold_but_for_the_listed_deviations(oracle):
    require(oracle)
    with Bench(katas.shipped(oracle.kata)) as bench:
        (outcome,) = bench.all([Run("oracle", (f"--subject={oracle.path}", "--unblocked"))], 1, lambda _: None)

    assert not outcome.problem
    unheld = [result for result in merge_cases(list(outcome.results)) if result.verdict is not Verdict.HOLDS]
    told = "\n".join(f"{result.behaviour}: {result.verdict}, {result.message}" for result in unheld)
    seen = {result.behaviour for result in unheld} | set(oracle.unsteady)
    assert seen == set(oracle.deviations), f"seed {outcome.seed}\n{told}"
