"""`--isolation`: the same verdicts, a level that stands in every result, and nothing lost when something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from harness.solution.isolation import LEVELS, probe

from .runs import BELL, Bench, lives, until

HOSTILE = BELL.replace("def answer", "HELD = []\n\n\ndef answer").replace(
    'if verb == "ring"', 'WHAT\n    if verb == "ring"'
)


@pytest.fixture(params=LEVELS, ids=lambda level: f"level {level}", scope="module")
def level(request: pytest.FixtureRequest) -> int:
    if reason := probe.why_not(request.param):
        pytest.skip(f"level {request.param} does not work here: {reason}")
    number: int = request.param
    return number


def at(level: int) -> str:
    return f"--isolation={level}"


def solutions(run: subprocess.Popen[bytes]) -> list[int]:
    """The programs that a run has started: the run itself is their parent, also bwrap's."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                parent = Path("/proc", name, "stat").read_text(errors="replace").rpartition(") ")[2].split()[1]
                if int(parent) == run.pid and "solution.py" in Path("/proc", name, "cmdline").read_text():
                    found.append(int(name))
    return found


def results(bench: Bench) -> dict:
    return json.loads((bench.temporary / "results.json").read_text(encoding="utf-8"))


def test_a_correct_solution_holds_and_every_result_has_its_level(bench: Bench, level: int):
    bench.kata()

    run = bench.pytest("katas/bell", at(level))

    assert (run.status, set(run.verdicts.values())) == (0, {"holds"}), run.text
    assert {result["isolation"] for result in run.results} == {level}
    assert results(bench)["isolation"] == {"level": level, "tampering": [], "left": [], "left_out": []}
    assert f"isolation: level {level}" in run.text
    until(bench.nothing_is_left, "everything that was started is gone")


def test_a_practice_run_has_none(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell")

    assert {result["isolation"] for result in run.results} == {None}
    assert results(bench)["isolation"] is None


def test_a_limit_is_a_verdict_and_the_others_are_graded(bench: Bench, level: int):
    bench.kata(HOSTILE.replace("WHAT", 'if verb == "hush":\n        HELD.append(b"x" * (900 << 20))'))

    run = bench.pytest("katas/bell", at(level))

    assert run.verdicts["hushed"] == "limit"
    assert run.message("hushed").startswith("memory: it used ")
    assert run.verdicts["answers"] == run.verdicts["back_after_sigkill"] == "holds"


def test_a_killed_run_leaves_nothing(bench: Bench, level: int):
    """Its programs run as another user, or in namespaces: the end of the harness is theirs."""
    bench.kata(HOSTILE.replace("WHAT", 'print("met", flush=True)\n    while True: pass'))
    run = bench.start("katas/bell", "-k", "hushed", at(level), CAPS="OWED=60,60")
    until(lambda: solutions(run), "the solution runs")
    programs = solutions(run)

    run.kill()
    run.wait()

    until(lambda: not any(map(lives, programs)), "its programs are gone")
    until(bench.nothing_is_left, "everything that was started is gone")


def test_results_replace_a_link_and_do_not_follow_it(bench: Bench, tmp_path: Path):
    bench.kata()
    precious = tmp_path / "precious"
    precious.write_text("untouched", encoding="utf-8")
    (bench.temporary / "results.json").symlink_to(precious)

    assert bench.pytest("katas/bell").status == 0

    assert precious.read_text(encoding="utf-8") == "untouched"
    assert not (bench.temporary / "results.json").is_symlink()


def test_links_of_a_submission_are_left_out_and_told(bench: Bench, tmp_path: Path):
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (bench.kata() / "link.py").symlink_to(tmp_path / "secret")

    run = bench.pytest("katas/bell", at(0))

    assert run.status == 0, run.text
    assert results(bench)["isolation"]["left_out"] == ["link.py"]


def test_more_than_one_process_is_refused(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", at(0), "-n", "2")

    assert run.status == 4
    assert "leave out -n" in run.text


def test_an_unknown_level_is_a_usage_error(bench: Bench):
    bench.kata()

    run = bench.pytest("katas/bell", "--isolation=7")

    assert run.status == 4
    assert "invalid choice: '7'" in run.text


def test_a_build_runs_in_isolation_too(bench: Bench, level: int):
    """It may write to its own folder, which the program then may not, and a failing one is told."""
    folder = bench.kata(BELL, build=["python", "build.py"])
    (folder / "build.py").write_text("import os\nopen('built', 'w').close()\nprint('uid', os.getuid())\n")
    (folder / "solution.py").write_text("import os\nassert os.path.exists('built')\n" + BELL, encoding="utf-8")

    run = bench.pytest("katas/bell", at(level), "-k", "hushed")

    assert (run.status, run.verdicts) == (0, {"hushed": "holds"}), run.text
    assert not (folder / "built").exists()


def test_a_failing_build_is_told_with_its_words(bench: Bench, level: int):
    folder = bench.kata(BELL, build=["python", "build.py"])
    (folder / "build.py").write_text("import sys\nsys.exit('no compiler')\n", encoding="utf-8")

    run = bench.pytest("katas/bell", at(level), "-k", "hushed")

    assert run.verdicts == {"hushed": "broken"}
    assert "no compiler" in run.message("hushed")


def test_the_harness_cannot_be_looked_into(bench: Bench):
    """Not even by another process of its user: its memory holds the data of behaviours to come."""
    bench.kata(HOSTILE.replace("WHAT", "while True: pass"))
    run = bench.start("katas/bell", "-k", "hushed", at(0), CAPS="OWED=60,60")
    until(lambda: solutions(run), "the solution runs")

    owner = Path(f"/proc/{run.pid}/mem").stat().st_uid
    run.send_signal(signal.SIGKILL)
    run.wait()

    until(bench.nothing_is_left, "everything that was started is gone")
    assert owner == 0, "what may not be dumped belongs to root"
