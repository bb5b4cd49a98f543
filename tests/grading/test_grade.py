"""`kata grade` and its companions as a teacher uses them, on a small kata of the tests' own."""

import json
import shutil
import signal

import jsonschema
import pytest

from harness.grading import model

from .archives import PROGRAM, zipped
from .classroom import Classroom

PATIENCE = 300.0  # seconds; a test that gets here has failed
WRONG = ('"WELCOME "', '"HELLO "')


@pytest.fixture(scope="module")
def graded(kit, tmp_path_factory):
    """A class of four: right, wrong, no program, and an archive; nobody changes it."""
    classroom = Classroom(kit, tmp_path_factory.mktemp("graded") / "classroom")
    classroom.hand_in("alice")
    classroom.hand_in("bob", classroom.program.replace(*WRONG))
    zipped(("main.py", PROGRAM))(classroom.submissions / "carol.zip")
    zipped(("door/solution.py", classroom.program.encode()))(classroom.submissions / "dan.zip")
    classroom.ended = classroom.grade("--seed", "5", "--reveal", "none")
    return classroom


@pytest.fixture
def begun(graded, classroom):
    """A copy of that class, to be changed."""
    shutil.copytree(graded.folder, classroom.folder, dirs_exist_ok=True)
    return classroom


def test_each_gets_what_they_deserve(graded):
    scores = {name: (graded.result(name)["status"], graded.result(name)["score"]) for name in ("alice", "bob", "dan")}

    assert scores == {"alice": ("graded", 3), "bob": ("graded", 0), "dan": ("graded", 3)}
    assert graded.result("carol")["reason"] == "it has no solution.py (it holds `main.py`)"
    assert graded.verdicts("bob") == {"greets_by_name": "broken", "lines_in_one_segment": "blocked"}
    assert graded.ended.status == 1, "somebody could not be graded"
    assert "door: 3 graded, 1 refused\n  carol: refused: it has no solution.py" in graded.ended.out
    assert "[4/4, 0 s left]" in graded.ended.out


def test_results_are_valid_signed_and_complete(graded):
    schema = json.loads(model.SCHEMA_FILE.read_text(encoding="utf-8"))
    for name in ("alice", "bob", "carol", "dan"):
        jsonschema.validate(graded.result(name), schema)
    bob = graded.result("bob")

    assert graded.kit.kata("verify", str(graded.out)).status == 0
    assert (bob["seed"], bob["isolation"] in range(4)) == (5, True)
    assert bob["behaviours"][0]["story"], "the teacher's copy tells what was sent"
    assert bob["submission"]["digest"] != graded.result("alice")["submission"]["digest"]
    assert graded.result("dan")["submission"]["digest"] == graded.result("alice")["submission"]["digest"]


def test_pages_and_gradebook_are_written(graded):
    gradebook = (graded.out / "gradebook.csv").read_text().splitlines()

    assert [line.split(",")[0] for line in gradebook] == ["id", "alice", "bob", "carol", "dan"]
    assert "Who is stuck where" in (graded.out / "index.html").read_text()
    assert "a visitor is welcomed by name" in (graded.out / "students" / "bob.html").read_text()


def test_a_result_is_reproduced(graded):
    bob = str(graded.out / "results" / "bob.json")

    same = graded.kit.kata("regrade", bob, str(graded.submissions / "bob"))
    other = graded.kit.kata("regrade", bob, str(graded.submissions / "alice"))

    assert (same.status, same.out) == (0, "the same: 0 of 2 behaviours hold, 0 of 3 points\n")
    assert other.status == 1
    assert "the submission is another one\n" in other.out
    assert "greets_by_name: broken then, holds now\n" in other.out


def test_reports_come_from_the_results(graded, tmp_path):
    whole = graded.kit.kata("report", str(graded.out), "--format", "junit")
    each = graded.kit.kata("report", str(graded.out), "--format", "classroom50", "--out", str(tmp_path / "reports"))
    one = graded.kit.kata("report", str(graded.out / "results" / "bob.json"), "--format", "gradescope")
    nowhere = graded.kit.kata("report", str(graded.out), "--format", "exercism")

    assert whole.status == 0
    assert whole.out.count("<testsuite ") == 4
    assert each.status == 0
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [
        f"{name}.json" for name in ("alice", "bob", "carol", "dan")
    ]
    assert json.loads(one.out)["score"] == 0
    assert (nowhere.status, nowhere.err.count("\n")) == (2, 1)


def test_results_are_never_written_over_by_accident(graded):
    again = graded.grade()

    assert again.status == 2
    assert again.err == f"kata: {graded.out} holds results already; go on with --resume, or name another folder\n"


def test_going_on_grades_what_is_missing_or_has_changed(begun):
    before = {name: begun.result(name) for name in ("alice", "bob", "dan")}
    (begun.out / "results" / "dan.json").unlink()
    (begun.submissions / "bob" / "solution.py").write_text(begun.program)
    begun.hand_in("eve")

    ended = begun.grade("--resume")

    assert begun.result("alice") == before["alice"]
    assert "alice: 3 of 3 points (as before)" in ended.out
    assert begun.result("bob")["score"] == begun.result("dan")["score"] == begun.result("eve")["score"] == 3
    assert {begun.result(name)["seed"] for name in ("bob", "dan", "eve")} == {5}, "as it began, so it goes on"


def test_going_on_does_not_believe_a_forged_result(begun):
    bob = begun.out / "results" / "bob.json"
    bob.write_text(bob.read_text().replace('"score": 0', '"score": 3'))

    ended = begun.grade("--resume")

    assert (begun.result("bob")["status"], begun.result("bob")["score"]) == ("tampered", None)
    assert "bob: tampered: a file stood at bob.json before it was written" in ended.out
    assert begun.kit.kata("verify", str(begun.out)).status == 0


def test_an_interrupt_loses_nothing_and_leaves_nothing(classroom):
    """The first is graded, the second never ends its work; then comes Ctrl-C."""
    classroom.hand_in("alice")
    classroom.hand_in("bob", "while True: pass")
    process = classroom.start("-j", "1")
    assert "alice: 3 of 3 points" in process.stdout.readline()

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130, out + err
    assert err == "kata: interrupted; 1 of 2 are graded and kept, and --resume grades the others\n"
    assert classroom.result("alice")["score"] == 3
    assert not (classroom.out / "results" / "bob.json").exists()

    (classroom.submissions / "bob" / "solution.py").write_text(classroom.program)
    assert classroom.grade("--resume").status == 0
    assert classroom.result("bob")["score"] == 3


POISON = """import os
    if b"poison" in (visitor.solution.subject.folder / "solution.py").read_bytes():
        os.kill(os.getpid(), 9)
    visitor.say(f"HELLO {visitor.name}\\n")"""


def test_a_submission_that_workers_die_of_is_given_up_and_costs_nobody_else(classroom):
    """Here the kit dies whenever it meets a certain word; that is no zero, and no loss for others."""
    with classroom.changed('visitor.say(f"HELLO {visitor.name}\\n")', POISON):
        classroom.hand_in_with("eve", "# poison")
        classroom.hand_in("zoe")
        ended = classroom.grade()

    eve = classroom.result("eve")
    assert (eve["status"], eve["score"]) == ("not gradable", None)
    assert eve["reason"].startswith("2 workers died of it")
    assert classroom.result("zoe")["score"] == 3
    assert ended.status == 1


def test_races_are_tried_as_often_as_is_asked(classroom):
    with classroom.changed("stage=2", "stage=3"):
        classroom.hand_in("alice")
        classroom.grade("--repeat", "3")

    assert {each["id"]: each["runs"] for each in classroom.result("alice")["behaviours"]} == {
        "greets_by_name": 1,
        "lines_in_one_segment": 3,
    }
    assert classroom.result("alice")["repeat"] == 3


def test_a_fault_of_the_kit_is_no_zero(classroom):
    with classroom.changed('visitor.say(f"HELLO {visitor.name}\\n")', "raise RuntimeError('of the kit')"):
        classroom.hand_in("alice")
        ended = classroom.grade()

    alice = classroom.result("alice")
    assert (alice["status"], alice["score"]) == ("not gradable", None)
    assert alice["reason"].startswith("the kit failed at greets_by_name")
    assert ended.status == 1


def test_whoever_handed_in_nothing_is_told_of(classroom):
    roster = classroom.folder / "roster.csv"
    roster.write_text("id,name\nalice,Alice Liddell\nbob,Bob\n")
    classroom.hand_in("alice")

    ended = classroom.grade("--roster", roster)

    assert ended.status == 0, ended.out + ended.err
    assert "note: `bob` handed in nothing\n" in ended.out
    assert (classroom.result("bob")["status"], classroom.result("bob")["score"]) == ("missing", 0)
    assert "Alice Liddell" in (classroom.out / "gradebook.csv").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grade", "doar", ".", "--out", "out"], "did you mean `door`?"),
        (["grade", "door", "missing", "--out", "out"], "does not exist"),
        (["grade", "door", ".", "--out", "out", "--roster", "missing.csv"], "can't be read"),
        (["grade", "door", ".", "--out", "out", "-j", "0"], "a number from 1 on is wanted"),
        (["grade", "door", ".", "--out", "out", "--isolation", "0", "--require-isolation", "1"], "isolation"),
        (["verify", "missing.json"], "can't be read"),
        (["verify", "."], "holds no results"),
        (["regrade", "missing.json", "."], "can't be read"),
        (["report", "missing.json", "--format", "csv"], "can't be read"),
        (["report", ".", "--format", "xls"], "invalid choice"),
    ],
)
def test_bad_usage_is_one_sentence(kit, tmp_path, words, said):
    (tmp_path / "solution.py").write_text("")

    ended = kit.kata(*words, cwd=tmp_path)

    assert ended.status == 2
    assert said in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
