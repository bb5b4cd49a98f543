"""The reference gateway between a stock HTTP client and a real redis-server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import redis
from peers.redis_server import redis_server

from harness import kata as katas
from harness import subjects
from harness.peers.redis import PASSWORD
from harness.solution.program import Solution
from harness.solution.scratch import Scratch

pytestmark = pytest.mark.oracle


@pytest.fixture
def server(tmp_path) -> Iterator[redis.Redis]:
    with redis_server(tmp_path) as (host, port), redis.Redis(host, port, password=PASSWORD) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[httpx.Client]:
    where = server.connection_pool.connection_kwargs
    environment = {
        "UPSTREAM_HOST": where["host"],
        "UPSTREAM_PORT": str(where["port"]),
        "UPSTREAM_PASSWORD": PASSWORD,
        "POOL_MAX": "3",
    }
    kata, scratch = katas.shipped("connection_pool"), Scratch()
    gateway = Solution(kata, subjects.reference(kata), environment, [], scratch)
    try:
        gateway.until_ready()
        host, port = gateway.address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        gateway.close()
        scratch.close()


def others(server: redis.Redis) -> list[str]:
    """The gateway's connections, by address."""
    own = server.client_id()
    return [each["addr"] for each in server.client_list() if int(each["id"]) != own]


def test_values_make_the_round_trip(client, server):
    assert client.get("/kv/none").status_code == 404
    assert client.put("/kv/k", content=b"\r\n\0\xff").status_code == 204
    assert client.get("/kv/k").content == server.get("k") == b"\r\n\0\xff"
    assert [client.post("/counter/c").text for _ in range(3)] == ["1", "2", "3"]
    assert client.post("/swap/k", content=b"new").content == b"\r\n\0\xff"
    assert server.get("k") == b"new"
    server.set("text", "x")
    assert client.post("/counter/text").status_code == 502
    assert len(others(server)) == 1


def test_never_more_than_pool_max_connections(client, server):
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda number: client.post("/counter/n").text, range(60)))
    assert sorted(map(int, answers)) == list(range(1, 61))
    assert 1 <= len(others(server)) <= 3


def test_a_client_that_gives_up_leaves_nothing_for_the_next(client, server):
    server.set("alice", "alice")
    server.set("bob", "bob")
    server.client_pause(300)
    with pytest.raises(httpx.ReadTimeout):
        client.get("/kv/alice", timeout=0.1)
    assert [client.get("/kv/bob").text for _ in range(4)] == ["bob"] * 4


def test_idle_connections_that_are_killed_are_replaced(client, server):
    assert client.post("/counter/n").text == "1"
    for address in others(server):
        server.client_kill(address)
    assert client.post("/counter/n").text == "2"
