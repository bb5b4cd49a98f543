"""A stock client of event streams against the reference of the kata: it gets what was published, and resumes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from httpx_sse import connect_sse

from .launch import reference

TEXTS = ["plain", "a\u2028b\x0bc", "two\nlines", "", "  blanks  ", "\ufeffmark", "id: 9", "tail\n"]


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with reference("sse") as solution:
        host, port = solution.address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=30, trust_env=False) as client:
            yield client


def published(client: httpx.Client, data: str, event: str = "") -> str:
    reply = client.post("/streams/news", json={"data": data, "event": event})
    assert reply.status_code == 201
    return reply.json()["id"]


def events(source, number: int) -> list[tuple[str, str, str]]:
    """The next events; this client also tells of blocks that dispatch nothing, without an id."""
    found = []
    for event in source.iter_sse():
        if event.id or event.event != "message":
            found.append((event.id, event.event, event.data))
        if len(found) == number:
            return found
    return found


def test_httpx_sse_gets_what_was_published(client):
    with connect_sse(client, "GET", "/streams/news") as source:
        ids = [published(client, text, "kind") for text in TEXTS]
        assert events(source, len(TEXTS)) == [(each, "kind", text) for each, text in zip(ids, TEXTS, strict=True)]


def test_httpx_sse_resumes_without_a_gap_and_without_a_repetition(client):
    ids = [published(client, f"event {number}") for number in range(5)]
    with connect_sse(client, "GET", "/streams/news", headers={"Last-Event-ID": ids[1]}) as source:
        live = published(client, "live")
        got = events(source, 4)
    assert [data for _, _, data in got] == ["event 2", "event 3", "event 4", "live"]
    assert got[-1][0] == live


def test_httpx_sse_sees_the_end_of_a_stream(client):
    last = published(client, "last")
    with connect_sse(client, "GET", "/streams/news", headers={"Last-Event-ID": "unknown"}) as source:
        assert client.delete("/streams/news").status_code == 204
        assert [(event, data) for _, event, data in events(source, 9)][1:] == [("message", "last")]
    assert client.get("/streams/news", headers={"Last-Event-ID": last}).status_code == 204
