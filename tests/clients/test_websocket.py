"""Stock clients against the reference of the kata: the asynchronous and the blocking one of `websockets`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_blocking

from .launch import reference

PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = {"SUBPROTOCOLS": "chat.v2,chat.v1", "ORIGINS": "https://app.example", "PING_INTERVAL_MS": "40"}
    with reference("websocket", **settings) as solution:
        host, port = solution.address
        yield f"ws://{host}:{port}"


async def everything(url: str) -> None:
    async with connect(f"{url}/echo", subprotocols=["mqtt", "chat.v1"]) as client:
        assert client.subprotocol == "chat.v1"
        assert client.protocol.extensions == [], "the client offers compression, and none is agreed on"
        await client.send(["frag", "men", "ted"])
        assert await client.recv() == "fragmented"
        for message in ("", b"", "é€😀", bytes(range(256)), b"x" * 1_000_000):
            await client.send(message)
            assert await client.recv() == message
        await asyncio.wait_for(await client.ping(b"payload"), PATIENCE)
        await client.close(4000, "bye")
    assert client.close_code == 4000

    async with connect(f"{url}/rooms/tea") as ann, connect(f"{url}/rooms/tea") as ben:
        await ann.send("from ann")
        assert await ben.recv() == "from ann"
        await ben.send(b"from ben")
        assert await ann.recv() == b"from ben"


@pytest.mark.oracle
@pytest.mark.timeout(PATIENCE)
def test_the_asynchronous_client(url):
    asyncio.run(everything(url))


@pytest.mark.oracle
@pytest.mark.timeout(PATIENCE)
def test_the_blocking_client_answers_pings_and_learns_why_it_is_refused(url):
    with connect_blocking(f"{url}/echo", origin="https://app.example") as client:
        for number in range(20):
            client.send(str(number))
        assert [client.recv() for _ in range(20)] == [str(number) for number in range(20)]
    for path, fields, status in (("/nothing", {}, 404), ("/echo", {"origin": "https://evil.example"}, 403)):
        with pytest.raises(InvalidStatus) as refused:
            connect_blocking(url + path, **fields)
        assert refused.value.response.status_code == status


@pytest.mark.oracle
@pytest.mark.timeout(PATIENCE)
def test_a_message_that_is_too_big_is_closed_with_1009(url):
    async def send() -> int | None:
        async with connect(f"{url}/echo") as client:
            await client.send(b"x" * 3_000_000)
            await client.wait_closed()
        return client.close_code

    assert asyncio.run(send()) == 1009
