"""`kata explain`: the reasons behind one behaviour."""

from __future__ import annotations

import pytest

from harness import kata as katas
from harness import progress, subjects
from harness.collecting import declared

FEWEST_INCIDENTS = 8
WITH_INCIDENTS = ("connection_pool", "idempotency", "jwt", "polling", "pubsub", "sse")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", WITH_INCIDENTS)
def test_katas_tell_of_incidents(name):
    told = [each for each in declared(katas.shipped(name)) if each.incident]

    assert len(told) >= FEWEST_INCIDENTS
    assert all(each.incident.endswith(".") and len(each.incident) < 400 for each in told)


def test_sentence_source_incident_and_mistakes_are_told(kata, some_kata):
    behaviour = next(each for each in declared(some_kata) if each.incident and each.hints)
    caught = [mutant for mutant in subjects.mutants(some_kata) if behaviour.id in mutant.caught_by]

    out = words(kata("explain", some_kata.name, behaviour.id).out)

    assert behaviour.sentence in out
    assert str(behaviour.source) in out
    assert behaviour.source.url in out
    assert words(behaviour.incident) in out
    assert caught
    assert all(words(mutant.because) in out for mutant in caught)
    assert "0 of 3 hints taken" in out
    assert "not tried yet" in out


def test_the_reference_is_shown_once_the_behaviour_holds(door):
    folder = door.root / "katas/door"
    before = door.kata("explain", "door", "greets_by_name").out
    progress.save(folder, {"door": {"verdicts": {"greets_by_name": "holds"}}})
    after = door.kata("explain", "door", "greets_by_name").out

    code = (door.root / "reference/door/solution.py").read_text()
    assert "how it is done there is shown once this holds" in before
    assert "def data_received" not in before
    assert "reference/door/solution.py, " in after
    shown = after.partition("reference/door/solution.py, ")[2]
    assert [line for line in shown.splitlines()[1:] if line.strip()], after
    assert all(line.strip() in code for line in shown.splitlines()[1:])


def test_without_a_clone_mistakes_are_said_to_come_with_one(kata, some_kata, monkeypatch, tmp_path):
    monkeypatch.setattr(katas, "REFERENCES", tmp_path)
    behaviour = declared(some_kata)[0]

    ended = kata("explain", some_kata.name, behaviour.id)

    assert ended.status == 0
    assert "come with a clone of the kit" in words(ended.out)


def test_unknown_names_are_corrected(kata, some_kata):
    behaviour = declared(some_kata)[0]

    wrong = kata("explain", some_kata.name, behaviour.id + "x")
    unknown = kata("explain", some_kata.name + "x", behaviour.id)

    assert (wrong.status, unknown.status) == (2, 2)
    assert f"did you mean `{behaviour.id}`?" in wrong.err
    assert f"did you mean `{some_kata.name}`?" in unknown.err
