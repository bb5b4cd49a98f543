"""A small class that was made up from a seed gets the verdicts that it has to get."""

import json

from harness import kata as katas

from . import pupils
from .pupils import MAKERS

SEED, NUMBER = 20, 12  # with all kinds among them


def test_everybody_gets_what_they_must(classroom, monkeypatch):
    monkeypatch.setattr(katas, "REFERENCES", classroom.kit.root / "reference")
    kata = katas.read(classroom.kit.root / "katas" / "door" / "kata.toml")
    classroom.submissions.rmdir()
    made = pupils.make(kata, classroom.submissions, NUMBER, SEED)
    assert len({pupil.kind.split()[0] for pupil in made}) >= len(MAKERS), "a seed with all kinds is wanted"

    ended = classroom.grade()

    problems = [pupils.wrong(pupil, classroom.result(pupil.name)) for pupil in made]
    assert not any(problems), "\n".join(filter(None, problems))
    assert ended.status == 1, "some were refused"


def test_a_class_is_the_same_for_the_same_seed(classroom, monkeypatch):
    monkeypatch.setattr(katas, "REFERENCES", classroom.kit.root / "reference")
    kata = katas.read(classroom.kit.root / "katas" / "door" / "kata.toml")

    first, second = (pupils.make(kata, classroom.folder / name, 30, 1) for name in ("first", "second"))

    assert first == second
    names = [sorted(path.name for path in (classroom.folder / name).iterdir()) for name in ("first", "second")]
    assert names[0] == names[1]


def test_a_wrong_verdict_is_noticed():
    graded = {"status": "graded", "reason": "", "score": 1, "behaviours": [{"id": "a", "verdict": "holds"}]}
    broken = json.loads(json.dumps(graded).replace("holds", "broken"))

    assert "lacks a: broken" in pupils.wrong(pupils.Pupil("x", "correct", all_hold=True), broken)
    assert "earned 1 points, by a" in pupils.wrong(pupils.Pupil("x", "null", none_hold=True), graded)
    assert "kept a" in pupils.wrong(pupils.Pupil("x", "mistake", broken=("a",)), graded)
    assert "was graded" in pupils.wrong(pupils.Pupil("x", "bomb", status=pupils.Status.REFUSED), graded)
    assert not pupils.wrong(pupils.Pupil("x", "correct", all_hold=True), graded)
