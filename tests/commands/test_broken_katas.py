"""What a learner or author can break in a kata's files ends in one sentence, and pytest's status says so."""

import pytest

INTERRUPTED, USAGE = 2, 4


@pytest.mark.parametrize(
    ("find", "replace", "said"),
    [
        ('name = "door"', 'name = "door', "is not valid TOML"),
        ('summary = "', '# "', "lacks `summary`"),
        ('hours = "2-3"', 'hours = "2-3"\nour = 1', "unknown field `our`, did you mean `hours`?"),
        ('hours = "2-3"', "hours = 3", "`hours` must be a str, not 3"),
        ('name = "door"', 'name = "dor"', "unknown kata, `dor`, did you mean `door`?"),
        ('run = ["python", "solution.py"]', 'run = ["python", "main.py"]', "has no main.py"),
        ('run = ["python", "solution.py"]', "run = []", "`run` must be a list of words"),
    ],
)
def test_a_broken_kata_toml_is_one_sentence(door, find, replace, said):
    door.edit("katas/door/kata.toml", find, replace)

    ended = door.pytest("katas/door")

    assert ended.status == INTERRUPTED, ended.out
    assert said in ended.out
    assert "Traceback" not in ended.out + ended.err


def test_a_folder_without_its_solution(door):
    (door.root / "katas/door/solution.py").unlink()

    ended = door.pytest("katas/door")

    assert ended.status == INTERRUPTED
    assert "has no solution.py" in ended.out


def test_two_katas_of_one_name(door):
    for file in ("kata.toml", "solution.py"):
        door.write(f"katas/again/{file}", (door.root / "katas/door" / file).read_text())

    ended = door.pytest("katas")

    assert ended.status == INTERRUPTED
    assert "both named `door`" in ended.out


def test_a_mutant_whose_anchor_is_gone(door):
    door.edit("reference/door/solution.py", 'while b"\\n" in self.buffer:', 'while self.buffer.count(b"\\n"):')

    ended = door.pytest("katas/door", "--subject=mutants")
    proof = door.kata("prove", "door")

    assert ended.status == INTERRUPTED
    assert "the anchor of [one_line_per_read] stands 0 times" in ended.out
    assert proof.status == 2
    assert "the anchor of [one_line_per_read] stands 0 times" in proof.err
    assert proof.err.count("\n") == 1


def test_a_mutant_that_names_no_behaviour(door):
    door.edit("reference/door/mutants.toml", 'caught_by = ["lines_in_one_segment"]', 'caught_by = ["lines"]')

    ended = door.pytest("katas/door", "--subject=mutants")

    assert ended.status == INTERRUPTED
    assert "is caught by `lines`, which is no behaviour" in ended.out


def test_a_subject_that_is_not_there(door):
    ended = door.pytest("katas/door", "--subject=nowhere")

    assert ended.status == USAGE
    assert "--subject=nowhere does not exist" in ended.err


def test_a_misspelt_mutant(door):
    ended = door.pytest("katas/door", "--subject=mutants:one_line_per_rea")

    assert ended.status == INTERRUPTED
    assert "did you mean `one_line_per_read`?" in ended.out


def test_an_undeclared_test_among_the_behaviours(door):
    path = "harness/behaviours/door.py"
    door.write(path, (door.root / path).read_text() + "\n\ndef test_bare():\n    pass\n")

    ended = door.pytest("katas/door")

    assert ended.status == INTERRUPTED
    assert "is not declared with @behaviour" in ended.out
