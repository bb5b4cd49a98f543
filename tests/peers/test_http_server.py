"""The HTTP server that the harness plays, against clients that nobody here wrote, and against raw bytes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from clients.http import CLIENTS, HttpClient, missing

from harness.wire.http1 import Incoming, Server

from .stage import PATIENCE, Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def server(stage) -> Server:
    return Server(stage.network, "server", "client", lambda incoming: None)


@pytest.fixture
def heard(server) -> list[Incoming]:
    """The requests that arrived; the test answers them as it likes."""
    arrived: list[Incoming] = []
    server.on_request = arrived.append
    server.faults.clear()
    server.listener.open()
    return arrived


@pytest.fixture
def answering(server, heard) -> list[Incoming]:
    """The same, each answered at once with its own body."""

    def answer(incoming: Incoming) -> None:
        heard.append(incoming)
        incoming.answer(200, incoming.body, "text/plain", [("X-Number", str(len(heard)))])

    server.on_request = answer
    return heard


@pytest.fixture(scope="module")
def started(stage, server, open_until_the_end: ExitStack) -> Callable[[str], HttpClient]:
    running: dict[str, HttpClient] = {}

    def start(name: str) -> HttpClient:
        if why := missing(name):
            pytest.skip(why)
        if name not in running:
            running[name] = open_until_the_end.enter_context(HttpClient(name, stage.turn, server.url))
        return running[name]

    return start


@pytest.fixture(params=CLIENTS)
def client(started, request) -> HttpClient:
    return started(request.param)


# -- clients that nobody here wrote ---------------------------------------------------------------------------------


def test_a_request_arrives_and_its_answer_is_read(client, answering):
    headers = {"Idempotency-Key": '"k 1"', "X-Name": "value"}
    outcome = client.send(path="/v1/charges", headers=headers, body='{"amount": 5}')

    (incoming,) = answering
    assert (incoming.method, incoming.target, incoming.body) == ("POST", "/v1/charges", b'{"amount": 5}')
    assert incoming.header_values("Idempotency-Key") == ['"k 1"']
    assert incoming.header_values("x-name") == ["value"]
    assert (outcome.status, outcome.body, outcome.error) == (200, '{"amount": 5}', "")
    assert (outcome.headers["content-type"], outcome.headers["x-number"]) == ("text/plain", "1")


def test_a_get_without_a_body(client, answering):
    assert client.send(method="GET", path="/none").status == 200
    assert [(incoming.method, incoming.body) for incoming in answering] == [("GET", b"")]


def test_a_connection_is_used_again(client, answering):
    client.begin(*({"path": f"/{number}", "body": f"body {number}"} for number in range(5)))

    assert [outcome.body for outcome in client.outcomes()] == [f"body {number}" for number in range(5)]
    most = 2 if client.name == "with_fetch.mjs" else 1  # fetch opens a second one if the first is not yet at rest
    assert len({incoming.line for incoming in answering}) <= most


def test_a_connection_that_is_to_close_is_closed(stage, client, answering):
    if client.name == "with_fetch.mjs":
        pytest.skip("fetch does not let its caller set Connection")
    client.begin(*({"path": "/", "headers": {"Connection": "close"}} for _ in range(2)))

    outcomes = client.outcomes()
    assert [(outcome.status, outcome.headers["connection"]) for outcome in outcomes] == [(200, "close")] * 2
    assert len({incoming.line for incoming in answering}) == 2
    stage.until(lambda: all(incoming.gone for incoming in answering), "both connections to be closed")


def test_a_big_body_goes_both_ways(client, answering):
    body = "0123456789" * 30_000
    assert client.send(path="/", body=body).body == body


def test_a_client_that_asks_whether_to_continue_is_told_so(started, answering):
    """curl would wait for a second, and send its body anyway."""
    headers = {"Expect": "100-continue"}
    assert started("with_curl.py").send(path="/", headers=headers, body="hello", timeout=0.9).body == "hello"


def test_an_answer_may_come_later(stage, client, heard):
    client.begin({"path": "/"})
    stage.until(lambda: heard, "a request")
    assert heard[0].open
    assert not heard[0].gone

    heard[0].answer(201, b"at last", "text/plain")

    outcome = client.outcome()
    assert (outcome.status, outcome.body) == (201, "at last")
    assert not heard[0].open


@pytest.mark.parametrize("verb", [Incoming.drop, lambda incoming: incoming.answer_cut_off(201, b'{"id": "ch_000001"}')])
def test_a_lost_answer_is_an_error_to_the_client(stage, client, heard, verb):
    client.begin({"path": "/"})
    stage.until(lambda: heard, "a request")

    verb(heard[0])

    outcome = client.outcome()
    assert outcome.error
    assert heard[0].gone


def test_a_client_that_gives_up_is_gone(stage, client, heard):
    client.begin({"path": "/", "timeout": 0.1})

    assert client.outcome().error
    stage.until(lambda: heard and heard[0].gone, "the client to be gone")
    heard[0].answer(200, b"nobody listens")


def test_a_server_that_does_not_listen_refuses(client, server, answering):
    server.close_connections()
    server.listener.close()
    assert client.send(path="/").error
    assert answering == []

    server.listener.open()
    assert client.send(path="/").status == 200


def test_waiting_clients_are_hung_up_on(stage, client, server, heard):
    client.begin({"path": "/"})
    stage.until(lambda: heard, "a request")
    server.close_connections()
    assert client.outcome().error


# -- raw bytes ------------------------------------------------------------------------------------------------------


def test_who_is_gone_before_it_is_accepted_harms_nobody(stage, server, heard, raw):
    with socket.create_connection(server.listener.address, PATIENCE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    stage.until(lambda: heard, "the next request")


class Raw:
    """A client of plain bytes."""

    def __init__(self, stage: Stage, address: Any) -> None:
        self.stage = stage
        self.sock = socket.create_connection(address, PATIENCE)
        self.sock.setblocking(False)
        self.data = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        self.data += data
        self.ended = not data
        return True

    def until(self, happened: Callable[[], object]) -> None:
        def looked() -> object:
            self.read()
            return happened()

        self.stage.until(looked, "the server's bytes")


@pytest.fixture
def raw(stage, server) -> Iterator[Raw]:
    raw = Raw(stage, server.listener.address)
    yield raw
    raw.sock.close()


def post(body: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a", b"Content-Length: %d" % len(body), *lines, b"", body])


def test_pipelined_requests_are_answered_in_their_order(raw, answering):
    raw.send(b"".join(post(b"body %d" % number) for number in range(3)))

    raw.until(lambda: raw.data.count(b"HTTP/1.1 200") == 3 and raw.data.endswith(b"body 2"))

    assert [incoming.body for incoming in answering] == [b"body 0", b"body 1", b"body 2"]
    assert raw.data.index(b"body 0") < raw.data.index(b"body 1") < raw.data.index(b"body 2")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_each_message_is_recorded_with_its_own_bytes(stage, raw, answering, size):
    stage.record.begin()
    requests = [post(b"body %d" % number, b"X-Number: %d" % number) for number in range(3)]
    sent = b"".join(requests)
    for start in range(0, len(sent), size):
        raw.send(sent[start : start + size])
        stage.turn()

    raw.until(lambda: raw.data.count(b"HTTP/1.1 200") == 3 and raw.data.endswith(b"body 2"))

    messages = [event for event in stage.record.events if event.kind == "message"]
    assert [event.head for event in messages if event.target == messages[0].target] == requests
    assert b"".join(event.head for event in messages if event.source == messages[0].target) == raw.data


def test_a_pipelined_request_waits_for_the_answer_before_it(stage, raw, heard):
    raw.send(post(b"first") + post(b"second"))
    stage.until(lambda: heard, "a request")
    stage.turn()
    assert [incoming.body for incoming in heard] == [b"first"]

    heard[0].answer(200, b"1")

    assert [incoming.body for incoming in heard] == [b"first", b"second"]


@pytest.mark.parametrize("size", [1, 5])
def test_a_request_may_come_in_pieces(stage, raw, answering, size):
    data = post(b"hello")
    for at in range(0, len(data), size):
        raw.send(data[at : at + size])
        stage.turn(0.001)

    raw.until(lambda: raw.data.endswith(b"hello"))


def test_a_chunked_request_is_put_together(raw, answering):
    raw.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
    raw.until(lambda: raw.data.endswith(b"hello"))


def test_an_old_client_is_answered_and_closed_on(raw, answering):
    raw.send(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nok")
    raw.until(lambda: raw.ended)
    assert raw.data.endswith(b"\r\n\r\nok")


NO_HTTP = {
    "another protocol": b'CONNECT {"verbose":false}\r\n\r\n',
    "no version": b"POST /\r\nHost: a\r\n\r\n",
    "no host": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a length in words": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: two\r\n\r\n",
    "a header without colon": b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
    "a bad chunk": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nsix\r\n",
}


@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_noted_and_hung_up_on(raw, server, heard, data):
    raw.send(data)
    raw.until(lambda: raw.ended)

    (fault,) = server.faults
    assert fault.startswith("what came is no HTTP request")
    assert heard == []


@pytest.mark.parametrize("cut", [10, 60, 5])
def test_half_a_request_is_none(stage, raw, server, heard, cut):
    raw.send(post(b"hello" * 3)[:-cut])
    stage.turn(0.001)
    raw.sock.shutdown(socket.SHUT_WR)
    raw.until(lambda: raw.ended)
    assert heard == []
