"""A few of the attacks, at the highest level that works here; `make attacks` runs all of them at every level."""

from __future__ import annotations

import pytest

from harness.solution.isolation import probe
from harness.verdicts import Unusable

from .__main__ import TABLE
from .catalogue import ATTACKS, Attack, AttackOnGrading

QUICK = {"a01_exits_at_import", "a17_reads_the_hidden_tests", "a24_fork_bomb", "a29_leaves_a_daemon"}


@pytest.fixture(scope="module")
def best() -> int:
    try:
        return probe.best()
    except Unusable as problem:
        pytest.skip(str(problem))


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.submission in QUICK], ids=lambda it: it.what)
def test_it_is_held(attack: Attack | AttackOnGrading, best: int):
    if best not in attack.claims:
        pytest.skip(f"level {best} does not claim to hold it")
    assert attack.run(best) == ""


@pytest.mark.parametrize("number", [1, 3, 4, 7, 10, 17])
def test_what_the_teachers_are_told_stands_in_the_table(number: int):
    """docs/teaching.md compares other graders with these rows: held at level 1 and above."""
    rows = [line.split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines()]
    held = [row[3:] for row in rows if row[0] == f"| {number}"]
    assert held, f"docs/attacks.md has no row {number}; run `make attacks`"
    assert all("✗" not in cell for cells in held for cell in cells)


def test_each_known_attack_has_a_row():
    assert {attack.number for attack in ATTACKS} == set(range(1, 46))


def test_a_level_is_claimed_for_each_attack():
    assert [attack.what for attack in ATTACKS if not attack.claims] == []
