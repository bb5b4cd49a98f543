"""HTTP requests as the harness makes them: against uvicorn and http.server, and against bytes that are no HTTP."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import h11
import pytest

from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.http1 import Client, Reader, Request, Response
from harness.wire.tcp import Connection

from .foreign import http_server

SERVERS = ("asgi.py", "stdlib.py")

WHOLE = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok": (200, b"ok"),
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok": (200, b"ok"),
    b"HTTP/1.1 201 Created\r\ncontent-length:0\r\n\r\n": (201, b""),
    b"HTTP/1.1 204 No Content\r\n\r\n": (204, b""),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok": (200, b"ok"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: t\r\n\r\n": (
        200,
        b"ok",
    ),
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\n\0\r\n": (500, b"\0\r\n"),
}

ENDED_BY_THE_CLOSE = {
    b"HTTP/1.1 200 OK\r\n\r\nok": (200, b"ok"),
    b"HTTP/1.0 200 OK\r\n\r\n": (200, b""),
}

NO_HTTP = {
    "silence": b"",
    "another protocol": b'INFO {"version":"1.0.0"}\r\n\r\n',
    "only a body": b'{"id": 1}\r\n\r\n',
    "no version": b"200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a header without colon": b"HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nok",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "a length in words": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "chunk size in words": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsix\r\nabcdef\r\n0\r\n\r\n",
    "chunk longer than said": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcdef\r\n0\r\n\r\n",
    "cut in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    "cut between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    "cut before the last CRLF": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    "an interim response alone": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.fixture(scope="module", params=SERVERS)
def server(scratch, request) -> Iterator[Solution]:
    with http_server(scratch, request.param) as solution:
        yield solution


@pytest.fixture
def solution(server) -> Iterator[Solution]:
    server.begin()
    yield server
    server.conclude()


def get(solution, target: str) -> Request:
    return Request(solution, "client", "GET", target, [])


# -- against servers that nobody here wrote -------------------------------------------------------------------------


def test_a_request_arrives_as_it_was_made(solution):
    headers = [("Idempotency-Key", '"k 1"'), ("X-Latin", "caf\xe9")]
    reply = Request(solution, "client", "POST", "/echo", headers, b'{"a": 1}').response()

    told = reply.json()
    host, port = solution.address
    assert (reply.status, reply.header("Content-Type")) == (200, "application/json")
    assert (told["method"], told["target"], told["body"]) == ("POST", "/echo", '{"a": 1}')
    assert {"host": f"{host}:{port}", "idempotency-key": '"k 1"', "x-latin": "caf\xe9"}.items() <= told[
        "headers"
    ].items()


def test_an_empty_post_says_so(solution):
    told = Request(solution, "client", "POST", "/echo", []).response().json()
    assert told["headers"]["content-length"] == "0"


def test_a_chunked_response_is_put_together(solution):
    reply = get(solution, "/chunked/300").response()
    assert reply.header("transfer-encoding") == "chunked"
    assert reply.body == b"".join(b"chunk %d\n" % number for number in range(300))


def test_a_big_response_is_complete(solution):
    assert get(solution, "/big/3000000").response().body == b"x" * 3_000_000


@pytest.mark.parametrize("status", [200, 204, 304, 404, 503])
def test_status_and_headers(solution, status):
    reply = get(solution, f"/status/{status}").response()
    assert (reply.status, reply.body) == (status, b"")
    assert (reply.header("X-Twice"), reply.header("x-name"), reply.header("x-none")) == ("a", "b", None)


def test_a_response_is_complete_although_the_connection_stays_open(solution):
    request = get(solution, "/big/10")
    solution.until(lambda: request.complete, "a response")
    assert not request.connection.ended


def test_a_server_may_close_after_its_response(solution):
    request = get(solution, "/closing")
    solution.until(lambda: request.connection.ended, "an end")
    assert request.response().body == b"ok"


def test_requests_do_not_wait_for_each_other(solution):
    requests = [get(solution, f"/big/{100 + number}") for number in range(5)]
    assert [len(request.response().body) for request in requests] == [100 + number for number in range(5)]


def test_what_was_not_sent_is_waited_for_by_the_server(solution):
    request = Request(solution, "client", "POST", "/echo", [], b"0123456789", missing=4)
    solution.settled()
    assert not request.answered

    request.connection.send(b"abcd")

    assert request.response().json()["body"] == "012345abcd"


def test_a_hung_up_request_leaves_the_server_well(solution):
    Request(solution, "client", "POST", "/echo", [], b"0123456789", missing=4).hang_up()
    assert get(solution, "/big/10").response().body == b"x" * 10


def test_a_body_may_end_with_the_connection(scratch):
    with http_server(scratch, "stdlib.py") as solution:
        assert get(solution, "/old").response().body == b"until the end"


def test_a_response_is_waited_for_although_the_handshake_was_dropped(scratch):
    """http.server lets 5 connections wait to be accepted; the kernel drops what else comes, and tries again later."""
    with http_server(scratch, "stdlib.py") as solution:
        solution.process.signal_group(signal.SIGSTOP)
        requests = [get(solution, "/big/10") for _ in range(9)]
        solution.process.signal_group(signal.SIGCONT)
        assert [request.response().body for request in requests] == [b"x" * 10] * 9


def test_a_client_keeps_its_connection(solution):
    client = Client(solution, "client")
    assert [client.request("GET", f"/big/{size}").body for size in (3, 4)] == [b"xxx", b"xxxx"]
    assert client.connections == 1


def test_a_client_leaves_a_connection_whose_process_was_killed(scratch):
    """Also when the end of it has not come yet."""
    with http_server(scratch, "asgi.py") as solution:
        client = Client(solution, "client")
        client.request("GET", "/big/3")
        (connection,) = solution.network.parties(Connection)
        connection.stop_reading()
        solution.kill()
        solution.restart(same_port=True)
        assert not connection.ended

        assert client.request("GET", "/big/4").body == b"xxxx"


# -- against bytes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "expected"), WHOLE.items(), ids=range(len(WHOLE)))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_response_is_read_however_it_is_cut(script, data, expected, size):
    request = get(script, "/")
    script.play(*(data[at : at + size] for at in range(0, len(data), size)))

    reply = request.response()

    assert (reply.status, reply.body) == expected
    assert [event.head for event in script.record.events if event.kind == "message"][-1] == data


@pytest.mark.parametrize(("data", "expected"), ENDED_BY_THE_CLOSE.items(), ids=["1.1", "1.0"])
def test_a_response_without_a_length_ends_with_the_connection(script, data, expected):
    request = get(script, "/")
    script.play(data, ending="fin")

    reply = request.response()

    assert (reply.status, reply.body) == expected


def test_a_body_may_arrive_together_with_the_end_that_ends_it(script):
    connection = Connection.to(script.network, script.address, "client", "server")
    script.play(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", ending="fin")
    script.until(lambda: connection.eof, "the end")
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("Host", "server")]))
    http.send(h11.EndOfMessage())

    assert Reader(connection, http).read().body == b"until the end"


@pytest.mark.parametrize("ending", ["fin", "reset"])
@pytest.mark.parametrize("data", NO_HTTP.values(), ids=NO_HTTP)
def test_what_is_no_http_is_refused(script, data, ending):
    request = get(script, "/")
    script.play(data, ending=ending)

    with pytest.raises(Broken, match="client is owed a response; "):
        request.response()


def test_a_reset_does_not_end_a_body_without_a_length(script):
    request = get(script, "/")
    script.play(b"HTTP/1.1 200 OK\r\n\r\nhalf of it", ending="reset")

    with pytest.raises(Broken, match="the connection was closed instead"):
        request.response()


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_an_end_without_a_byte_is_told_as_such(script, ending):
    request = get(script, "/")
    script.play(ending=ending)

    with pytest.raises(Broken, match="client is owed a response; the connection was closed instead"):
        request.response()


def test_a_refused_connection_is_an_owed_response(script):
    script.listener.close()

    with pytest.raises(Broken, match="client is owed a response"):
        get(script, "/").response()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"<html>"])
def test_a_body_that_is_no_json_is_a_broken_promise(body):
    with pytest.raises(Broken, match="the body of the 201 is no JSON"):
        Response(201, [], body).json()


def test_only_what_is_announced_to_be_missing_is_missing(script):
    Request(script, "client", "POST", "/payments", [("A", "b")], b"0123456789", missing=3)
    data = script.drain(script.accept())

    head, _, body = data.partition(b"\r\n\r\n")
    host, port = script.address
    lines = [b"POST /payments HTTP/1.1", f"Host: {host}:{port}".encode(), b"A: b", b"Content-Length: 10"]
    assert head.split(b"\r\n") == lines
    assert body == b"0123456"
