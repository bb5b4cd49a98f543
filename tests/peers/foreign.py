"""Servers that nobody here wrote, launched as solutions are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness import kata as katas
from harness import subjects
from harness.kata import Kata
from harness.solution.program import Solution
from harness.solution.scratch import Scratch
from harness.subjects import Subject

SERVERS = Path(__file__).parent / "servers"
ORACLES = Path(__file__).parents[1] / "oracles"
NO_KATA = Kata(path=SERVERS / "kata.toml", name="foreign", title="", summary="", speaks="", hours="", start="")


def require(command: str, package: str) -> None:
    """Skip the test where a foreign program is missing, or fail it where all of them are promised to be there."""
    if shutil.which(command):
        return
    why = f"{command} is not installed; on Debian: apt install {package}"
    if os.environ.get("REQUIRE_ORACLES") == "1":
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def running(kata: Kata, subject: Subject, scratch: Scratch, environment: dict[str, str]) -> Iterator[Solution]:
    solution = Solution(kata, subject, environment, [], scratch)
    try:
        solution.until_ready()
        yield solution
    finally:
        solution.close()


@contextmanager
def nats_server(scratch: Scratch, **environment: str) -> Iterator[Solution]:
    require("nats-server", "nats-server")
    kata = katas.shipped("pubsub")
    subject = subjects.from_path(kata, ORACLES / "nats_server.py")
    with running(kata, subject, scratch, environment) as solution:
        yield solution


@contextmanager
def http_server(scratch: Scratch, file: str) -> Iterator[Solution]:
    """One of the files in `servers`, by name."""
    subject = Subject(file, SERVERS, ("python", file))
    with running(NO_KATA, subject, scratch, {}) as solution:
        yield solution


@contextmanager
def websockets_server(scratch: Scratch, **environment: str) -> Iterator[Solution]:
    pytest.importorskip("websockets", reason="websockets is not installed")
    kata = katas.shipped("websocket")
    subject = subjects.from_path(kata, ORACLES / "websockets_library.py")
    with running(kata, subject, scratch, environment) as solution:
        yield solution
