"""Solutions that misbehave: each gets a message of its own, harms nobody, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from .runs import BEHAVIOURS, BELL, Bench, until

ANSWER = 'connection.sendall(f"dong {word}\\n".encode())'


def answering(*lines: str) -> str:
    """A bell that does this instead of answering."""
    return BELL.replace(f"        {ANSWER}", "\n".join(f"        {line}" for line in lines))


def beginning(*lines: str) -> str:
    """A bell that does this before it listens."""
    return BELL.replace("    serve()\n", "\n".join(f"    {line}" for line in [*lines, "serve()"]) + "\n")


@pytest.fixture(autouse=True)
def nothing_is_left(bench: Bench):
    yield
    until(bench.nothing_is_left, "everything that was started is gone")


# -- before it listens


@pytest.mark.parametrize(
    ("solution", "message", "printed"),
    [
        (beginning("raise ValueError('cracked')"), "exited with status 1 before it listened on 127.0.0.1:", "cracked"),
        ("import nonesuch\n", "exited with status 1 before it listened", "No module named 'nonesuch'"),
        ("def ring(:\n", "exited with status 1 before it listened", "SyntaxError: invalid syntax"),
        ("print('bye')\n", "exited with status 0 before it listened", "| bye"),
        (beginning("os.kill(os.getpid(), signal.SIGKILL)"), "was killed by SIGKILL before it listened", ""),
        (
            beginning("signal.pause()"),
            "it is idle, but does not listen on 127.0.0.1:",
            "use the environment variables HOST and PORT",
        ),
    ],
    ids=["traceback", "missing module", "syntax error", "exits at once", "killed", "never listens"],
)
def test_what_does_not_start_says_why(bench: Bench, solution: str, message: str, printed: str):
    bench.kata(solution)

    run = bench.pytest("katas/bell")

    assert run.status == 1
    assert run.message().startswith("the solution did not start: it")
    assert message in run.message()
    assert printed in run.text
    assert run.verdicts.pop("answers") == "broken"
    assert set(run.verdicts.values()) == {"blocked"}, "it is not started again for each behaviour"


def test_an_exit_with_success_is_told_to_stay(bench: Bench):
    bench.kata("")

    assert "it must serve until it gets SIGTERM, in the foreground" in bench.pytest("katas/bell").message()


def test_a_wrong_port_is_named(bench: Bench):
    bench.kata(BELL.replace('int(os.environ["PORT"])', "0"))

    message = bench.pytest("katas/bell").message()

    assert re.search(
        r"does not listen on 127\.0\.0\.1:\d+; it listens on 127\.0\.0\.1:\d+: use the environment", message
    )


def test_a_solution_may_listen_on_all_addresses(bench: Bench):
    bench.kata(BELL.replace('os.environ["HOST"]', '"0.0.0.0"'))

    assert bench.pytest("katas/bell").status == 0


def test_somebody_else_on_the_port_is_not_taken_for_the_solution(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", SQUATTED="yes")

    assert "exited with status 1 before it listened" in run.message()
    assert "OSError: [Errno 98] Address already in use" in run.text


def test_a_program_that_is_busy_before_it_listens_hits_a_bound(bench: Bench):
    bench.kata("while True:\n    pass\n")

    run = bench.pytest("katas/bell", CAPS="START_CAP=0.3")

    assert "it did not listen on 127.0.0.1:" in run.message()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (["nonesuch"], "`nonesuch` is not installed"),
        (["./solution.py"], "solution.py` can't be executed: Permission denied; see `run` in kata.toml"),
        (["./nowhere"], "nowhere` can't be executed: No such file or directory; see `run` in kata.toml"),
    ],
)
def test_what_can_not_be_executed_is_the_solutions_fault(bench: Bench, run: list[str], words: str):
    bench.kata(run=run)

    told = bench.pytest("katas/bell")

    assert (told.status, told.verdicts["answers"], told.verdicts["hushed"]) == (1, "broken", "blocked")
    assert words in told.message()
    assert "Traceback" not in told.text


def test_a_failed_build_shows_its_last_lines(bench: Bench):
    bench.kata(build=["python", "-c", "print('mould is broken'); raise SystemExit(3)"])

    run = bench.pytest("katas/bell")

    assert (run.status, run.verdicts["answers"], run.verdicts["hushed"]) == (1, "broken", "blocked")
    assert "failed with status 3" in run.message()
    assert "mould is broken" in run.message()


def test_a_reference_is_built_by_its_own_build(bench: Bench):
    """What the learner's kata.toml says of `build` is the learner's."""
    bench.kata(build=["python", "-c", "raise SystemExit(3)"])
    folder = bench.home / "reference" / "bell"
    (folder / "build.py").write_text("open('made.py', 'w').close()\n", encoding="utf-8")
    bench.reference(f"import made\n{BELL}")

    run = bench.pytest("katas/bell", "--subject=reference")

    assert set(run.verdicts.values()) == {"holds"}, run.text


# -- while it is met


def test_a_death_is_told_and_the_next_behaviour_meets_a_new_process(bench: Bench):
    bench.kata(answering("print('last words')", 'os._exit(3) if word == "high" else None', ANSWER))

    run = bench.pytest("katas/bell")

    assert run.verdicts.pop("answers_each[high]") == "broken"
    assert set(run.verdicts.values()) == {"holds"}
    assert "the solution exited with status 3" in run.message("answers_each[high]")
    assert "| last words" in run.text


def test_a_death_is_told_though_its_connection_was_closed_at_once(bench: Bench):
    listening = "        self.connection.on_bytes = self._listen\n"
    closing = "        self.connection.on_bytes = lambda end: end.close() if end.eof else self._listen(end)\n"
    assert BEHAVIOURS.count(listening) == 1
    bench.behaviours(BEHAVIOURS.replace(listening, closing))
    bench.kata(answering('os._exit(3) if word == "high" else None', ANSWER))

    assert "the solution exited with status 3" in bench.pytest("katas/bell").message("answers_each[high]")


def test_a_death_after_the_answer_breaks_the_behaviour_that_caused_it(bench: Bench):
    bench.kata(answering(ANSWER, 'os._exit(4) if word == "high" else None'))

    run = bench.pytest("katas/bell")

    assert run.verdicts.pop("answers_each[high]") == "broken"
    assert set(run.verdicts.values()) == {"holds"}
    assert "the solution exited with status 4" in run.message("answers_each[high]")


def test_silence_is_told_as_what_is_owed(bench: Bench):
    bench.kata(answering("pass"))

    run = bench.pytest("katas/bell", "-k", "test_answers")

    assert run.verdicts["answers"] == "broken"
    assert re.search(r"owed dong word\d+; the solution is idle, so it will not come", run.message())


def test_endless_work_is_a_limit_and_no_verdict(bench: Bench):
    bench.kata(answering("while True: pass"))

    run = bench.pytest("katas/bell", "-v", CAPS="OWED=0.3,40")

    assert (run.status, run.verdicts["answers"]) == (1, "limit")
    assert "of CPU time" in run.message()
    assert "test_answers LIMIT" in run.text
    assert "next: answers." in run.text


def test_a_solution_that_stops_itself_is_a_limit(bench: Bench):
    bench.kata(answering("os.kill(os.getpid(), signal.SIGSTOP)"))

    run = bench.pytest("katas/bell", "-k", "test_answers", CAPS="OWED=5,1.5")

    assert run.verdicts["answers"] == "limit"
    assert re.search(r"did not rest .* is stopped", run.message())


def test_what_is_printed_is_shown_within_bounds(bench: Bench):
    bench.kata(answering("print('loud ' * 200_000)", "print('the last line')"))

    run = bench.pytest("katas/bell", "-k", "test_answers")

    assert "| the last line" in run.text
    assert len(run.one("answers")["output"]) <= 10_000
    assert len(run.text) < 20_000


def test_control_characters_are_shown_and_never_sent_to_the_terminal(bench: Bench):
    nasty = r"\x1b[2J\x1b]8;;http://bells.example\x07\x9b31m\u202e"
    bench.kata(
        answering(f'print("{nasty}")', f'connection.sendall("dong {nasty}".encode() + b"\\xff\\xfe\\0\\n")'),
    )

    texts = [
        bench.pytest("katas/bell", "-k", "test_answers", *options).text
        for options in ([], ["--story=none"], ["-v"], ["-n", "1"], ["-rA"])
    ]

    for text in texts:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text.replace("\r", "")), repr(text)
        assert "␛[2J␛]8;;http://bells.example␇" in text


def test_what_differs_is_told_without_colours_of_its_own(bench: Bench):
    bench.kata(BELL.replace('f"dong {word}', 'f"ding {word}'))

    text = bench.pytest("katas/bell", "-k", "test_answers", "--color=yes").text

    assert "\x1b[31m" in text, "there are colours"
    assert "␛" not in text, "but none that a solution seems to have sent"


# -- how it ends


@pytest.mark.parametrize("elsewhere", [{}, {"UNSHOWN": "this system has no /proc"}], ids=["seen", "unseen"])
def test_daemons_are_found_and_ended(bench: Bench, elsewhere: dict[str, str]):
    """They left the session, their parents ended, they ignore SIGTERM; unseen, only their environment tells of them."""
    bench.kata(
        beginning(
            "if not os.fork():",
            "    os.setsid()",
            "    if os.fork(): os._exit(0)",
            "    signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "    signal.pause()",
            "os.wait()",
        )
    )

    assert bench.pytest("katas/bell", "-k", "test_answers", **elsewhere).status == 0


def test_a_solution_that_becomes_a_daemon_did_not_stay(bench: Bench):
    bench.kata(beginning("if os.fork(): os._exit(0)", "os.setsid()", "signal.pause()"))

    assert "exited with status 0 before it listened" in bench.pytest("katas/bell").message()


def test_ignoring_sigterm_does_not_help(bench: Bench):
    bench.kata(BELL.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN"))

    assert bench.pytest("katas/bell").status == 0


def test_at_the_end_there_is_sigterm_and_time_to_tidy_up(bench: Bench):
    tidied = "(open('tidied', 'w').close(), sys.exit(0))"
    bench.kata(BELL.replace("lambda *_: sys.exit(0)", f"lambda *_: {tidied}"))

    assert bench.pytest("katas/bell", "-k", "test_answers").status == 0
    assert list(bench.folder.rglob("tidied"))


# -- what lies beside it


def test_files_beside_a_solution_do_not_shadow_the_harness(bench: Bench):
    """Run from within the folder, too, by the command that does not put it on the path."""
    folder = bench.kata()
    trap = "raise SystemExit('the harness imported a file of the solution')\n"
    for name in ("json", "pytest", "harness", "h11", "bell", "random"):
        (folder / f"{name}.py").write_text(trap, encoding="utf-8")
    command = Path(sys.executable).with_name("pytest")
    assert os.access(command, os.X_OK), "the environment of the tests has pytest's command"

    for run in (bench.pytest("katas/bell"), bench.pytest(".", cwd=folder, command=[str(command)])):
        assert (run.status, set(run.verdicts.values())) == (0, {"holds"}), run.text


def test_a_conftest_of_another_program_is_not_loaded(bench: Bench):
    bench.kata()
    bench.kata(folder="other")
    (bench.folder / "other" / "conftest.py").write_text("raise SystemExit('loaded')\n", encoding="utf-8")

    run = bench.pytest("katas/bell", "--subject=other")

    assert (run.status, set(run.verdicts.values())) == (0, {"holds"}), run.text
