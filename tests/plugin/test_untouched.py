"""A skeleton as it came is told in one sentence where to start; so is an installed kit's."""

from __future__ import annotations

from harness import kata as katas

from .runs import BELL, Bench

SKELETON = BELL.replace('if verb == "ring"', "if False")


def test_an_untouched_skeleton_is_one_sentence(bench: Bench):
    path = bench.kata(SKELETON)
    digest = katas.digest(path)
    bench.kata(SKELETON, skeleton=digest, start="Open solution.py, fill in answer().")

    run = bench.pytest("katas/bell", forgetful=False)

    assert run.status == 1
    assert (run.verdicts.pop("answers"), set(run.verdicts.values())) == ("broken", {"blocked"})
    sentence = "katas/bell holds the skeleton as it came. Open solution.py, fill in answer(). Then: pytest katas/bell"
    assert run.message() == sentence
    assert run.text.count("holds the skeleton as it came") == 2, "once as the failure, once as the next step"
    assert not bench.solutions()


def test_what_tools_leave_in_a_folder_is_no_edit(bench: Bench):
    path = bench.kata(SKELETON)
    bench.kata(SKELETON, skeleton=katas.digest(path))
    bench.pytest(".", cwd=path, forgetful=False)
    assert list(path.glob(".pytest_cache/*")), "pytest keeps its cache in the folder that it is run from"

    assert "holds the skeleton as it came" in bench.pytest(".", cwd=path).message()


def test_an_edited_skeleton_is_judged(bench: Bench):
    path = bench.kata(SKELETON)
    bench.kata(SKELETON + "\n# begun\n", skeleton=katas.digest(path))

    run = bench.pytest("katas/bell", "-k", "test_answers")

    assert "the solution is idle, so it will not come" in run.message()
