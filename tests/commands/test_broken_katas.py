"""What an author can break in the files of a kata ends in one sentence, and pytest's status says so."""

INTERRUPTED = 2


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


def test_an_undeclared_test_among_the_behaviours(door):
    path = "harness/behaviours/door.py"
    door.write(path, (door.root / path).read_text() + "\n\ndef test_bare():\n    pass\n")

    ended = door.pytest("katas/door")

    assert ended.status == INTERRUPTED
    assert "is not declared with @behaviour" in ended.out
