"""Stock NATS clients against the reference of the kata."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest

from harness.solution.program import Solution

from .child import Child
from .launch import reference

LIBNATS = "libnats.so.3.4"


@pytest.fixture
def broker() -> Iterator[Solution]:
    with reference("pubsub") as solution:
        yield solution


def require_libnats() -> None:
    try:
        ctypes.CDLL(LIBNATS)
    except OSError:
        why = f"{LIBNATS} is not installed; on Debian: apt install libnats3.4"
        if os.environ.get("REQUIRE_ORACLES") == "1":
            pytest.fail(why)
        pytest.skip(why)


def converse(broker: Solution, program: str) -> dict:
    host, port = broker.address
    with Child(program, broker.turn, NATS_URL=f"nats://{host}:{port}") as client:
        return client.ask("begin")


EXPECTED = {
    "max_payload": 1048576,
    "wildcards": {"one": ["weather.rome"], "rest": ["weather.rome", "weather.rome.night"]},
    "request_reply": [f"you said {number}" for number in range(20)],
    "queue_group": list(range(60)),
    "auto_unsubscribe": ["0", "1", "2"],
    "no_echo": [["mine", "theirs"], "theirs"],
    "megabyte": [1048576, True, "answer.here"],
    "drain": [50, True],
}


@pytest.mark.oracle
def test_nats_py(broker):
    pytest.importorskip("nats", reason="nats-py is not installed")
    assert converse(broker, "with_nats_py.py") == EXPECTED


@pytest.mark.oracle
def test_libnats(broker):
    require_libnats()
    assert converse(broker, "with_libnats.py") == EXPECTED
