"""What does it cost to record what happens, so that a broken behaviour can be told?

`python benchmarks/recording.py` runs each kata's reference and adds up the time that is spent inside of the record,
and measures the cost of one event alone: a small message, one with a label that is made later, and a megabyte.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness import kata as katas  # noqa: E402
from harness.story.record import Record  # noqa: E402

COLUMNS = ("kata", "run_s", "events", "recording_ms", "share_percent")
REPORT = "RECORDING_REPORT"


# -- as a plugin of the measured run


def pytest_configure(config: pytest.Config) -> None:
    """Wrap the one method that records; what the wrapper itself costs is measured and taken off."""
    if REPORT not in os.environ:
        return
    plain, clock = Record.add, time.perf_counter
    spent, events = 0.0, 0

    def add(*arguments: object, **named: object) -> None:
        nonlocal spent, events
        start = clock()
        plain(*arguments, **named)  # type: ignore[arg-type]
        spent += clock() - start
        events += 1

    Record.add = add  # type: ignore[method-assign]
    empty = statistics.median(-(clock() - clock()) for _ in range(1000))

    def report() -> None:
        figures = {"events": events, "seconds": spent - events * empty}
        Path(os.environ[REPORT]).write_text(json.dumps(figures), encoding="utf-8")

    config.add_cleanup(report)


# -- as a program


def measure(kata: str, runs: int) -> dict[str, object]:
    """The median run of the reference: its seconds, its events, and the time that recording took."""
    seconds, figures = [], []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {REPORT: str(report), "PYTHONPATH": paths}
        words = ["-m", "pytest", f"katas/{kata}", "--subject=reference", "-q", "-p", Path(__file__).stem]
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - start)
            figures.append(json.loads(report.read_text(encoding="utf-8")))
    run, spent = statistics.median(seconds), statistics.median(figure["seconds"] for figure in figures)
    values = kata, round(run, 2), figures[-1]["events"], round(spent * 1000, 1), round(100 * spent / run, 2)
    return dict(zip(COLUMNS, values, strict=True))


def microseconds(act: Callable[[Record], None], times: int = 2000) -> float:
    """The median cost of recording one event in that way."""
    costs = []
    for _ in range(5):
        record = Record(time.monotonic)
        record.begin()
        start = time.perf_counter()
        for _ in range(times):
            act(record)
        costs.append((time.perf_counter() - start) / times * 1e6)
    return statistics.median(costs)


def one_event() -> dict[str, float]:
    small, big = b"PUB a 1\r\nx\r\n", bytes(1 << 20)
    ways: dict[str, Callable[[Record], None]] = {
        "small message": lambda record: record.add("message", "alice", "solution", "PUB a 1", small, "alice"),
        "label made later": lambda record: record.add("message", "alice", "solution", partial(str, 1), small, "alice"),
        "a megabyte": lambda record: record.add("message", "alice", "solution", "PUB a", big, "alice"),
    }
    return {name: round(microseconds(act), 2) for name, act in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("katas", nargs="*", metavar="KATA", default=list(katas.catalogue()), help="by default all")
    parser.add_argument("--runs", type=int, default=5, help="of each reference")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    alone = one_event()
    print("us an event: " + ", ".join(f"{name} {cost}" for name, cost in alone.items()))
    print("".join(f"{column:>16}" for column in COLUMNS))
    rows = []
    for kata in options.katas:
        rows.append(measure(kata, options.runs))
        print("".join(f"{value!s:>16}" for value in rows[-1].values()), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"us_an_event": alone, "runs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
