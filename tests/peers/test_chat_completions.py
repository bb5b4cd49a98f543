"""The client of chat completions: against sse-starlette, and against bytes that no client could read."""

from __future__ import annotations

import json

import pytest

from harness.verdicts import Broken
from harness.wire.chat_completions import Completion

from .foreign import http_server

TEXT = 'Hello 😀\n"\u2028[DONE]'  # as servers/chat.py says it
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'


@pytest.fixture(scope="module")
def server(scratch):
    pytest.importorskip("sse_starlette", reason="sse-starlette is not installed")
    with http_server(scratch, "chat.py") as solution:
        yield solution


def ask(solution, kind: str = "good", stream: bool = True, **words) -> Completion:
    body = json.dumps({"stream": stream}).encode()
    return Completion(solution, "client", "POST", f"/{kind}", [("Content-Type", "application/json")], body, **words)


# -- against a server that nobody here wrote ------------------------------------------------------------------------


def test_a_stream_is_read_to_its_end(server):
    completion = ask(server)
    completion.until_stream()
    completion.until_text(TEXT)
    completion.until_done()
    assert (completion.done, completion.complete, completion.reasons) == (True, True, ["stop"])
    assert completion.call_deltas == [{"index": 0, "function": {"arguments": "{}"}}]
    assert completion.chunks[-1] == {"choices": [], "usage": {"total_tokens": 3}}
    assert completion.parser.comments >= 1


def test_a_whole_answer_and_a_refusal_are_read(server):
    reply = ask(server, stream=False).response()
    assert (reply.status, reply.json()["choices"][0]["message"]["content"]) == (200, TEXT)
    reply = ask(server, "refuse").response()
    assert (reply.status, reply.header("retry-after"), reply.json()) == (429, "5", {"error": {"message": "no"}})


def test_an_error_event_is_told(server):
    completion = ask(server, "error")
    completion.until_end()
    assert completion.errors == [{"error": {"message": "out of memory", "type": "server_error"}}]
    assert not completion.done
    with pytest.raises(Broken, match="told an error"):
        completion.until_done()


def test_a_client_of_http_1_0_reads_up_to_the_end_of_the_connection(server):
    completion = ask(server, version="1.0")
    completion.until_done()
    assert (completion.text, completion.header("transfer-encoding")) == (TEXT, "")


def test_another_text_than_is_owed_is_broken(server):
    with pytest.raises(Broken, match="is owed the text 'Hello you'"):
        ask(server).until_text("Hello you")
    with pytest.raises(Broken, match="429 came"):
        ask(server, "refuse").until_stream()
    with pytest.raises(Broken, match="got a stream"):
        ask(server).response()


def test_a_stuck_client_reads_when_it_wants_to(server):
    completion = ask(server, stuck=True)
    completion.until_stream()
    assert not completion.connection.reading
    completion.read_again()
    completion.until_done()
    assert completion.text == TEXT


@pytest.mark.parametrize("go", [Completion.hang_up, Completion.leave])
def test_a_client_that_goes_is_gone(server, go):
    completion = ask(server, "slow")
    completion.until_text(TEXT)
    before = server.sockets()
    go(completion)
    server.until(lambda: server.sockets() < before, "the end of the connection")


@pytest.mark.parametrize(("kind", "why"), [("typed", "a type or an id"), ("behind", "behind \\[DONE\\]")])
def test_what_no_event_should_be_is_a_fault(server, kind, why):
    with pytest.raises(Broken, match=why):
        ask(server, kind).until_end()


# -- against bytes --------------------------------------------------------------------------------------------------


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chunked(b"data: {\n\n"), "JSON object"),
        (chunked(b"data: []\n\n"), "JSON object"),
        (chunked(b"data: {}\n\n"), "choices"),
        (chunked(b'data: {"choices": [{}]}\n\n'), "delta"),
        (chunked(b"data: : keep-alive\n\n"), "JSON object"),
        (chunked(b"id: 7\n" + CHUNK), "a type or an id"),
        (chunked(b"data: \xff\n\n"), "utf-8"),
        (b"two\r\nok\r\n", "how HTTP frames"),
    ],
)
def test_what_no_client_could_read_is_a_fault(script, body, why):
    completion = ask(script)
    script.play(HEAD + body)
    with pytest.raises(Broken, match=why):
        completion.until_end()


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_a_stream_that_breaks_off_has_no_proper_end(script, ending):
    completion = ask(script)
    script.play(HEAD + chunked(CHUNK), ending=ending)
    completion.until_text("a")
    with pytest.raises(Broken, match="the connection ended before"):
        completion.until_end()


def test_an_end_within_an_event_is_no_proper_end(script):
    completion = ask(script)
    script.play(HEAD + chunked(CHUNK, b"data: half") + b"0\r\n\r\n")
    with pytest.raises(Broken, match="in the middle of an event"):
        completion.until_end()


def test_it_does_not_matter_how_a_stream_is_cut(script):
    completion = ask(script)
    whole = HEAD + chunked(CHUNK[:9], CHUNK[9:] + b": c\n\n" + CHUNK, b"data: [DONE]\n\n") + b"0\r\n\r\n"
    script.play(*[bytes([byte]) for byte in whole])
    completion.until_done()
    assert (completion.text, completion.parser.comments) == ("aa", 1)
