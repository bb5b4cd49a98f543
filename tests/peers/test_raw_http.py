"""The raw client of HTTP/1.1: against uvicorn and http.server, and against bytes that break the rules of responses."""

from __future__ import annotations

import h11
import pytest

from harness.verdicts import Broken
from harness.wire.raw_http import RawClient, as_sent, chunks, head, request

from .foreign import http_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

BROKEN = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n",
    "a bare LF in the head": b"HTTP/1.1 200 OK\nContent-Length: 2\n\r\n\r\nok",
    "no blank behind the status": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "a folded field": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a length in a 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "a coding in a 100": b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n" + OK,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "a chunk size in words": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ntwo\r\nok\r\n0\r\n\r\n",
    "a head that does not end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17),
}

CUT = {
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
}


@pytest.fixture(params=["asgi.py", "stdlib.py"])
def server(scratch, request):
    with http_server(scratch, request.param) as solution:
        yield solution


# -- against servers that nobody here wrote -------------------------------------------------------------------------


def test_one_request_after_the_other(server):
    client = RawClient(server, "client")
    told = client.ask(request("POST", "/echo", "X-Twice: a", body=b"hello")).json()
    assert (told["method"], told["target"], told["body"]) == ("POST", "/echo", "hello")
    assert (told["headers"]["x-twice"], told["headers"]["content-length"]) == ("a", "5")
    assert client.ask(request("GET", "/big/70000")).body == b"x" * 70_000
    assert client.ask(request("GET", "/chunked/3")).end == "chunks"


def test_several_requests_at_once(server):
    client = RawClient(server, "client")
    client.send(b"".join(request("GET", f"/big/{number}") for number in range(1, 9)))
    assert [len(reply.body) for reply in client.responses(8)] == list(range(1, 9))


def test_statuses_without_a_body(server):
    client = RawClient(server, "client")
    client.send(request("GET", "/status/304") + request("GET", "/big/2"))
    first, second = client.responses(2)
    assert (first.status, first.body, first.end) == (304, b"", "none")
    assert second.body == b"xx"


def test_an_end_after_the_last_response(server):
    client = RawClient(server, "client")
    client.send(request("POST", "/echo", "Connection: close", body=b"last"))
    (reply,) = client.until_end()
    assert reply.json()["body"] == "last"


def test_a_request_that_is_none_is_refused(scratch):
    with http_server(scratch, "asgi.py") as server:
        client = RawClient(server, "client")
        client.send(b"GET /echo\x01 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert [reply.status for reply in client.until_end()] == [400]


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_requests_are_read_by_another_parser():
    other = h11.Connection(h11.SERVER)
    other.receive_data(head("PUT", "/x", "Transfer-Encoding: chunked") + chunks(b"one", trailers=("X-Sum: 1",)))
    assert other.next_event().target == b"/x"
    assert bytes(other.next_event().data) == b"one"
    assert list(other.next_event().headers) == [(b"x-sum", b"1")]
    other = h11.Connection(h11.SERVER)
    other.receive_data(request("POST", "/x", "X-Y: z", body=b"body") + request("GET", "/next"))
    event = other.next_event()
    assert list(event.headers) == [(b"host", b"kata.example"), (b"x-y", b"z"), (b"content-length", b"4")]
    assert bytes(other.next_event().data) == b"body"


def test_chunks_end_with_an_empty_line():
    assert chunks(b"hello") == b"5\r\nhello\r\n0\r\n\r\n"
    assert chunks(trailers=("X: y",)) == b"0\r\nX: y\r\n\r\n"


def test_every_byte_is_shown():
    assert as_sent(b"GET\x00 /\xff\r\n\n") == "GET\\x00 /\\xff␍␊\\n"
    assert as_sent(b"x" * 5000).endswith("… (5000 bytes)")


# -- what comes back, as bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_responses_are_read_however_they_are_cut(script, size):
    data = b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + OK
    client = RawClient(script, "client")
    client.send(request("GET", "/") + request("HEAD", "/") + request("GET", "/"), "GET", "HEAD", "GET")
    script.play(*(data[at : at + size] for at in range(0, len(data), size)))
    first, second, third = client.responses(3)
    assert [(reply.body, reply.interim, reply.end) for reply in (first, second, third)] == [
        (b"ok", (100,), "length"),
        (b"", (), "none"),
        (b"ok", (), "length"),
    ]


def test_an_interim_response_is_not_the_final_one(script):
    client = RawClient(script, "client")
    script.play(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.until_interim()
    assert (client.interim, client.answered) == ([100], 0)


def test_a_final_response_is_no_interim_one(script):
    client = RawClient(script, "client")
    script.play(OK)
    with pytest.raises(Broken, match="owed 100 Continue, and came 200 ok"):
        client.until_interim()


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_rules_is_told(script, data):
    client = RawClient(script, "client")
    script.play(data)
    with pytest.raises(Broken, match="client is owed a response; "):
        client.response()


@pytest.mark.parametrize("ending", ["fin", "reset"])
@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
def test_half_a_response_is_none(script, data, ending):
    client = RawClient(script, "client")
    script.play(OK + data, ending=ending)
    assert client.response().body == b"ok"
    with pytest.raises(Broken, match="owed a response"):
        client.response()


def test_a_body_may_end_with_the_connection(script):
    client = RawClient(script, "client")
    script.play(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", ending="fin")
    assert (reply := client.response()).body == b"until the end"
    assert reply.end == "close"


def test_nothing_may_follow_a_response_that_says_close(script):
    client = RawClient(script, "client")
    script.play(b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok" + OK)
    assert client.response().closes
    with pytest.raises(Broken, match="bytes came after a response that said close"):
        client.response()


def test_a_body_in_the_answer_to_head_is_told(script):
    client = RawClient(script, "client")
    client.send(request("HEAD", "/"), "HEAD")
    script.play(OK, ending="fin")
    assert client.response().body == b""
    with pytest.raises(Broken, match="the connection ends in the middle of a response"):
        client.until_end()


def test_a_reset_behind_an_end_is_seen_by_writing(script):
    client = RawClient(script, "client")
    sock = script.accept()
    sock.sendall(OK)
    sock.close()
    client.until_end()
    script.until(lambda: client.send(b"more") or client.connection.was_reset, "a reset")
    assert client.connection.was_reset


def test_a_response_is_seen_while_it_comes(script):
    client = RawClient(script, "client")
    client.send(request("GET", "/"), "GET")
    sock = script.accept()
    assert (client.status, client.so_far) == (0, b"")
    sock.sendall(b"HTTP/1.1 207 Multi-Status\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha")
    script.until(lambda: client.so_far, "a piece")
    assert (client.status, client.so_far, client.answered) == (207, b"ha", 0)
    sock.sendall(b"lf\r\n3\r\n it\r\n0\r\n\r\n")
    script.until(lambda: client.answered, "the rest")
    assert (client.status, client.so_far) == (207, b"half it")
    assert client.response().body == b"half it"
    assert (client.status, client.so_far) == (0, b"")
