"""How many submissions are graded in a second, in how much memory, and is a verdict ever wrong?

`python benchmarks/grading.py --number 300` makes up a class from a seed (correct, mistaken, empty and hostile
submissions, packed in different ways), grades it by `kata grade` as a teacher does, and compares each result with what
it has to be. `memory_mb` is the grader's own peak, after the first tenth and in the end: it must not grow.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from harness import kata as katas  # noqa: E402
from harness.grading.asking import Workers  # noqa: E402
from tests.grading import pupils  # noqa: E402
from tests.grading.pupils import Pupil  # noqa: E402

COUNTED = re.compile(rb"\[(\d+)/\d+, ")


def peak_mb(pid: int) -> float:
    """The most memory that a process has held so far, in megabytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def grade(words: list[str], number: int) -> tuple[float, list[float]]:
    """Seconds for the whole batch; the grader's peak of memory after a tenth and at the end of the submissions."""
    peaks: list[float] = []
    before = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            counted = COUNTED.match(line)
            if counted and int(counted[1]) in (max(number // 10, 1), number):
                peaks.append(peak_mb(process.pid))
                print(line.decode().strip(), flush=True)
    seconds = time.perf_counter() - before
    assert process.returncode in (0, 1), f"kata grade ended with status {process.returncode}"
    return seconds, peaks


def wrong_verdicts(made: list[Pupil], results: Path) -> list[str]:
    tables = (json.loads((results / f"{pupil.name}.json").read_text(encoding="utf-8")) for pupil in made)
    found = (pupils.wrong(pupil, table) for pupil, table in zip(made, tables, strict=True))
    return [problem for problem in found if problem]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="?", default=next(iter(katas.catalogue())), help="a kata of this clone")
    parser.add_argument("--number", type=int, default=300, help="of submissions (300)")
    parser.add_argument("--seed", type=int, default=1, help="of the class, and of the grading (1)")
    parser.add_argument("--jobs", type=int, default=Workers().size, help="at a time (as `kata grade` has it)")
    parser.add_argument("--isolation", type=int, help="the level (the best there is)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
        submissions, out = Path(folder, "submissions"), Path(folder, "out")
        made = pupils.make(katas.shipped(options.kata), submissions, options.number, options.seed)
        print(", ".join(f"{number} {kind}" for kind, number in Counter(each.kind.split()[0] for each in made).items()))
        words = [sys.executable, "-m", "harness.commands", "grade", options.kata, str(submissions), "--out", str(out)]
        words += ["--jobs", str(options.jobs), "--seed", str(options.seed)]
        words += [] if options.isolation is None else ["--isolation", str(options.isolation)]
        seconds, peaks = grade(words, options.number)
        problems = wrong_verdicts(made, out / "results")
        level = json.loads((out / "grading.json").read_text(encoding="utf-8"))["isolation"]
    figures = {
        "kata": options.kata,
        "submissions": options.number,
        "jobs": options.jobs,
        "isolation": level,
        "seconds": round(seconds, 1),
        "per_second": round(options.number / seconds, 2),
        "memory_mb": [round(peak, 1) for peak in peaks],
        "wrong": problems,
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
