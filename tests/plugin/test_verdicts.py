"""Each way a behaviour can end, and what is said of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from .runs import BEHAVIOURS, BELL, ROOT, Bench

HEAD = """
import pytest
from harness import waiting
from harness.behaviour import behaviour, hints
from harness.behaviours.ringing import RULES, Ringer, visitor
from harness.verdicts import *
"""
BEHAVIOUR = '''

@behaviour(stage=1, source=RULES)
def test_{0}(solution, visitor):
    """{0} is promised."""
    {1}
'''
LATE = BELL.replace(
    '    if verb == "ring"',
    '    if verb == "hush":\n'
    "        hushed.append(connection)\n"
    '    if word == "later":\n'
    '        hushed.pop().sendall(b"late\\n")\n'
    '    if verb == "ring"',
)
LATER = '''

@behaviour(stage=2, source=RULES)
def test_later(visitor):
    """Somebody else is answered; what it does to those before is not looked at here."""
    visitor.ring("later")
'''


def behaving(*bodies: str) -> str:
    """Behaviours of stage 1 with these bodies: one, two, three."""
    names = ("one", "two", "three")
    return HEAD + "".join(BEHAVIOUR.format(name, body) for name, body in zip(names, bodies, strict=False))


@pytest.fixture(autouse=True)
def ringing(bench: Bench):
    bench.behaviours(BEHAVIOURS, "ringing")
    bench.kata()


@pytest.mark.parametrize(
    ("body", "verdict", "word", "message"),
    [
        ("visitor.ring('a')", "holds", "HOLDS", ""),
        ("assert visitor.heard == [], 'fine'; assert 0, 'owed is more'", "broken", "BROKEN", "owed is more"),
        ("raise Broken('it did not')", "broken", "BROKEN", "it did not"),
        ("raise NotReached('nobody came')", "not reached", "NOT REACHED", "nobody came"),
        (
            "visitor.say('hush now'); waiting.until_reached(solution, lambda: visitor.heard, 'an echo')",
            "not reached",
            "NOT REACHED",
            "the scene could not be set: an echo; the solution is idle, so it will not come",
        ),
        ("raise LimitReached('5 s of CPU')", "limit", "LIMIT", "5 s of CPU"),
        ("raise NotShown('needs a window')", "skipped", "SKIPPED", "needs a window"),
        ("pytest.skip('no bells here')", "skipped", "SKIPPED", "no bells here"),
        ("{}['missing']", "fault of the kit", "FAULT OF THE KIT", "'missing'"),
    ],
)
def test_the_type_of_the_error_says_whose_fault_it_is(bench: Bench, body: str, verdict: str, word: str, message: str):
    bench.behaviours(behaving(body))

    run = bench.pytest("katas/bell", "-v")

    assert run.verdicts == {"one": verdict}
    assert message in run.message("one")
    assert f"test_one {word}" in run.text
    assert run.status == (0 if verdict in {"holds", "skipped"} else 1)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_fault_of_the_kit_is_never_blamed_on_the_learner(bench: Bench, workers: list[str]):
    bench.behaviours(behaving("raise KeyError('kit')", "visitor.ring('b')"))

    run = bench.pytest("katas/bell", *workers)

    assert (run.status, run.verdicts) == (1, {"one": "fault of the kit", "two": "holds"})
    assert "a fault of the kit, not of the solution: KeyError: 'kit'" in run.text
    assert "raise KeyError('kit')" in run.text, "the authors need the traceback"
    assert not re.search("broken +KeyError", run.text)
    assert "next: one" not in run.text, "the learner can't mend it"


def test_a_peer_or_fixture_that_fails_is_a_fault_of_the_kit(bench: Bench):
    bench.behaviours(
        behaving("pass") + "@pytest.fixture\ndef visitor(solution):\n    raise OSError('no more descriptors')\n"
    )

    run = bench.pytest("katas/bell")

    assert (run.status, run.verdicts) == (1, {"one": "fault of the kit"})
    assert "OSError: no more descriptors" in run.message("one")


def test_a_broken_behaviour_does_not_disturb_the_next(bench: Bench):
    bench.behaviours(behaving("visitor.ring('a'); assert 0, 'one'", "visitor.ring('b')", "assert 0, 'three'"))

    run = bench.pytest("katas/bell")

    assert run.verdicts == {"one": "broken", "two": "holds", "three": "broken"}


@pytest.mark.parametrize("first", ["assert 0", "raise NotReached('x')", "raise LimitReached('x')", "pytest.skip('x')"])
def test_only_what_holds_does_not_block(bench: Bench, first: str):
    text = behaving(first, "visitor.ring('b')")
    bench.behaviours(text.replace("source=RULES)\ndef test_two", "source=RULES, needs='one')\ndef test_two"))

    run = bench.pytest("katas/bell")

    assert run.verdicts["two"] == "blocked"
    assert run.message("two") == "needs one"
    assert "1 wait for others (needs one)" in run.text


def test_what_was_not_tried_blocks_nothing(bench: Bench):
    assert bench.pytest("katas/bell", "-k", "hushed").verdicts == {"hushed": "holds"}


def test_a_tripwire_breaks_what_seemed_to_hold(bench: Bench):
    bench.kata("hushed = []\n" + LATE)
    bench.behaviours(BEHAVIOURS + LATER)

    # -s: in one process, so that both meet the same program.
    run = bench.pytest("katas/bell", "-k", "hushed or later", "--junitxml=report.xml", "-s")

    assert [(result["behaviour"], result["verdict"]) for result in run.results] == [
        ("hushed", "holds"),
        ("later", "holds"),
        ("hushed", "broken"),
    ]
    assert run.status == 1
    assert run.message("hushed").endswith("was answered late, when the run was nearly over")
    assert "bell: 1 of 2 behaviours hold" in run.text
    cases = ElementTree.parse(bench.folder / "report.xml").findall(".//testcase")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["test_hushed"]


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_a_second_copy_that_comes_late_is_caught_at_the_end_of_the_run(bench: Bench, workers: list[str]):
    """In a kata of the kit: no behaviour of it is still looking when the broker repeats itself.

    Both times are longer than in earnest, so that a slow machine does not bring the copy into the behaviour.
    """
    reference = (ROOT / "reference" / "pubsub" / "solution.py").read_text(encoding="utf-8")
    sends = "            self.drop(subscription)\n        self.send(message)\n"
    assert reference.count(sends) == 1
    late = f"{sends}        self.loop.call_later(0.4, self.send, message)\n"
    (bench.folder / "late.py").write_text(reference.replace(sends, late), encoding="utf-8")

    run = bench.pytest(
        ROOT / "katas" / "pubsub", "--subject=late.py", "-k", "unsub_stops", *workers, own=False, CAPS="LINGER=1.6"
    )

    assert run.status == 1
    assert [result["verdict"] for result in run.results] == ["holds", "broken"]
    assert "when the run was nearly over" in run.message("unsub_stops")
    assert "0 of 1 behaviours hold" in run.text


def test_cases_of_one_behaviour_are_one_line_of_the_map(bench: Bench):
    bench.behaviours(
        HEAD
        + """
@behaviour(stage=1, source=RULES, points=5)
@pytest.mark.parametrize("word", ["a", "b", "c"])
def test_one(visitor, word):
    \"\"\"Each word is answered.\"\"\"
    assert word != "b", "b is owed"
    visitor.ring(word)
"""
    )

    run = bench.pytest("katas/bell")

    assert run.verdicts == {"one[a]": "holds", "one[b]": "broken", "one[c]": "holds"}
    assert "bell: 0 of 1 behaviours hold, 0 of 5 points" in run.text
    assert re.search(r"✗ one: b is owed", run.text)


# -- elsewhere than on Linux


def test_without_the_kernels_help_a_bounded_time_without_a_change_counts_as_quiet(bench: Bench):
    holds = bench.pytest("katas/bell", UNSHOWN="this system has no /proc")
    bench.kata(BELL.replace('f"dong {word}', 'f"ding {word}'))
    broken = bench.pytest("katas/bell", UNSHOWN="this system has no /proc")

    assert (holds.status, set(holds.verdicts.values())) == (0, {"holds"}), holds.text
    assert (broken.status, broken.verdicts["answers"]) == (1, "broken")
    text = " ".join(holds.text.split())
    assert "quiet is judged by a bounded settle time here: nothing has moved for 150 ms" in text
    assert "this system has no /proc, so a slower answer would be missed" in text
    assert "settle time" not in bench.pytest("katas/bell").text, "where the kernel shows all, nothing is said"


def test_what_only_linux_shows_is_skipped_elsewhere(bench: Bench):
    bench.behaviours(behaving("assert solution.memory_bytes() > 0", "visitor.ring('b')"))

    run = bench.pytest("katas/bell", "-rs", UNSHOWN="this system has no /proc")

    assert (run.status, run.verdicts) == (0, {"one": "skipped", "two": "holds"})
    assert "needs what only Linux shows of a process" in run.message("one")
    assert bench.pytest("katas/bell").verdicts == {"one": "holds", "two": "holds"}
