"""What a broken behaviour looks like in the terminal, at the end of a real run."""

from __future__ import annotations

import re

import pytest

from .runs import BEHAVIOURS, BELL, Bench

HEAD = "from harness.behaviour import behaviour\nfrom harness.behaviours.ringing import RULES, Ringer, visitor\n"
WRONG = BELL.replace('f"dong {word}', 'f"ding {word}')
DIAGRAM, AGAIN = re.compile(r"^ +visitor .* solution$", re.M), re.compile(r"^again +pytest katas/bell -k", re.M)


def broken(number: int) -> str:
    return f'''
@behaviour(stage=1, source=RULES)
def test_broken_{number}(visitor):
    """Promise {number}."""
    visitor.ring("word{number}")
'''


@pytest.fixture
def five(bench: Bench) -> Bench:
    """Five behaviours, all of them broken."""
    bench.behaviours(BEHAVIOURS, "ringing")
    bench.behaviours(HEAD + "".join(map(broken, range(5))))
    bench.kata(WRONG)
    return bench


def test_the_first_stories_are_drawn_and_the_others_are_told_in_brief(five: Bench):
    run = five.pytest("katas/bell")

    assert len(DIAGRAM.findall(run.text)) == 3
    assert len(AGAIN.findall(run.text)) == 5
    assert all(f"Promise {number}." in run.text for number in range(5))


@pytest.mark.parametrize("options", [["-v"], ["-k", "broken_4"]])
def test_every_story_is_drawn_when_asked_for(five: Bench, options: list[str]):
    run = five.pytest("katas/bell", *options)

    assert len(DIAGRAM.findall(run.text)) == len(run.results)


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_colour_is_the_terminals_choice(bench: Bench, workers: list[str]):
    bench.kata(WRONG)

    plain, coloured = (
        bench.pytest("katas/bell", "-k", "test_answers", "--seed=1", f"--color={choice}", *workers).text
        for choice in ("no", "yes")
    )

    story = re.compile(r"^promise .*?^again [^\n]*", re.M | re.S)
    assert "\x1b" not in plain
    assert re.search(r"\x1b\[31m\x1b\[1mbroken +visitor is owed", coloured)
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert _without_times(story.search(uncoloured)[0]) == _without_times(story.search(plain)[0])


def _without_times(story: str) -> str:
    return re.sub(r"^ *[0-9.]+ m?s +", "", story, flags=re.M)


def test_no_line_is_wider_than_the_page_and_a_megabyte_is_told_by_its_ends(bench: Bench):
    bench.behaviours(BEHAVIOURS, "ringing")
    bench.behaviours(
        HEAD
        + """
@behaviour(stage=1, source=RULES)
def test_one(solution, visitor):
    \"\"\"A promise that is as long as this one is, and that goes on and on, has to be told on more than one line.\"\"\"
    others = [Ringer(solution, f"a-party-with-a-long-name-{number}") for number in range(12)]
    for other in others:
        other.say("hush " + "y" * 300)
    visitor.say("ring big", padding=1 << 20)
    visitor.until_heard("dong " + "z" * 300)
"""
    )
    bench.kata(BELL.replace('f"dong {word}\\n"', 'f"dong {word} {chr(120) * (1 << 20)}\\n"'))

    run = bench.pytest("katas/bell")

    told = run.text[run.text.index("promise ") :]  # above it pytest names folders, as long as they are
    assert [line for line in told.splitlines() if len(line) > 80] == []
    assert len(run.text) < 10_000
    (result,) = run.results
    assert [event["size"] > 1 << 20 for event in result["story"] if event["kind"] == "message"][-2:] == [True, True]
    assert all(len(event["head"]) + len(event["tail"]) < 2000 for event in result["story"])
    assert re.search(r"\(\d+ events with \d+ other parties are not drawn\)", run.text)
