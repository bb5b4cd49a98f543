"""What was said in one behaviour, as plain rows that cross processes: the common ground of two programs' stories."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from harness.story.record import Record

Row = list[str]  # source, target, label
UNTOLD = {"open", "broken", "owed"}


def rows(record: Record) -> list[Row]:
    """What happened, without the verdict on it."""
    return [[event.source, event.target, _text(event.label)] for event in record.events if event.kind not in UNTOLD]


def _text(label: Any) -> str:
    return str(label() if callable(label) else label)


# As a plugin of its own (`-p harness.evidence.exchange --exchanges=FILE`) it writes the rows of the behaviour it meets.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exchanges", type=Path, help=f"used by --compare: {__doc__}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        file: Path = pyfuncitem.config.getoption("exchanges")
        if solution := getattr(pyfuncitem, "solution", None):
            file.write_text(json.dumps(rows(solution.record)), encoding="utf-8")
