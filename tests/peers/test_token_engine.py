"""The engine that the harness plays, as clients that nobody here wrote meet it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from clients.http import CLIENTS, HttpClient, missing

from harness.peers.token_engine import Engine, Generation, cut, token_line

from .stage import Stage

QUICK = "with_http_client.py"  # for what does not depend on the client


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def lasting_engine(stage) -> Engine:
    stage.unread = lambda connection: 0  # what the kernel shows of a solution, it does not show of a stranger
    return Engine(stage)


@pytest.fixture
def engine(lasting_engine) -> Engine:
    lasting_engine.begin()
    return lasting_engine


@pytest.fixture(scope="module")
def started(stage, lasting_engine, open_until_the_end: ExitStack) -> Callable[[str], HttpClient]:
    running: dict[str, HttpClient] = {}

    def start(name: str) -> HttpClient:
        if why := missing(name):
            pytest.skip(why)
        if name not in running:
            client = HttpClient(name, stage.turn, lasting_engine.environment()["ENGINE_URL"])
            running[name] = open_until_the_end.enter_context(client)
        return running[name]

    return start


@pytest.fixture(params=CLIENTS)
def client(started, request) -> HttpClient:
    return started(request.param)


@pytest.fixture
def quick(started) -> HttpClient:
    return started(QUICK)


def asked(client: HttpClient, engine: Engine, prompt: str = "hi") -> Generation:
    """The client asks for tokens; the engine's side of it."""
    document = {"model": "small", "messages": [{"role": "user", "content": prompt}]}
    client.begin({"path": "/generate", "body": json.dumps(document), "headers": {"Content-Type": "application/json"}})
    client.until(lambda: engine.asked(prompt), "a request")
    generation = engine.asked(prompt)
    assert generation
    return generation


def lines(body: str) -> list[dict]:
    return [json.loads(line) for line in body.splitlines()]


def test_a_generation_is_lines_of_json(client, engine):
    generation = asked(client, engine)
    generation.say(b"a\xf0\x9f", b"\x98\x80")
    generation.call(1, "call_1", "look")
    generation.arguments(1, b"{}")
    generation.done("length", 4, 2)

    outcome = client.outcome()
    assert (outcome.status, outcome.headers["content-type"]) == (200, "application/x-ndjson")
    token, rest, begins, arguments, done = lines(outcome.body)
    assert base64.b64decode(token["token"]) + base64.b64decode(rest["token"]) == "a😀".encode()
    assert begins == {"tool_call": {"index": 1, "id": "call_1", "name": "look"}}
    assert base64.b64decode(arguments["tool_call"]["arguments"]) == b"{}"
    assert done == {"done": {"finish_reason": "length", "prompt_tokens": 4, "completion_tokens": 2}}
    assert (generation.over, generation.stopped) == (True, False)


def test_one_generation_follows_another(client, engine):
    for prompt in ("one", "two"):
        generation = asked(client, engine, prompt)
        generation.say(prompt.encode())
        generation.done()
        assert base64.b64decode(lines(client.outcome().body)[0]["token"]) == prompt.encode()
    assert engine.prompts == ["one", "two"]


def test_a_failure_is_the_last_line(client, engine):
    asked(client, engine).fail("out of memory")
    assert lines(client.outcome().body) == [{"error": {"message": "out of memory"}}]


@pytest.mark.parametrize("way", [Generation.cut_off, Generation.drop])
def test_what_breaks_off_is_noticed(client, engine, way):
    generation = asked(client, engine)
    generation.say(b"half")
    way(generation)
    outcome = client.outcome()
    assert outcome.error, f"the body has no end, and the client took {outcome} for whole"


def test_refusals_and_their_end(client, engine):
    with engine.refusing(429, "later", [("Retry-After", "7")]):
        asked(client, engine)
        outcome = client.outcome()
    assert (outcome.status, outcome.headers["retry-after"]) == (429, "7")
    assert json.loads(outcome.body) == {"error": {"message": "later"}}
    generation = asked(client, engine, "again")
    generation.refuse(404, "no such model")
    assert client.outcome().status == 404


def test_nobody_there(quick, engine):
    with engine.down():
        assert quick.send(path="/generate").error
    asked(quick, engine).done()
    assert quick.outcome().status == 200


def test_what_is_no_request_for_tokens_is_told(quick, engine):
    for words in ({"path": "/other"}, {"path": "/generate", "body": "[]"}, {"path": "/generate", "body": "{"}):
        assert quick.send(**words).status == 400
    assert quick.send(path="/generate", method="GET").status == 400
    assert (len(engine.malformed), engine.prompts) == (4, [])


def test_who_hangs_up_has_stopped_it(quick, engine, stage):
    document = json.dumps({"messages": [{"content": "slow"}]})
    quick.begin({"path": "/generate", "body": document, "timeout": 0.05})
    quick.until(lambda: engine.asked("slow"), "a request")
    generation = engine.asked("slow")
    assert not generation.stopped
    assert quick.outcome().error
    stage.until(lambda: generation.stopped, "the end of the connection")
    generation.say(b"too late")
    generation.done()


def test_a_new_behaviour_hangs_up_on_what_is_left(quick, engine):
    generation = asked(quick, engine)
    generation.say(b"half")
    engine.begin()
    assert quick.outcome().error
    assert engine.generations == []


@pytest.mark.parametrize("sizes", [[1], [3, 1], [5, 2, 900], [10**6]])
def test_pieces_are_all_of_it(sizes):
    data = token_line(b"x" * 200)
    pieces = list(cut(data, sizes))
    assert b"".join(pieces) == data
    assert all(pieces)
