"""Programs in isolation, at every level that works here."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.solution.isolation import LEVELS, probe

INSIDE = Path(__file__).with_name("inside.py")
FACTS = Path(__file__).parent / "programs" / "facts.py"
why_not = functools.cache(probe.why_not)


def run(level: int, script: Path, *arguments: int) -> dict[str, Any]:
    """Run a script at a level; see inside.py."""
    words = [sys.executable, "-P", str(INSIDE), str(level), str(script), *map(str, arguments)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    table: dict[str, Any] = json.loads(ended.stdout)
    return table


@pytest.fixture(params=LEVELS, ids=lambda level: f"level {level}", scope="session")
def level(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    if reason := why_not(number):
        pytest.skip(f"level {number} does not work here: {reason}")
    return number


@pytest.fixture(scope="session")
def facts(level: int) -> dict[str, Any]:
    """What a program that only looks around says of the place it is in."""
    ended = run(level, FACTS)
    assert ended["status"] == 0, ended["log"]
    said: dict[str, Any] = ended["said"]
    return said
