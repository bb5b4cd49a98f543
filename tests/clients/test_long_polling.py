"""A stock library for bots against the reference of the kata: it polls, confirms, and is told of its rivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from harness.solution.program import Solution

from .child import Child
from .launch import reference

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"

Ask = Callable[..., Any]

pytestmark = pytest.mark.oracle


@pytest.fixture
def server() -> Iterator[Solution]:
    with reference("long_polling", SECOND_MS="1000") as solution:
        yield solution


@pytest.fixture
def ask(server) -> Iterator[Ask]:
    pytest.importorskip("telegram", reason="python-telegram-bot is not installed")
    host, port = server.address
    environment = {"API_URL": f"http://{host}:{port}", "TOKEN": TOKEN, "NO_PROXY": "*"}
    with Child("with_python_telegram_bot.py", server.turn, **environment) as child:
        yield lambda verb, **words: child.ask([verb, words])


@pytest.fixture
def send(server) -> Iterator[Callable[..., int]]:
    host, port = server.address
    with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as client:

        def send(text: str, kind: str = "message") -> int | None:
            message = {"message_id": 7, "date": 1700000000, "chat": {"id": 5, "type": "private"}, "text": text}
            result = client.post(f"/ingest/{TOKEN}", json={kind: message}).json()["result"]
            return result and result["update_id"]

        yield send


def test_its_loop_gets_every_update_once(ask, send):
    before = [[send(text), text] for text in ("waiting since yesterday", "é 😀 \u2028")]
    assert ask("start", allowed=["message"]) == [110201543, "Kata"]
    assert ask("take", number=2) == before
    assert send("unwanted", "edited_message") is None

    after = [[send(f"live {number}"), f"live {number}"] for number in range(5)]

    assert ask("take", number=5) == after
    assert ask("stop") == "stopped"
    assert ask("short") == [], "what its loop has handed on is confirmed when it stops"


def test_its_calls_confirm_limit_and_drop(ask, send):
    ids = [send(f"update {number}") for number in range(4)]

    assert [number for number, _ in ask("short", limit=2)] == ids[:2]
    assert [number for number, _ in ask("short", offset=ids[1])] == ids[1:]
    assert [number for number, _ in ask("short", offset=-1)] == ids[3:]
    assert ask("drop") is True
    assert ask("short") == []


def test_one_of_two_is_told_of_a_conflict(ask, send):
    said = ask("two")

    number = send("for the other")

    assert said.startswith("Conflict: ")
    assert "terminated by other getUpdates request" in said
    assert ask("other") == [[number, "for the other"]]
