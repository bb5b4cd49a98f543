"""The Redis server that the harness plays says what a real one says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from harness.peers.redis import PASSWORD, Redis
from harness.wire.resp import NotResp, encode, take_command

from .redis_server import redis_server
from .stage import PATIENCE, Stage

Words = tuple[str | bytes, ...]

CONVERSATIONS: dict[str, list[Words]] = {
    "a password is wanted": [("GET", "k"), ("AUTH", "wrong"), ("AUTH", PASSWORD), ("PING",)],
    "strings": [
        ("AUTH", PASSWORD),
        ("GET", "none"),
        ("SET", "k", b"\r\n\0\xff"),
        ("GET", "k"),
        ("SET", "e", ""),
        ("GET", "e"),
    ],
    "counters": [("AUTH", PASSWORD), ("INCR", "c"), ("INCR", "c"), ("GET", "c"), ("SET", "t", "text"), ("INCR", "t")],
    "commands in any case": [("auth", PASSWORD), ("sEt", "m", "1"), ("get", "m"), ("del", "m", "none"), ("get", "m")],
    "a transaction": [("AUTH", PASSWORD), ("MULTI",), ("GET", "x"), ("SET", "x", "1"), ("EXEC",), ("GET", "x")],
    "an error inside a transaction": [
        ("AUTH", PASSWORD),
        ("SET", "w", "x"),
        ("MULTI",),
        ("INCR", "w"),
        ("GET", "w"),
        ("EXEC",),
    ],
    "discarded": [("AUTH", PASSWORD), ("MULTI",), ("SET", "d", "1"), ("DISCARD",), ("GET", "d")],
    "not in a transaction": [("AUTH", PASSWORD), ("EXEC",), ("DISCARD",), ("MULTI",), ("MULTI",), ("DISCARD",)],
    "housekeeping": [
        ("AUTH", PASSWORD),
        ("PING", "hello"),
        ("ECHO", "x"),
        ("SELECT", "0"),
        ("CLIENT", "SETNAME", "me"),
        ("RESET",),
    ],
    "what it does not know": [("AUTH", PASSWORD), ("FLY", "k"), ("GET",), ("SET", "k")],
}


def sent(words: Words) -> bytes:
    """A command as a client sends it."""
    return encode([word if isinstance(word, bytes) else word.encode() for word in words])


def comparable(reply: bytes) -> bytes:
    """A reply; of an error its first word, since servers differ in the rest."""
    return reply.split(b" ")[0] if reply.startswith(b"-") else reply


def converse(address: tuple[str, int], commands: list[Words], turn: Callable[[float], object]) -> list[bytes]:
    with socket.create_connection(address) as client:
        client.setblocking(False)
        replies = []
        for words in commands:
            turn(0.001)
            client.sendall(sent(words))
            replies.append(comparable(received(client, turn)))
        return replies


def received(client: socket.socket, turn: Callable[[float], object]) -> bytes:
    """One whole reply."""
    end, data = time.monotonic() + PATIENCE, b""
    while not whole(data):
        assert time.monotonic() < end, f"no whole reply, only {data!r}"
        turn(0.001)
        try:
            data += client.recv(1 << 16)
        except BlockingIOError:
            continue
    return data


def whole(data: bytes) -> bool:
    lines, needed = data.split(b"\r\n"), 1
    while needed:
        if len(lines) < 2:
            return False
        line, needed = lines.pop(0), needed - 1
        if line[:1] == b"*":
            needed += max(int(line[1:]), 0)
        elif line[:1] == b"$" and line != b"$-1":
            rest = b"\r\n".join(lines)
            if len(rest) < int(line[1:]) + 2:
                return False
            lines = rest[int(line[1:]) + 2 :].split(b"\r\n")
    return True


@pytest.fixture
def played(stage: Stage) -> Redis:
    stage.settings = {}
    return Redis(stage)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[tuple[str, int]]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.mark.oracle
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_it_answers_as_a_real_server_does(stage, played, real, name):
    commands = CONVERSATIONS[name]
    assert converse(played.listener.address, commands, stage.turn) == converse(real, commands, lambda _: None)


def test_it_sees_two_requests_on_one_connection(stage, played):
    with socket.create_connection(played.listener.address) as client, played.holding("GET"):
        client.sendall(sent(("AUTH", PASSWORD)) + sent(("GET", "a")) + sent(("GET", "b")))
        while len(played.commands) < 3:
            stage.turn(0.001)
    assert played.offences == ["GET b was sent while GET a was not answered on the same connection"]


def test_a_transaction_may_be_sent_at_once(stage, played):
    words = [("AUTH", PASSWORD), ("MULTI",), ("GET", "a"), ("SET", "a", "1"), ("EXEC",)]
    with socket.create_connection(played.listener.address) as client:
        client.sendall(b"".join(map(sent, words)))
        while len(played.commands) < 5:
            stage.turn(0.001)
    assert not played.offences
    assert played.data == {b"a": b"1"}


def test_it_sees_a_connection_too_many(stage, played):
    clients = [socket.create_connection(played.listener.address) for _ in range(played.most)]
    while played.accepts < played.most:
        stage.turn(0.001)
    assert not played.offences
    clients.pop().close()
    clients += [socket.create_connection(played.listener.address)]
    while played.accepts < played.most + 1:
        stage.turn(0.001)
    assert not played.offences, "one has left before the other came"
    clients += [socket.create_connection(played.listener.address)]
    while played.accepts < played.most + 2:
        stage.turn(0.001)
    assert played.offences == ["POOL_MAX is 4, and 5 connections are open at once"]
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "text", [b"GET a\r\n", b"*x\r\n", b"*1\r\n+GET\r\n", b"*1\r\n$3\r\nGETX\r\n", b"*" + b"1" * 70]
)
def test_what_is_no_command_is_told(text):
    with pytest.raises(NotResp):
        take_command(bytearray(text))


def test_a_command_is_taken_when_it_is_complete():
    whole, data = sent(("SET", "k", b"\r\n$3\r\n")), bytearray()
    for at in range(len(whole)):
        assert take_command(data) is None
        data += whole[at : at + 1]
    assert take_command(data) == [b"SET", b"k", b"\r\n$3\r\n"]
    assert not data
