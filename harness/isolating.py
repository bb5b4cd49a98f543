"""`--isolation`: from what was asked for to the level that is used, and what is said of it in the end."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.solution.isolation import LEVELS
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from harness.solution.isolation.sandbox import Isolation

BEST = "best"


def add_option(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--isolation",
        metavar="LEVEL",
        choices=(*map(str, LEVELS), BEST),
        help="run the program, its build and its restarts at this level of isolation, 0 to 3 (`kata doctor` shows "
        "which work here), or at the best; without it a program may do what you may do",
    )


def chosen(config: pytest.Config) -> Isolation | None:
    """The isolation of this run, None when none is wanted. From here on, the option is the level really used."""
    wanted = config.getoption("isolation")
    if wanted is None or config.option.collectonly or config.option.help:
        return None
    if hasattr(config, "workerinput") or getattr(config.option, "dist", "no") != "no":
        raise pytest.UsageError("--isolation judges one submission in one process; leave out -n")
    from harness.solution.isolation import probe  # a practice run has no need of all that
    from harness.solution.isolation.sandbox import Isolation

    try:
        level = probe.best() if wanted == BEST else int(wanted)
        config.option.isolation = str(level)
        return Isolation(level)
    except Unusable as problem:
        raise pytest.UsageError(str(problem)) from None


def lines(isolation: Isolation) -> list[str]:
    """What is said below the map of a run."""
    found = isolation.findings
    said = [f"isolation: level {found.level}, {LEVELS[found.level]}"]
    said += [f"tampering: {words}" for words in found.tampering]
    return said + [f"isolation: {words}" for words in found.left]


def write_results(path: Path, table: dict[str, Any]) -> None:
    """Replace `path` in one step: what was there before, a link above all, is neither followed nor kept open."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o644), "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1)
    os.replace(fresh, path)
