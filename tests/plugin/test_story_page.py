"""`--story=FILE.html`: a page beside the terminal's text, written once, whoever tried the behaviours."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

import pytest

from .runs import BEHAVIOURS, BELL, Bench

WRONG = BELL.replace('f"dong {word}', 'f"ding {word}')
NOT_HUSHED = BELL.replace('verb == "ring"', "verb")


def page_of(bench: Bench, name: str = "story.html") -> str:
    return (bench.folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_the_page_comes_beside_the_text_and_the_terminal_says_where(bench: Bench, workers: list[str]):
    bench.kata(NOT_HUSHED)

    run = bench.pytest("katas/bell", "--story=story.html", "--seed=7", *workers)

    assert run.status == 1
    assert "── hush now" in run.text
    assert "the page is story.html" in run.text
    page = page_of(bench)
    assert "bell: 3 of 4 behaviours hold" in page
    assert page.count("<article") == 4
    assert page.count('role="img"') == 1
    assert ">hush now<" in page
    assert "owed: dong" not in page
    assert "here the promise is broken" in page
    assert html.escape(run.one("hushed")["replay"]).split()[-1] in page
    assert sorted(path.name for path in bench.folder.iterdir() if path.is_file()) == ["story.html"]


def test_several_katas_are_one_page(bench: Bench):
    bench.kata()
    bench.behaviours(BEHAVIOURS, "gong")
    bench.kata(WRONG, "katas/gong", name="gong")

    bench.pytest("katas", "--story=story.html")

    assert re.findall(r"<h2[^>]*>(\w+)</h2>", page_of(bench)) == ["bell", "gong"]


def test_a_solution_that_holds_has_a_page_too(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "--story=out/of/sight/story.HTML")

    assert (run.status, "the page is out/of/sight/story.HTML" in run.text) == (0, True)
    assert "4 of 4 behaviours hold" in page_of(bench, "out/of/sight/story.HTML")


def test_an_older_page_is_replaced(bench: Bench):
    bench.kata()
    (bench.folder / "story.html").write_text("old", encoding="utf-8")

    bench.pytest("katas/bell", "--story=story.html", "-k", "hushed")

    assert "1 of 1 behaviours hold" in page_of(bench)


def test_what_a_solution_says_is_text_on_the_page(bench: Bench):
    bench.kata(BELL.replace('f"dong {word}', 'f"<script>alert({word!r})</script>'))

    bench.pytest("katas/bell", "--story=story.html")

    page = page_of(bench)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(" in page


@pytest.mark.parametrize("wanted", ["svg", "story.svg", "", "page", "story.html.txt"])
def test_another_way_to_tell_is_refused_in_one_sentence(bench: Bench, wanted: str):
    bench.kata()

    run = bench.pytest("katas/bell", f"--story={wanted}")

    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert f"--story={wanted} is no way to tell: give text, none, or a file that ends in .html" in run.text
    assert not run.results


def test_a_folder_is_refused_before_anything_runs(bench: Bench):
    bench.kata()
    (bench.folder / "pages.html").mkdir()

    run = bench.pytest("katas/bell", "--story=pages.html")

    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "--story=pages.html is a folder; give the name of a file, such as pages.html/story.html" in run.text


def test_a_page_that_cannot_be_written_is_told_and_the_verdicts_are_not_lost(bench: Bench):
    bench.kata()
    (bench.folder / "taken").write_text("a file, not a folder", encoding="utf-8")

    run = bench.pytest("katas/bell", "--story=taken/story.html")

    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "the page could not be written:" in run.text
    assert "4 of 4 behaviours hold" in run.text
    assert set(run.verdicts.values()) == {"holds"}


def test_a_run_that_tried_nothing_writes_no_page(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "--story=story.html", "-k", "nothing_of_that_name")

    assert run.status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "no behaviour was tried, so story.html was not written" in run.text
    assert not (bench.folder / "story.html").exists()


def test_a_run_without_a_page_does_not_pay_for_it(bench: Bench):
    """The templates are imported by those who write a page, and by nobody else."""
    bench.kata(NOT_HUSHED)
    (bench.folder / "witness.py").write_text(
        "import sys\ndef pytest_unconfigure():\n    print('templates:', 'jinja2' in sys.modules)\n", encoding="utf-8"
    )
    path = os.pathsep.join([str(Path(__file__).parent / "kit"), str(bench.folder)])

    with_text, with_page = (
        bench.pytest("katas/bell", "-p", "witness", f"--story={way}", PYTHONPATH=path).text
        for way in ("text", "story.html")
    )

    assert "templates: False" in with_text
    assert "templates: True" in with_page


def test_ten_thousand_messages_and_a_megabyte_stay_a_small_page(bench: Bench):
    bench.behaviours(BEHAVIOURS, "ringing")
    bench.behaviours(
        """
from harness.behaviour import behaviour
from harness.behaviours.ringing import RULES, Ringer, visitor

@behaviour(stage=1, source=RULES)
def test_one(solution, visitor):
    \"\"\"Whoever rings ten thousand times is heard.\"\"\"
    visitor.say("hush big", padding=1 << 20)
    for number in range(10_000):
        visitor.say(f"hush {chr(97 + number % 26)}{chr(97 + number // 26 % 26)}")
    visitor.ring("now")
"""
    )
    bench.kata(WRONG)

    run = bench.pytest("katas/bell", "--story=story.html")

    assert run.verdicts == {"one": "broken"}
    assert len(run.text) < 10_000
    assert len(page_of(bench)) < 300_000
    (gap, *_) = [event for event in run.one("one")["story"] if event["kind"] == "gap"]
    assert gap["size"] > 9000
    assert "more events" in page_of(bench)
