"""The openai package, sync and async, against the reference of the kata; the harness is the engine behind it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from harness import waiting
from harness.peers.token_engine import Engine, Generation
from harness.solution.program import Solution

from .child import Child
from .launch import reference

KEEPALIVE = 20  # ms
KEY = "sk-kata"  # as kata.toml has it
TEXT = 'Hello 😀, "you"\n[DONE]\u2028'
numbers = count(1)

pytestmark = pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="openai is not installed")


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Solution]:
    with reference("chat_stream", Engine, KEEPALIVE_MS=str(KEEPALIVE)) as solution:
        yield solution


@pytest.fixture
def server(lasting_server) -> Solution:
    lasting_server.begin()
    return lasting_server


@pytest.fixture
def engine(server) -> Engine:
    return server.peer(Engine)


@pytest.fixture(scope="module", params=["sync", "async"])
def client(lasting_server, request) -> Iterator[Child]:
    host, port = lasting_server.address
    environment = {"KIND": request.param, "BASE_URL": f"http://{host}:{port}/v1", "API_KEY": KEY}
    with Child("with_openai.py", lasting_server.turn, NO_PROXY="*", **environment) as child:
        yield child


@pytest.fixture
def ask(client, engine) -> Callable[..., Generation]:
    """Let the client ask; the engine's side of it, when it has come."""

    def begin(stream: bool = True, **words: Any) -> Generation:
        prompt = f"say {next(numbers)}"
        client.tell(command(prompt, stream, **words))
        client.until(lambda: engine.asked(prompt), "a request to the engine")
        generation = engine.asked(prompt)
        assert generation
        return generation

    return begin


def command(prompt: str, stream: bool = True, **words: Any) -> dict[str, Any]:
    """A request in the words of the program; `stream` is what the package's own helper for streams sets itself."""
    request = {"model": "small", "messages": [{"role": "user", "content": prompt}], **words.pop("request", {})}
    if not words.get("helper"):
        request["stream"] = stream
    return {"request": request, **words}


def say(generation: Generation) -> None:
    """The text, a byte at a time."""
    for byte in TEXT.encode():
        generation.say(bytes([byte]))


def test_a_stream_is_read_to_its_end(client, ask):
    generation = ask(request={"stream_options": {"include_usage": True}})
    say(generation)
    generation.done("length", 5, 6)
    told = client.told()
    assert (told["text"], told["reasons"]) == (TEXT, ["length"])
    assert told["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}


def test_comments_are_seen_by_nobody(client, ask, server):
    generation = ask()
    waiting.elapse(server, 3 * KEEPALIVE)
    generation.say(b"a")
    waiting.elapse(server, 3 * KEEPALIVE)
    generation.done()
    told = client.told()
    assert (told["text"], told["reasons"]) == ("a", ["stop"])


def test_a_whole_answer_is_read(client, ask):
    generation = ask(stream=False)
    say(generation)
    generation.done("stop", 5, 6)
    told = client.told()
    assert (told["text"], told["reasons"], told["usage"]["total_tokens"]) == (TEXT, ["stop"], 11)


@pytest.mark.parametrize("words", [{}, {"helper": True}, {"stream": False}], ids=["chunks", "helper", "whole"])
def test_tool_calls_are_put_together(client, ask, words):
    generation = ask(**words)
    for index in range(2):
        generation.call(index, f"call_{index}", f"tool{index}")
    for byte in '{"a": "é"}'.encode():
        for index in range(2):
            generation.arguments(index, bytes([byte]))
    generation.done("tool_calls")
    told = client.told()
    assert told["calls"] == {str(index): [f"call_{index}", f"tool{index}", '{"a": "é"}'] for index in range(2)}
    assert told["reasons"] == ["tool_calls"]


def test_who_leaves_stops_the_engine(client, ask, server):
    generation = ask(leave=True)
    generation.say(b"enough")
    assert client.told()["text"] == "enough"
    server.until(lambda: generation.stopped, "the end of the generation")


@pytest.mark.parametrize("stream", [True, False])
def test_errors_before_the_first_byte_are_exceptions_by_status(client, engine, stream):
    other = {"options": {"api_key": "sk-other"}}
    for status, name, code in (
        (404, "NotFoundError", "model_not_found"),
        (429, "RateLimitError", "rate_limit_exceeded"),
        (500, "InternalServerError", "upstream_error"),
    ):
        with engine.refusing(status, "no", [("Retry-After", "9")]):
            error = client.ask(command("say", stream))["error"]
        assert (error["class"], error["code"]) == (name, code)
        assert error["retry_after"] == ("9" if status == 429 else None)
    error = client.ask(command("say", stream, **other))["error"]
    assert (error["class"], error["code"]) == ("AuthenticationError", "invalid_api_key")
    error = client.ask(command("say", stream, request={"n": 3}))["error"]
    assert (error["class"], error["status"], error["param"]) == ("BadRequestError", 400, "n")


def test_an_error_in_the_stream_is_an_exception_behind_the_text(client, ask, server):
    generation = ask()
    generation.say(b"half")
    generation.fail("out of memory")
    told = client.told()
    assert (told["text"], told["reasons"]) == ("half", [])
    assert (told["error"]["class"], told["error"]["message"]) == ("APIError", "out of memory")
    assert told["error"]["code"] == "upstream_error"
