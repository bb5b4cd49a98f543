"""The commands of a learner: list, start, test, hint."""

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from zipfile import ZipFile

import pytest

from harness import kata as katas
from harness import progress
from harness.collecting import declared

from .conftest import ROOT


@pytest.fixture
def started(kata, some_kata):
    """A kata that was started in ./katas."""
    assert kata("start", some_kata.name).status == 0
    return some_kata


def remember(folder, name, verdicts):
    """A run of a solution that was begun."""
    kata = katas.read(folder / "katas" / name / "kata.toml")
    (kata.folder / kata.run[-1]).write_text("begun")
    progress.save(folder / "katas" / name, {name: {"verdicts": verdicts}})


# start


def test_start_copies_the_whole_kata_and_says_what_comes_next(kata, folder, some_kata):
    ended = kata("start", some_kata.name)

    copied = {path.name for path in (folder / "katas" / some_kata.name).iterdir()}
    assert ended.status == 0
    assert copied == {path.name for path in some_kata.folder.iterdir()} - {"__pycache__"}
    assert ended.out.endswith(f"Then run: pytest katas/{some_kata.name}\n")
    assert some_kata.start in ended.out


def test_start_takes_a_folder_also_an_empty_one(kata, folder, some_kata):
    (folder / "mine").mkdir()

    ended = kata("start", some_kata.name, "mine")

    assert ended.out.endswith("Then run: pytest mine\n")
    assert katas.read(folder / "mine" / "kata.toml").name == some_kata.name


def test_start_never_overwrites(kata, folder, started):
    solution = folder / "katas" / started.name / started.run[-1]
    solution.write_text("mine")

    ended = kata("start", started.name)

    assert ended.status == 2
    assert "is there already" in ended.err
    assert solution.read_text() == "mine"


def test_start_into_a_file_is_refused(kata, folder, some_kata):
    (folder / "notes").write_text("mine")

    assert kata("start", some_kata.name, "notes").status == 2
    assert kata("start", some_kata.name, "notes/below").status == 2
    assert (folder / "notes").read_text() == "mine"


def test_start_names_the_packages_that_are_missing(kata, monkeypatch, some_kata):
    monkeypatch.setattr(katas, "shipped", lambda name: replace(some_kata, extra="dev"))
    found = metadata.distribution

    def lacks_one(name):
        if name == "mypy":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    assert "pip install" not in kata("start", some_kata.name, "complete").out
    monkeypatch.setattr(metadata, "distribution", lacks_one)
    lacking = kata("start", some_kata.name, "lacking").out

    assert "It needs mypy: pip install 'backend-katas[dev]'\n" in lacking


def test_start_works_from_an_installed_wheel_in_an_empty_folder(folder, some_kata, monkeypatch):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder / "dist"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    ZipFile(wheel).extractall(folder / "installed")
    (folder / "empty").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder / "installed"))

    def python(*words):
        return subprocess.run([sys.executable, *words], cwd=folder / "empty", capture_output=True, text=True)

    started = python("-m", "harness.commands", "start", some_kata.name)
    collected = python("-m", "pytest", f"katas/{some_kata.name}", "--collect-only", "-q")
    new = python("-m", "harness.commands", "new", "door")

    assert started.returncode == 0, started.stderr
    assert collected.returncode == 0, collected.stdout
    assert f"katas/{some_kata.name}/kata.toml::test_{declared(some_kata)[0].id}" in collected.stdout
    assert new.returncode == 2
    assert "clone" in new.stderr


# list


def test_list_shows_what_came_with_the_kit(kata):
    out = kata("list").out

    for shipped in katas.catalogue().values():
        assert f"{shipped.name} " in out
        assert shipped.title in out
        assert shipped.summary in out
        assert f"next: kata start {shipped.name}\n" in out


def test_list_shows_how_far_the_learner_is(kata, folder, started):
    first, second, *rest = declared(started)
    most = sum(each.points for each in (first, second, *rest))

    assert f"next: pytest katas/{started.name}\n" in kata("list").out
    remember(folder, started.name, {first.id: "holds", second.id: "broken"})
    some = kata("list").out
    remember(folder, started.name, {each.id: "holds" for each in (first, second, *rest)})

    assert f"1 of {len(rest) + 2} behaviours hold, {first.points} of {most} points" in some
    assert f"next: {second.id}. {second.sentence}\n" in some
    assert f"{most} of {most} points" in kata("list").out
    assert "next: done\n" in kata("list").out


def test_list_marks_the_stages(kata, folder, started):
    behaviours = declared(started)
    stages = sorted({each.stage for each in behaviours})
    first, *_, last = stages
    held = {each.id: "holds" for each in behaviours if each.stage != last}
    assert "stages" not in kata("list").out, "nothing was tried yet"

    remember(folder, started.name, {each.id: "holds" for each in behaviours if each.stage == first})
    begun = kata("list").out
    remember(folder, started.name, held | {each.id: "broken" for each in behaviours if each.stage == last})
    stuck = kata("list").out

    assert f"stages ✓{'·' * (len(stages) - 1)}, " in begun
    assert f"stages {'✓' * (len(stages) - 1)}✗, " in stuck


def test_list_refuses_two_katas_of_one_name(kata, folder, started):
    shutil.copytree(folder / "katas" / started.name, folder / "katas" / "again")

    ended = kata("list")

    assert ended.status == 2
    assert f"both named `{started.name}`" in ended.err


# test


def test_test_is_pytest_with_its_arguments_and_its_status(door):
    held = door.kata("test", "door", "--subject=reference", "-k", "greets", "-v")
    inside = door.kata("test", "door", "--collect-only", "-q", cwd=door.root / "katas" / "door")

    assert held.status == 0, held.out
    assert "katas/door/kata.toml::test_greets_by_name HOLDS" in held.out
    assert door.kata("test", "door").status == 1
    assert door.kata("test", "door", "-k", "no_such_behaviour").status == 5
    assert inside.status == 0, "in the kata's own folder it is found as well"


def test_test_without_a_folder_says_how_to_get_one(kata, some_kata):
    ended = kata("test", some_kata.name)

    assert ended.status == 2
    assert f"`kata start {some_kata.name}` makes one" in ended.err


# hint


@pytest.fixture
def hinted(started):
    return next(each for each in declared(started) if each.hints)


def test_hints_get_franker_and_the_last_one_stays(kata, folder, started, hinted):
    given = [kata("hint", started.name, hinted.id).out for _ in range(len(hinted.hints) + 2)]

    for number, sentence in enumerate(hinted.hints):
        assert f"hint {number + 1} of {len(hinted.hints)}: {sentence}\n" in given[number]
        assert "all the hints" not in given[number]
    for again in given[len(hinted.hints) :]:
        assert "all the hints" in again
        assert hinted.hints[-1] in again
    assert progress.verdicts(folder / "katas" / started.name, started.name) == {}


def test_the_first_broken_behaviour_is_meant_when_none_is_named(kata, folder, started, hinted):
    """First in the order of the file, not in that of the last run."""
    later = declared(started)[-1]
    remember(folder, started.name, {later.id: "broken", hinted.id: "not reached"})

    assert kata("hint", started.name).out.startswith(f"{hinted.id}: {hinted.sentence}\n")


def test_hints_taken_outlive_a_run(kata, folder, started, hinted):
    kata("hint", started.name, hinted.id)
    where = folder / "katas" / started.name
    table = progress.load(where)
    table[started.name]["verdicts"] = {hinted.id: "broken"}
    progress.save(where, table)

    assert f"hint 2 of {len(hinted.hints)}" in kata("hint", started.name, hinted.id).out


def test_without_a_hint_the_rule_is_named(kata, started):
    plain = next(each for each in declared(started) if not each.hints)

    ended = kata("hint", started.name, plain.id)

    assert ended.status == 0
    assert str(plain.source) in ended.out


@pytest.mark.parametrize("verdicts", [{}, {"x": "holds"}])
def test_without_a_broken_behaviour_one_has_to_be_named(kata, folder, started, verdicts):
    remember(folder, started.name, verdicts)

    ended = kata("hint", started.name)

    assert ended.status == 2
    assert f"pytest katas/{started.name}" in ended.err


def test_an_untouched_skeleton_is_pointed_at_its_beginning(kata, started):
    ended = kata("hint", started.name)

    assert ended.status == 2
    assert started.start in ended.err


def test_a_misspelt_behaviour_is_corrected(kata, started, hinted):
    ended = kata("hint", started.name, hinted.id[:-1])

    assert ended.status == 2
    assert f"did you mean `{hinted.id}`?" in ended.err
