"""`kata new` makes a kata that is small, and whole."""

import pytest

from harness.proof import programs


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_a_new_kata_works_before_anything_is_filled_in(clone, protocol):
    made = clone.kata("new", "back_door", "--speaks", protocol)
    reference = clone.pytest("katas/back_door", "--subject=reference")
    skeleton = clone.pytest("katas/back_door")
    proof = clone.kata("prove", "back_door", "--only", "mutants,nulls")

    assert made.status == 0, made.err
    assert reference.status == 0, reference.out
    assert "2 passed" in reference.out
    assert skeleton.status == 1
    assert "holds the skeleton as it came. Open solution.py" in skeleton.out, "the digest is signed"
    assert proof.status == 0, proof.out


def test_nothing_of_the_template_is_left(door):
    for path in [*door.root.glob("katas/door/*"), *door.root.glob("reference/door/*")]:
        text = path.read_text()
        assert "kata_name" not in text
        assert "Kata name" not in text
        assert "skeleton_digest" not in text


@pytest.mark.parametrize("place", ["katas/door/notes", "reference/door/solution.py", "harness/behaviours/door.py"])
def test_what_exists_is_never_touched(clone, place):
    clone.write(place, "mine")

    ended = clone.kata("new", "door")

    assert ended.status == 2
    assert "is there already" in ended.err
    assert [path for path in clone.root.rglob("*door*") if path.is_file()] in ([], [clone.root / place])
    assert (clone.root / place).read_text() == "mine"


@pytest.mark.parametrize("name", ["Door", "back-door", "2doors", "door_", "class", "../door", ""])
def test_a_name_that_no_module_can_have(clone, name):
    ended = clone.kata("new", "--", name)

    assert ended.status == 2
    assert "can't be a module's name" in ended.err
    assert not list((clone.root / "katas").iterdir())


def test_every_kata_has_null_programs_of_its_protocol(some_kata):
    folders = {path.parent.name for path in programs.null_programs(some_kata)}

    assert folders == {"any", some_kata.speaks}
