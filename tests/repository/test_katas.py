"""Each kata is complete, from its brief to a planted mistake for each of its behaviours."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kata as katas
from harness import subjects
from harness.kata import Kata
from harness.subjects import Mutant
from harness.verdicts import Unusable

from .sources import KATAS, ROOT, Source, require_none

FEWEST_MUTANTS = 12


@pytest.fixture(params=KATAS)
def kata(request) -> Kata:
    try:
        return katas.read(ROOT / "katas" / request.param / "kata.toml")
    except Unusable as problem:
        pytest.fail(str(problem))


@pytest.fixture
def behaviours(kata) -> set[str]:
    """The ids of the kata's behaviours."""
    path = f"harness/behaviours/{kata.name}.py"
    assert (ROOT / path).is_file(), f"{path} is missing; the behaviours of {kata.name} belong there"
    functions = Source(path, (ROOT / path).read_text(encoding="utf-8")).functions()
    names = [function.name for function in functions if function.name.startswith("test_")]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"{path} defines {', '.join(twice)} twice; only the last one would be tried"
    return {name.removeprefix("test_") for name in names}


@pytest.fixture
def mutants(kata) -> list[Mutant]:
    """The planted mistakes; reading them checks that each anchor stands exactly once."""
    try:
        return subjects.mutants(kata)
    except Unusable as problem:
        pytest.fail(str(problem))


def test_there_are_katas():
    assert KATAS, "no folder below katas holds a kata.toml"


def test_the_table_in_the_readme_has_every_kata():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    require_none(
        f"README.md has no row for {name}" for name in KATAS if f"\n| [{name}](katas/{name}/README.md) |" not in readme
    )


def test_every_folder_below_katas_is_a_kata():
    folders = {path.name for path in (ROOT / "katas").iterdir() if path.is_dir()} - {"__pycache__"}
    require_none(f"katas/{name} has no kata.toml" for name in sorted(folders - set(KATAS)))


def test_the_folder_bears_the_name_of_its_kata(kata):
    assert kata.folder.name == kata.name, f"{kata.path} is named {kata.name}, unlike its folder"


def test_brief_skeleton_and_reference_are_there(kata):
    wanted = [
        Path("katas", kata.name, "README.md"),
        Path("katas", kata.name, kata.run[-1]),
        Path("reference", kata.name, "solution.py"),
    ]
    require_none(f"{path} is missing" for path in wanted if not (ROOT / path).is_file())


def test_the_digest_of_the_skeleton_is_current(kata):
    digest = katas.digest(kata.folder)
    assert kata.skeleton in ("", digest), (
        f'katas/{kata.name} has changed; write skeleton = "{digest}" into its kata.toml, '
        "or restore the skeleton if this was an attempt to solve the kata"
    )


def test_there_are_enough_mutants(kata, mutants):
    assert len(mutants) >= FEWEST_MUTANTS, (
        f"{kata.name} plants {len(mutants)} mistakes, at least {FEWEST_MUTANTS} are wanted"
    )


def test_mutants_are_caught_by_behaviours_that_exist(kata, mutants, behaviours):
    require_none(
        f"{kata.name}: the mutant [{mutant.name}] is caught by {name}, which is no behaviour"
        for mutant in mutants
        for name in mutant.caught_by or ["nothing"]
        if name not in behaviours
    )


def test_every_behaviour_catches_a_mutant(kata, mutants, behaviours):
    proven = {name for mutant in mutants for name in mutant.caught_by}
    require_none(
        f"{kata.name}: {name} catches no mutant; plant a mistake that it is meant to catch"
        for name in sorted(behaviours - proven)
    )
