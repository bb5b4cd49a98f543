"""Stock HTTP clients, and a load generator, in front of the reference balancer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from harness.peers.upstreams import Upstreams
from harness.solution.program import Solution

from .http import CLIENTS, HttpClient, missing
from .launch import reference

LARGE = 2_000_000


@pytest.fixture(scope="module")
def lasting_balancer() -> Iterator[Solution]:
    with reference("l7_balancer", Upstreams, BALANCE="round_robin", STICKY_COOKIE="lb") as solution:
        yield solution


@pytest.fixture
def balancer(lasting_balancer) -> Solution:
    lasting_balancer.begin()
    return lasting_balancer


@pytest.fixture
def upstreams(balancer) -> Upstreams:
    return balancer.peer(Upstreams)


@pytest.fixture
def url(balancer) -> str:
    return "http://{}:{}".format(*balancer.address)


@pytest.fixture(params=CLIENTS)
def client(balancer, upstreams, url, request) -> Iterator[HttpClient]:
    if why := missing(request.param):
        pytest.skip(why)
    with ExitStack() as stack:
        yield stack.enter_context(HttpClient(request.param, balancer.turn, url))


@pytest.fixture
def session(url) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as session:
        yield session


@pytest.fixture
def meanwhile(balancer) -> Iterator[object]:
    """Carries something out in a thread, while the network of the harness goes on in this one."""
    with ThreadPoolExecutor(1) as pool:

        def run(function, *arguments, **words):
            future: Future = pool.submit(function, *arguments, **words)
            while not future.done():
                balancer.turn(0.001)
            return future.result()

        yield run


def test_requests_are_passed_on_and_back(client, upstreams):
    client.begin(
        *({"path": f"/{number}", "body": f"body {number}", "headers": {"X-Kata": "yes"}} for number in range(6)),
        {"method": "GET", "path": "/got"},
        {"method": "DELETE", "path": "/deleted"},
    )
    outcomes = client.outcomes()
    assert [each.status for each in outcomes] == [200] * 8
    assert [each.body for each in outcomes] == [*(f"body {number}" for number in range(6)), "/got", "/deleted"]
    assert {each.elements("x-kata")[0] for each in upstreams.arrivals[:6]} == {"yes"}
    assert not upstreams.offences


def test_a_reset_is_repeated_for_a_get_and_not_for_a_post(client, upstreams):
    with upstreams.serving(
        lambda arrival: arrival.drop() if len(upstreams.arrivals) == 1 else upstreams.answer(arrival)
    ):
        got = client.send(method="GET", path="/got")
    assert (got.status, got.body, len(upstreams.seen("/got"))) == (200, "/got", 2)
    with upstreams.serving(lambda arrival: arrival.drop()):
        posted = client.send(path="/posted", body="x")
    assert (posted.status, len(upstreams.seen("/posted"))) == (502, 1)


def test_a_response_that_breaks_off_is_an_error(client, upstreams):
    def serve(arrival):
        arrival.begin(200, "Content-Length: 20", then=b"half of it")
        arrival.drop()

    with upstreams.serving(serve):
        assert client.send(path="/half").error


def test_httpx_keeps_the_cookie_and_its_upstream(session, upstreams, meanwhile):
    first = meanwhile(session.get, "/first")
    assert first.cookies["lb"]
    for number in range(5):
        meanwhile(session.get, f"/{number}")
    assert sorted(upstreams.counts()) == [0, 0, 6]


def test_httpx_sends_and_reads_large_bodies(session, upstreams, meanwhile):
    body = bytes(range(256)) * (LARGE // 256)
    assert meanwhile(session.post, "/sized", content=body).content == body
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    assert meanwhile(session.post, "/chunked", content=iter(pieces)).content == body
    assert not upstreams.offences


@pytest.mark.oracle
def test_wrk_finds_no_error_and_the_load_is_even(balancer, upstreams, url):
    if not shutil.which("wrk"):
        (pytest.fail if os.environ.get("REQUIRE_ORACLES") == "1" else pytest.skip)("wrk is not installed")
    command = ["wrk", "--threads", "1", "--connections", "8", "--duration", "1s", f"{url}/load"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        while wrk.poll() is None:
            balancer.turn(0.001)
        told = wrk.communicate()[0]
    assert wrk.returncode == 0
    assert "Non-2xx" not in told
    assert "Socket errors" not in told, told
    number = int(re.search(r"(\d+) requests in", told)[1])
    counts = upstreams.counts()
    assert number > 20
    assert sum(counts) >= number
    assert max(counts) - min(counts) <= 1
    assert sum(each.accepts for each in upstreams.each) < 100, "connections are used again"
