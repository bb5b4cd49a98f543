"""The servers behind a balancer that the harness plays, against HTTP clients that nobody here wrote, and raw bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from clients.http import CLIENTS, HttpClient, missing

from harness.peers.upstreams import Arrival, Upstream, Upstreams
from harness.wire.raw_http import chunks

from .stage import PATIENCE, Stage


class Behind(Stage):
    """A stage with the settings of a kata."""

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.settings = settings


@pytest.fixture(scope="module")
def stage() -> Iterator[Behind]:
    stage = Behind()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def lasting(stage) -> Upstreams:
    return Upstreams(stage)


@pytest.fixture
def upstreams(lasting) -> Upstreams:
    lasting.begin()
    return lasting


@pytest.fixture
def upstream(upstreams) -> Upstream:
    return upstreams.each[1]


@pytest.fixture(params=CLIENTS)
def client(stage, upstream, open_until_the_end: ExitStack, request) -> HttpClient:
    if why := missing(request.param):
        pytest.skip(why)
    url = "http://{}:{}".format(*upstream.listener.address)
    return open_until_the_end.enter_context(HttpClient(request.param, stage.turn, url))


def raw(upstream: Upstream) -> socket.socket:
    return socket.create_connection(upstream.listener.address, PATIENCE)


# -- clients that nobody here wrote ---------------------------------------------------------------------------------


def test_a_request_is_answered_with_its_body_or_its_target(client, upstreams, upstream):
    client.begin({"path": "/x", "body": "hello", "headers": {"X-Name": "value"}}, {"method": "GET", "path": "/none"})
    posted, got = client.outcomes()
    assert (posted.status, posted.body, posted.headers["x-upstream"]) == (200, "hello", "b")
    assert (got.status, got.body) == (200, "/none")
    first, second = upstream.arrivals
    assert (first.method, first.target, first.body, first.all("x-name")) == ("POST", "/x", b"hello", ["value"])
    assert (second.method, second.target, second.complete, second.answered) == ("GET", "/none", True, True)
    assert upstreams.counts() == [0, 2, 0]
    assert not upstreams.offences


def test_a_connection_is_used_again(client, upstream):
    client.begin(*({"path": f"/{number}", "body": f"body {number}"} for number in range(5)))
    assert [outcome.body for outcome in client.outcomes()] == [f"body {number}" for number in range(5)]
    most = 2 if client.name == "with_fetch.mjs" else 1  # fetch opens a second one if the first is not yet at rest
    assert len({arrival.line for arrival in upstream.arrivals}) <= most


def test_a_response_comes_in_chunks_and_pieces(client, upstreams):
    def serve(arrival: Arrival) -> None:
        arrival.begin(201, "Transfer-Encoding: chunked", then=b"5\r\nfirst\r\n")
        arrival.send(chunks(b" and ", b"last"))
        arrival.finish()

    with upstreams.serving(serve):
        outcome = client.send(path="/")
    assert (outcome.status, outcome.body) == (201, "first and last")


def test_a_response_is_held_and_released(stage, client, upstreams):
    with upstreams.holding():
        client.begin({"path": "/", "body": "held"})
        (arrival,) = upstreams.until_held()
        assert arrival.waits
        assert upstreams.counts() == [0, 1, 0]
    assert client.outcome().body == "held"


def test_close_is_said_and_done(stage, client, upstream):
    if client.name == "with_fetch.mjs":
        pytest.skip("fetch does not let its caller set Connection")
    assert client.send(path="/", headers={"Connection": "close"}).status == 200
    stage.until(lambda: upstream.arrivals[0].gone, "the connection to be closed")


def half_and_reset(arrival: Arrival) -> None:
    arrival.begin(200, "Content-Length: 20", then=b"half of it")
    arrival.drop()


def half_and_end(arrival: Arrival) -> None:
    arrival.begin(200, "Transfer-Encoding: chunked", then=b"a\r\nhalf of it\r\n")
    arrival.close()


@pytest.mark.parametrize("serve", [Arrival.drop, Arrival.close, half_and_reset, half_and_end])
def test_what_breaks_off_is_an_error_to_the_client(client, upstreams, serve):
    with upstreams.serving(serve):
        assert client.send(path="/").error


def test_who_is_down_refuses(client, upstream):
    with upstream.down():
        assert client.send(path="/").error
    assert client.send(path="/").status == 200


# -- raw bytes ------------------------------------------------------------------------------------------------------


def test_who_is_unreachable_neither_accepts_nor_refuses(stage, upstream):
    with upstream.unreachable(), socket.socket() as sock:
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.connect(upstream.listener.address)
    with raw(upstream) as sock:
        sock.sendall(b"GET /back HTTP/1.1\r\nHost: x\r\n\r\n")
        stage.until(lambda: upstream.arrivals, "a request")


def test_two_lengths_are_an_offence(stage, upstreams, upstream):
    with raw(upstream) as sock:
        sock.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"abc")
        )
        stage.until(lambda: upstreams.offences, "an offence")
    assert "two lengths" in upstreams.offences[0]


def test_no_http_is_an_offence(stage, upstreams, upstream):
    with raw(upstream) as sock:
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        stage.until(lambda: upstreams.offences, "an offence")
    assert "no HTTP request" in upstreams.offences[0]


def test_pipelined_requests_are_answered_one_after_the_other(stage, upstreams, upstream):
    with upstreams.holding(), raw(upstream) as sock:
        sock.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
        (first,) = upstreams.until_held()
        upstreams.answer(first)
        (second,) = upstreams.until_held()
        assert [first.target, second.target] == ["/1", "/2"]


def test_the_head_and_the_body_of_a_request_are_seen_as_they_come(stage, upstreams, upstream):
    met: list[Arrival] = []
    with upstreams.meeting(met.append), raw(upstream) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        stage.until(lambda: met, "the head")
        assert not met[0].complete
        sock.sendall(b"abc")
        stage.until(lambda: met[0].body == b"abc", "a half")
        met[0].answer(413, b"early")
        sock.sendall(b"def")
        stage.until(lambda: met[0].complete, "the rest")
        stage.until(lambda: upstream.open_lines[-1].arrival is None, "the next request to be awaited")


def test_checks_are_held_until_they_are_answered():
    stage = Behind(CHECK_INTERVAL_MS="20")
    upstreams = Upstreams(stage)
    upstream = upstreams.each[0]
    socks = [raw(upstream) for _ in range(3)]
    for sock in socks[:2]:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    socks[2].sendall(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
    stage.until(lambda: upstream.check and upstream.arrivals, "a check and a request")
    assert upstream.until_check().waits
    assert [arrival.target for arrival in upstream.arrivals] == ["/other"]
    check = upstream.until_check()
    with upstreams.passing_checks(but=upstreams.each[1]):
        assert check.answered
        assert check.line.connection.flushed
    for sock in socks:
        sock.close()
    stage.close()
