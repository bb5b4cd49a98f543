"""Everything is pytest: its options, its exits, its reports, for katas as for any test."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from .runs import BEHAVIOURS, BELL, ROOT, Bench

WRONG = BELL.replace('f"dong {word}', 'f"ding {word}')
NOT_HUSHED = BELL.replace('verb == "ring"', "verb")
ALL = {"answers", "answers_each[high]", "answers_each[low]", "hushed", "back_after_sigkill"}
IMPORT = "from harness.verdicts import NotReached\n"
MISTAKE = """
[not_hushed]
because = "It answers to everything."
caught_by = ["hushed"]
find = 'verb == "ring"'
replace = "verb"
"""


def test_a_correct_solution_holds(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell")

    assert (run.status, set(run.verdicts), set(run.verdicts.values())) == (0, ALL, {"holds"}), run.text


def test_the_reference_of_a_kata_of_the_kit_holds(bench: Bench):
    """The plain command of the brief, in the clone, without this bench's katas."""
    run = bench.pytest(ROOT / "katas" / "pubsub", "--subject=reference", "-k", "handshake or wildcards", own=False)

    assert (run.status, run.verdicts) == (0, {"handshake": "holds", "wildcards": "holds"}), run.text


def test_a_folder_of_katas_is_a_run_of_all(bench: Bench):
    bench.kata()
    bench.behaviours(BEHAVIOURS, "gong")
    bench.kata(WRONG, "katas/gong", name="gong")

    run = bench.pytest("katas")

    assert run.status == 1
    assert {result["kata"] for result in run.results} == {"bell", "gong"}
    assert [result["verdict"] for result in run.results if result["kata"] == "bell"] == ["holds"] * 5
    assert "bell: 4 of 4 behaviours hold" in run.text
    assert "gong: 0 of 4 behaviours hold" in run.text


def test_words_select_behaviours(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "-k", "hushed")

    assert (run.status, run.verdicts) == (0, {"hushed": "holds"})


def test_a_node_id_selects_a_behaviour(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell/kata.toml::test_hushed", "katas/bell/kata.toml::test_answers_each[low]")

    assert (run.status, run.verdicts) == (0, {"hushed": "holds", "answers_each[low]": "holds"})


def test_the_first_failure_ends_the_run(bench: Bench):
    bench.kata(WRONG)

    run = bench.pytest("katas/bell", "-x")

    assert (run.status, run.verdicts) == (1, {"answers": "broken"})


def test_what_needs_a_broken_behaviour_is_blocked(bench: Bench):
    bench.kata(WRONG)

    run = bench.pytest("katas/bell")

    assert run.status == 1
    assert run.verdicts.pop("answers") == "broken"
    assert set(run.verdicts.values()) == {"blocked"}
    assert {run.message(name) for name, verdict in run.verdicts.items() if verdict == "blocked"} == {"needs answers"}
    assert "3 wait for others" not in run.text, "cases of one behaviour are counted once"


def test_blocked_behaviours_are_tried_when_asked_for(bench: Bench):
    bench.kata(WRONG)

    run = bench.pytest("katas/bell", "--unblocked")

    assert (run.status, set(run.verdicts), set(run.verdicts.values())) == (1, ALL, {"broken"})


def test_the_last_failures_run_again(bench: Bench):
    bench.kata(NOT_HUSHED)
    assert bench.pytest("katas/bell", forgetful=False).verdicts["hushed"] == "broken"

    run = bench.pytest("katas/bell", "--lf", forgetful=False)

    assert (run.status, run.verdicts) == (1, {"hushed": "broken"})


def test_workers_give_the_same_verdicts_and_one_map(bench: Bench):
    bench.kata(NOT_HUSHED)

    alone, together = bench.pytest("katas/bell"), bench.pytest("katas/bell", "-n", "2")

    assert together.verdicts == alone.verdicts
    assert (together.status, together.text.count("behaviours hold")) == (1, 1)
    assert re.search("promise +A bell that is hushed stays silent.", together.text), "the story comes from the worker"
    assert len(together.results) == len(alone.results)


def test_junit_xml_has_a_test_case_for_each_behaviour(bench: Bench):
    bench.kata(NOT_HUSHED)

    bench.pytest("katas/bell", "--junitxml=report.xml")

    cases = ElementTree.parse(bench.folder / "report.xml").findall(".//testcase")
    assert sorted(case.get("name", "") for case in cases) == sorted(f"test_{name}" for name in ALL)
    (failure,) = [failure for case in cases for failure in case.findall("failure")]
    assert "A bell that is hushed stays silent." in str(failure.get("message"))


def test_collecting_starts_no_process(bench: Bench):
    bench.kata("from pathlib import Path\nPath('started').touch()\n")

    run = bench.pytest("katas/bell", "--collect-only", "-q")

    assert run.status == 0
    assert re.findall(r"^katas/bell/kata\.toml::test_(\S+)$", run.text, re.M) == [
        "answers",
        "answers_each[high]",
        "answers_each[low]",
        "hushed",
        "back_after_sigkill",
    ]
    assert not (bench.folder / "katas" / "bell" / "started").exists()
    assert not bench.scratch()


@pytest.mark.parametrize(("where", "what"), [("elsewhere", "../katas/bell"), ("katas/bell", "."), ("katas", "bell")])
def test_any_folder_is_good_to_run_from(bench: Bench, where: str, what: str):
    bench.kata(NOT_HUSHED)
    (bench.folder / where).mkdir(exist_ok=True)

    run = bench.pytest(what, "-k", "hushed", cwd=bench.folder / where)

    assert (run.status, run.verdicts) == (1, {"hushed": "broken"})
    assert run.one("hushed")["replay"].startswith(f"pytest {what} -k hushed --seed=")


def test_the_command_to_run_again_can_be_pasted(bench: Bench):
    bench.kata(NOT_HUSHED, "my katas/bell")

    run = bench.pytest("my katas/bell", "-k", "hushed")

    assert run.one("hushed")["replay"].startswith("pytest 'my katas/bell' -k hushed --seed=")


def test_a_seed_repeats_the_random_data(bench: Bench):
    bench.kata(WRONG)

    def word(*arguments: str) -> str:
        return re.findall(r"word\d+", bench.pytest("katas/bell", *arguments).message())[0]

    assert word("--seed=7") == word("--seed=7", "-k", "answers") == word("--seed=7", "-n", "1")
    assert word() != word()


def test_a_story_can_be_left_out(bench: Bench):
    bench.kata(NOT_HUSHED)

    told, untold = (bench.pytest("katas/bell", f"--story={kind}").text for kind in ("text", "none"))

    assert "── hush now" in told
    assert "promise  " in told
    assert "── hush now" not in untold
    assert "promise  " not in untold
    assert "visitor is owed `dong last`, not `dong now`" in untold


def test_results_are_written_with_their_seed(bench: Bench):
    bench.kata(NOT_HUSHED)

    run = bench.pytest("katas/bell", "--seed=11", "-k", "hushed")

    (result,) = run.results
    assert (result["stage"], result["points"], result["url"]) == (2, 2, "https://bells.example/rules#1")
    assert result["sentence"] == "A bell that is hushed stays silent."
    labels = [event["label"] for event in result["story"] if event["kind"] == "message"]
    assert labels[:5] == ["ring first", "dong first", "hush now", "ring last", "dong now"]
    assert '"seed": 11' in (bench.temporary / "results.json").read_text(encoding="utf-8")


def test_verdicts_are_words_when_verbose(bench: Bench):
    bench.kata(WRONG)
    broken = bench.pytest("katas/bell", "-v").text

    assert "test_answers BROKEN" in broken
    assert "test_hushed BLOCKED" in broken

    bench.kata()
    assert "test_answers HOLDS" in bench.pytest("katas/bell", "-v", "-k", "test_answers").text


def test_what_changed_is_told_at_the_next_run(bench: Bench):
    bench.kata(NOT_HUSHED)
    bench.pytest("katas/bell")

    bench.kata()
    assert "new since the last run: hushed" in bench.pytest("katas/bell").text

    bench.kata(NOT_HUSHED)
    assert "lost since the last run: hushed" in bench.pytest("katas/bell").text


def test_what_only_waits_for_others_is_lost_as_a_number(bench: Bench):
    bench.kata()
    bench.pytest("katas/bell")

    bench.kata(BELL.replace("dong ", "ding "))
    told = bench.pytest("katas/bell").text

    assert "lost since the last run: answers\n" in told
    assert "that held wait for others\n" in told


@pytest.mark.parametrize("subject", ["other", "other/solution.py"])
def test_another_program_is_judged_and_leaves_the_learners_progress_alone(bench: Bench, subject: str):
    bench.kata()
    bench.pytest("katas/bell")
    (bench.folder / "other").mkdir()
    (bench.folder / "other" / "solution.py").write_text(NOT_HUSHED, encoding="utf-8")

    run = bench.pytest("katas/bell", f"--subject={subject}")

    assert (run.status, run.verdicts["hushed"], run.verdicts["answers"]) == (1, "broken", "holds")
    assert "since the last run" not in run.text
    assert f"--subject={subject}" in run.one("hushed")["replay"]


# -- the reference and its planted mistakes


@pytest.fixture
def mistakes(bench: Bench) -> Path:
    bench.kata(solution=None)
    path = bench.home / "reference" / "bell" / "mutants.toml"
    path.write_text(MISTAKE, encoding="utf-8")
    return path


def test_a_planted_mistake_is_caught_by_those_named_for_it(bench: Bench, mistakes: Path):
    run = bench.pytest("katas/bell", "--subject=mutants", "-v")

    assert (run.status, run.verdicts) == (0, {"hushed": "holds"})
    assert "kata.toml::not_hushed::test_hushed CAUGHT" in run.text
    assert "bell: 1 of 1 mistakes caught" in run.text


def test_a_mistake_that_is_not_noticed_survives(bench: Bench, mistakes: Path):
    mistakes.write_text(MISTAKE.replace('["hushed"]', '["hushed", "answers"]'), encoding="utf-8")

    run = bench.pytest("katas/bell", "--subject=mutants:not_hushed", "-v")

    assert (run.status, run.verdicts) == (1, {"hushed": "holds", "answers": "broken"})
    assert "test_answers SURVIVED" in run.text
    assert "was not noticed: It answers to everything." in run.message("answers")


def test_a_scene_that_could_not_be_set_catches_nothing(bench: Bench, mistakes: Path):
    mistakes.write_text(MISTAKE.replace('replace = "verb"', 'replace = "1 / 0"'), encoding="utf-8")
    bench.behaviours(BEHAVIOURS.replace('    visitor.ring("first")', "    raise NotReached('nobody came')") + IMPORT)

    run = bench.pytest("katas/bell", "--subject=mutants")

    assert (run.status, run.verdicts) == (1, {"hushed": "not reached"})


def test_the_reference_can_be_met_with_one_mistake_as_a_learner_would(bench: Bench, mistakes: Path):
    run = bench.pytest("katas/bell", "--subject=reference:not_hushed")

    assert (run.status, run.verdicts["hushed"], run.verdicts["answers"]) == (1, "broken", "holds")
    assert "bell (not_hushed): 3 of 4 behaviours hold" in run.text
    original = (bench.home / "reference" / "bell" / "solution.py").read_text(encoding="utf-8")
    assert original == BELL, "mistakes are planted into a copy"


# -- what users get wrong, each in one sentence and without a process


def test_a_subject_that_does_not_exist_is_refused(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "--subject=nowhere")

    assert run.status == pytest.ExitCode.USAGE_ERROR
    assert "--subject=nowhere does not exist; give a folder, a file, reference or mutants" in run.text


@pytest.mark.parametrize("subject", ["mutants:not_hashed", "reference:not_hashed"])
def test_an_unknown_mistake_is_refused_with_the_nearest_name(bench: Bench, mistakes: Path, subject: str):
    run = bench.pytest("katas/bell", f"--subject={subject}")

    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "`bell` has no mutant named `not_hashed`, did you mean `not_hushed`?" in run.text


def test_two_katas_of_one_name_are_refused(bench: Bench):
    bench.kata()
    bench.kata(folder="katas/doorbell")

    run = bench.pytest("katas")

    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "both named `bell`; rename one, or run one folder at a time" in run.text


@pytest.mark.parametrize(
    ("fields", "toml", "words"),
    [
        ({"name": "bel"}, "", "names an unknown kata, `bel`, did you mean `bell`?"),
        ({"title": None}, "", "lacks `title`; add it"),
        ({}, "name =", "is not valid TOML"),
        ({"titel": "x"}, "", "has an unknown field `titel`, did you mean `title`?"),
        ({"hours": 3}, "", "`hours` must be a str, not 3"),
        ({"products": ["/usr/sbin/nginx"]}, "", '`products` must be a list of names of programs, such as ["nginx"]'),
        ({"hours": "a day"}, "", "`hours` must be a span such as \"2-4\", not 'a day'"),
        ({"grace_ms": True}, "", "`grace_ms` must be a int, not True"),
        ({"run": []}, "", "`run` must be a list of words"),
        ({"run": ["python", 3]}, "", "`run` must be a list of words"),
        ({}, "[environment]\nX = 1.5\n", "the environment's `X` must be a string or a whole number, not 1.5"),
    ],
)
def test_a_broken_kata_toml_is_told_in_one_sentence(bench: Bench, fields: dict[str, object], toml: str, words: str):
    bench.kata(toml=toml, **fields)

    run = bench.pytest("katas/bell")

    assert run.status == pytest.ExitCode.INTERRUPTED
    assert words in run.text
    assert "Traceback" not in run.text
    assert not run.results


def test_a_kata_that_lacks_a_package_is_skipped_and_says_so_and_the_others_run(bench: Bench):
    bench.kata()
    bench.kata(folder="katas/gong", name="gong", extra="gong")
    bench.behaviours("import bronze\n", "gong")

    run = bench.pytest("katas")
    alone = bench.pytest("katas/gong")

    sentence = "gong needs bronze, which is not installed: pip install 'backend-katas[gong]'"
    assert (run.status, set(run.verdicts.values())) == (0, {"holds"})
    assert sentence in run.text
    assert "1 skipped" in run.text
    assert (alone.status, sentence in alone.text) == (pytest.ExitCode.NO_TESTS_COLLECTED, True)


def test_a_folder_without_its_program_says_what_to_write(bench: Bench):
    bench.kata(solution=None)

    run = bench.pytest("katas/bell")

    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "has no solution.py; write it, or say in kata.toml what to `run`" in run.text


def test_results_tell_how_many_hints_were_taken(bench: Bench):
    bench.kata()
    progress = bench.folder / "katas" / ".progress.json"
    progress.write_text('{"bell": {"hints": {"answers": 2}}}')

    own = bench.pytest("katas/bell", "-k", "answers")
    reference = bench.pytest("katas/bell", "-k", "answers", "--subject=reference")

    assert own.one("answers")["hints_taken"] == 2
    assert own.one("answers_each[low]")["hints_taken"] == 0
    assert reference.one("answers")["hints_taken"] == 0
