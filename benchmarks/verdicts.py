"""How long does a verdict take, and is it ever wrong?

`python benchmarks/verdicts.py --runs 5 --load-runs 20 --busy 4` times whole runs of pytest, process start included:
on the reference of each kata, on broken programs (the null programs and a mistake planted in the reference), and on
30 empty tests, which is pytest's own share. A wrong verdict is a behaviour that does not hold for the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from harness import kata as katas  # noqa: E402
from harness import subjects  # noqa: E402
from harness.kata import Kata  # noqa: E402
from harness.proof import programs  # noqa: E402
from harness.proof.runs import Bench, Outcome, Run  # noqa: E402
from harness.results import Result  # noqa: E402
from harness.verdicts import Verdict  # noqa: E402

# Without the plugins that only the kit's own tests need; pyproject.toml leaves them out of a kata's runs in a clone.
AS_A_LEARNER = ("-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:hypothesispytest")
EMPTY_TESTS = 30
UNHELD = (Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT)
COLUMNS = ("kata", "subject", "runs", "run_s", "fastest", "slowest", "tried", "each_ms", "most_ms")


@dataclass(frozen=True)
class Row:
    """Seconds of whole runs, and milliseconds of the behaviours that were tried (of a broken program: that failed)."""

    kata: str
    subject: str
    runs: int
    run_s: float
    fastest: float
    slowest: float
    tried: int
    each_ms: float
    most_ms: float


@dataclass(frozen=True)
class Load:
    """Wrong verdicts of the reference beside busy processes; `seeds` repeat them."""

    kata: str
    runs: int
    busy: int
    verdicts: int
    wrong: int
    seeds: list[int]
    run_s: float
    slowest: float


def row(kata: str, subject: str, seconds: list[float], results: Iterable[Result]) -> Row:
    each = [result.seconds * 1000 for result in results]
    return Row(
        *(kata, subject, len(seconds)),
        *(round(figure, 2) for figure in (statistics.median(seconds), min(seconds), max(seconds))),
        len(each) // len(seconds),
        *(round(figure, 1) for figure in (statistics.median(each or [0]), max(each, default=0))),
    )


def floor(runs: int) -> Row:
    """pytest itself, on empty tests."""
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(folder, "test_empty.py")
        tests.write_text("\n".join(f"def test_{number}():\n    pass\n" for number in range(EMPTY_TESTS)))
        words = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, *AS_A_LEARNER, str(tests)]
        seconds = [timed(words, folder) for _ in range(runs)]
    return row("(none)", f"{EMPTY_TESTS} empty tests", seconds, [])


def timed(words: list[str], folder: str) -> float:
    before = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def outcomes(kata: Kata, runs: int, *arguments: str) -> list[Outcome]:
    """One run after the other, since runs side by side would time each other."""
    with Bench(kata) as bench:
        done = bench.all([Run("timed", ("--story=text", *arguments))] * runs, 1, lambda outcome: None)
    for outcome in done:
        assert not outcome.problem, outcome.problem
    return done


def reference(kata: Kata, runs: int) -> Row:
    done = outcomes(kata, runs, "--subject=reference")
    results = (result for outcome in done for result in outcome.results)
    return row(kata.name, "reference", [outcome.seconds for outcome in done], results)


def broken(kata: Kata, runs: int) -> Iterator[Row]:
    """What a learner waits for whose program is wrong."""
    for path in programs.null_programs(kata):
        yield unheld(kata, f"null {path.stem}", runs, f"--subject={path}", "--unblocked")
    mistake = max(subjects.mutants(kata), key=lambda mutant: len(mutant.caught_by))
    yield unheld(kata, f"mistake {mistake.name}", runs, f"--subject=reference:{mistake.name}", "--unblocked")


def unheld(kata: Kata, name: str, runs: int, *arguments: str) -> Row:
    done = outcomes(kata, runs, *arguments)
    results = (result for outcome in done for result in outcome.with_verdict(*UNHELD))
    return row(kata.name, name, [outcome.seconds for outcome in done], results)


def load(kata: Kata, runs: int, busy: int) -> Load:
    with Bench(kata) as bench, bench.busy(busy):
        done = bench.all([Run("load", ("--subject=reference",))] * runs, 1, lambda outcome: None)
    for outcome in done:
        assert not outcome.problem, outcome.problem
    seconds = [outcome.seconds for outcome in done]
    return Load(
        *(kata.name, runs, busy, sum(len(outcome.results) for outcome in done)),
        sum(len(outcome.unheld) for outcome in done),
        [outcome.seed for outcome in done if outcome.unheld],
        *(round(figure, 2) for figure in (statistics.median(seconds), max(seconds))),
    )


def show(found: Row) -> None:
    print(
        "".join(f"{value!s:>{width}}" for value, width in zip(asdict(found).values(), widths(), strict=True)),
        flush=True,
    )


def widths() -> Iterator[int]:
    yield from (14, 26, *(9 for _ in COLUMNS[2:]))


def main() -> None:
    known = katas.catalogue()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("katas", nargs="*", metavar="KATA", help="all of them if none is named")
    parser.add_argument("--runs", type=int, default=5, help="of each subject, for its median (5)")
    parser.add_argument("--load-runs", type=int, default=0, help="of the reference beside busy processes (0)")
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside those (4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    chosen = [known[name] for name in options.katas or known]
    print("".join(f"{column:>{width}}" for column, width in zip(COLUMNS, widths(), strict=True)))
    rows, loads = [floor(options.runs)], []
    show(rows[0])
    for kata in chosen:
        for found in (reference(kata, options.runs), *broken(kata, options.runs)):
            rows.append(found)
            show(found)
    for kata in chosen if options.load_runs else []:
        loads.append(load(kata, options.load_runs, options.busy))
        print(
            f"{kata.name}: {loads[-1].wrong} of {loads[-1].verdicts} verdicts wrong in {options.load_runs} runs beside "
            f"{options.busy} busy processes; a run {loads[-1].run_s} s, at most {loads[-1].slowest} s; "
            f"seeds of the wrong ones: {loads[-1].seeds}",
            flush=True,
        )
    if options.json:
        figures = {"rows": [asdict(each) for each in rows], "load": [asdict(each) for each in loads]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
