"""Stock clients against the reference of the kata: grpcio's, and that of Node, @grpc/grpc-js."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from harness.peers.carrier import Carrier, tracking_of
from harness.solution.program import Solution

from .child import Child
from .launch import reference

PROTOS = Path(__file__).parents[2] / "katas" / "grpc"
CLIENTS = ("with_grpcio.py", "with_grpc_js.mjs")
COMMAND = "proto-loader-gen-types"  # comes with the packages of the second
LIMIT = 50_000
numbers = count(1)


@pytest.fixture(scope="module")
def depot() -> Iterator[Solution]:
    with reference("grpc", Carrier, MAX_MESSAGE=str(LIMIT), RETRY_MS="4") as solution:
        yield solution


@pytest.fixture
def carrier(depot) -> Carrier:
    depot.begin()
    return depot.peer(Carrier)


@pytest.fixture(params=CLIENTS)
def client(request, depot) -> Iterator[Child]:
    if request.param.endswith(".mjs") and not shutil.which(COMMAND):
        why = f"{COMMAND} is not installed: npm install --global @grpc/grpc-js @grpc/proto-loader grpc-health-check"
        if os.environ.get("REQUIRE_ORACLES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    host, port = depot.address
    with Child(request.param, depot.turn, TARGET=f"{host}:{port}", PROTOS=str(PROTOS)) as child:
        yield child


@pytest.mark.oracle
def test_all_kinds_of_calls(client, carrier):
    sku = f"tea-{next(numbers)}-é"
    assert client.ask(["deliver", [sku, 5], [sku, 7]]) == [2, 12]
    reserved = client.ask(["reserve", f"{sku}-1", sku, 4, 5, "trace-1"])
    assert (reserved["tracking"], reserved["trace"]) == (tracking_of(f"{sku}-1"), "trace-1")
    assert client.ask(["reserve", f"{sku}-1", sku, 4])["id"] == reserved["id"], "a retry gets what was made"
    assert client.ask(["watch", sku]) == 8
    assert client.ask(["pick", [sku, 3], [sku, 9]]) == [[3, 5], [5, 0]]
    assert client.ask(["health", "depot.v1.Depot"]) == "SERVING"


@pytest.mark.oracle
def test_errors_can_be_read(client, carrier):
    sku = f"tea-{next(numbers)}"
    client.ask(["deliver", [sku, 5]])
    refused = client.ask(["reserve", f"{sku}-1", sku, 6])
    assert (refused["code"], refused["available"]) == ("FAILED_PRECONDITION", "5")
    assert client.ask(["watch", "Ω-100%"]) == {"code": "NOT_FOUND", "message": "there is no Ω-100%"}
    assert client.ask(["reserve", "", sku, 0])["code"] == "INVALID_ARGUMENT"
    assert client.ask(["deliver", ["x" * LIMIT, 1]])["code"] == "RESOURCE_EXHAUSTED"
    assert client.ask(["health", "nothing"])["code"] == "NOT_FOUND"


@pytest.mark.oracle
def test_a_deadline_reaches_the_carrier(client, carrier):
    sku = f"tea-{next(numbers)}"
    client.ask(["deliver", [sku, 5]])
    with carrier.holding():
        refused = client.ask(["reserve", f"{sku}-1", sku, 5, 0.3])
        assert refused["code"] == "DEADLINE_EXCEEDED"
        client.until(lambda: not carrier.waiting_now, "a cancelled call at the carrier")
    assert client.ask(["reserve", f"{sku}-1", sku, 5])["tracking"] == tracking_of(f"{sku}-1")
