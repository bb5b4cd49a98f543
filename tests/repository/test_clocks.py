"""Nobody sleeps, and few look at clocks: whoever waits asks for an event, a fence or quiet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .sources import Source, is_below, python_files, require_none

SLEEPS = ("time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep")
READINGS = ("time", "monotonic", "perf_counter", "process_time", "clock_gettime")
CLOCKS = tuple(f"time.{clock}{unit}" for clock in READINGS for unit in ("", "_ns"))

MAY_SLEEP: set[str] = set()  # paths below harness and tests, each with its reason
NOT_OURS_TO_RULE = (
    "tests/attacks/submissions",
    "tests/engine/servers",
    "tests/solutions",
)  # programs under test: some sleep on purpose
MAY_READ_CLOCKS = {
    "harness/waiting.py",  # decides how long to wait
    "harness/solution/quiet.py",  # tells what is due from what the kernel shows
    "harness/solution/kernel.py",  # what a process has used, on its own clock
    "harness/solution/thread.py",  # tells when a blocked thread wakes up
    "harness/evidence/replay.py",  # a program that learners take home, without the kit
}


def sleeps(source: Source) -> Iterator[str]:
    for line, name in source.names():
        if is_below(name, *SLEEPS):
            yield f"{source.path}:{line} uses {name}; wait by the means of harness/waiting.py"


def clocks(source: Source) -> Iterator[str]:
    for line, name in source.names():
        if is_below(name, *CLOCKS):
            allowed = ", ".join(sorted(MAY_READ_CLOCKS))
            yield f"{source.path}:{line} uses {name}; only {allowed} may read a clock"


def test_nothing_sleeps():
    files = python_files("harness", "tests", but=NOT_OURS_TO_RULE)
    require_none(problem for source in files if source.path not in MAY_SLEEP for problem in sleeps(source))


def test_clocks_are_read_in_one_part_of_the_harness():
    files = (source for source in python_files("harness") if source.path not in MAY_READ_CLOCKS)
    require_none(problem for source in files for problem in clocks(source))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "import time as t\nt.sleep(1)"),
        (sleeps, "from time import sleep"),
        (sleeps, "from asyncio import sleep as pause"),
        (sleeps, "import asyncio\nasync def f():\n    await asyncio.sleep(0)"),
        (clocks, "import time\nnow = time.monotonic"),
        (clocks, "from time import perf_counter_ns"),
    ],
)
def test_a_sleep_and_a_clock_are_seen(rule, text):
    assert list(rule(Source("harness/example.py", text)))


def test_other_names_are_neither():
    harmless = Source("harness/example.py", "import time\nself.sleep = time.strftime('%Y')\nrow.time = 1")

    assert not [*sleeps(harmless), *clocks(harmless)]
