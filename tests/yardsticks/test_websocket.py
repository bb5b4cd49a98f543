"""The page beside this file is true: every case of the suite has its behaviours, and they have caught such mistakes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import kata as katas
from harness import subjects
from harness.collecting import declared

PAGE = Path(__file__).parent / "websocket.md"
RANGE = re.compile(r"(?P<group>\d+(?:\.\d+)?)\.(?P<first>\d+)(?:-(?P=group)\.(?P<last>\d+))?")
# How many cases each group of the suite has; 6.5 to 6.23 are its table of UTF-8 sequences.
CASES = {"1.1": 8, "1.2": 8, "2": 11, "3": 7, "4.1": 5, "4.2": 5, "5": 20, "6.1": 3, "6.2": 4, "6.3": 2, "6.4": 4}
SEQUENCES = [5, 11, 4, 2, 4, 3, 5, 8, 5, 10, 1, 3, 5, 5, 5, 7, 8, 34, 7]
CASES |= {f"6.{number}": count for number, count in enumerate(SEQUENCES, 5)}
CASES |= {"7.1": 6, "7.3": 6, "7.5": 1, "7.7": 13, "7.9": 9, "7.13": 2, "10.1": 1}


@dataclass(frozen=True)
class Row:
    cases: str
    behaviours: list[str]
    mistakes: list[str]


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return [Row(cases, behaviours.split(", "), mistakes.split(", ")) for cases, _, behaviours, mistakes in cells]


ROWS = rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.cases for row in ROWS])


@pytest.fixture(scope="module")
def kata() -> katas.Kata:
    return katas.shipped("websocket")


def test_every_case_stands_in_one_row():
    listed: Counter[str] = Counter()
    for row in ROWS:
        found = RANGE.fullmatch(row.cases)
        assert found, f"{row.cases} is no range of cases"
        for number in range(int(found["first"]), int(found["last"] or found["first"]) + 1):
            listed[f"{found['group']}.{number}"] += 1
    assert listed == Counter(f"{group}.{number}" for group, count in CASES.items() for number in range(1, count + 1))


@each_row
def test_its_behaviours_exist(kata, row):
    known = {behaviour.id for behaviour in declared(kata)}
    assert set(row.behaviours) <= known, f"unknown: {sorted(set(row.behaviours) - known)}"


@each_row
def test_its_mistakes_are_planted_and_caught_by_these_behaviours(kata, row):
    caught_by = {mutant.name: set(mutant.caught_by) for mutant in subjects.mutants(kata)}
    assert set(row.mistakes) <= set(caught_by), f"not planted: {sorted(set(row.mistakes) - set(caught_by))}"
    elsewhere = [name for name in row.mistakes if not caught_by[name] & set(row.behaviours)]
    assert not elsewhere, f"caught by none of the behaviours of this row: {elsewhere}"
