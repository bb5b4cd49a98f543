"""The client that the harness plays is served by the `websockets` library, and sees through a server that is none."""

from __future__ import annotations

import re

import pytest

from harness.peers.websocket import WebSocket
from harness.verdicts import Broken
from harness.wire.websocket import BINARY, PING, TEXT, Close, accept_of, close_payload, frame

from .foreign import websockets_server


@pytest.fixture(scope="module")
def server(scratch, open_until_the_end):
    settings = {"SUBPROTOCOLS": "chat.v2", "PING_INTERVAL_MS": "50", "ORIGINS": "https://app.example"}
    return open_until_the_end.enter_context(websockets_server(scratch, **settings))


@pytest.mark.oracle
def test_messages_come_back(server):
    client = WebSocket(server, "client", "/echo", [("Sec-WebSocket-Protocol", "chat.v2")]).opened()
    assert client.header("sec-websocket-protocol") == "chat.v2"
    sent = ["", "text é", b"\xff", b"x" * 70_000]
    for message in sent:
        client.say(message)
    client.say_in_fragments("in fragments", 0, 2, 2)
    client.in_pieces((bytes([each]) for each in client.bytes_of(TEXT, b"bytes")), "a byte")
    assert client.until_messages(6) == [*sent, "in fragments", "bytes"]
    client.ping(b"payload")
    client.until_pong(b"payload")
    server.until(lambda: len(client.pings) > 2, "Pings, each of which was answered")
    client.close(4000, "bye")
    assert client.until_close(4000) == Close(4000, "bye")
    assert client.ended


@pytest.mark.oracle
def test_a_refusal_is_complete(server):
    lost = WebSocket(server, "lost", "/nothing")
    assert (lost.until_answered(), bytes(lost.body)) == (404, b"there is nothing here\n")
    with pytest.raises(Broken, match="owed 101, and came 403"):
        WebSocket(server, "page", "/echo", [("Origin", "https://evil.example")]).opened()


@pytest.mark.oracle
def test_what_is_wrong_is_refused(server):
    client = WebSocket(server, "client", "/echo").opened()
    client.frame(BINARY, b"bare", key=None)
    assert client.until_close(1002).code == 1002


@pytest.mark.oracle
def test_what_does_not_come_is_told_at_once(server):
    client = WebSocket(server, "client", "/echo").opened()
    with pytest.raises(Broken, match="the server is idle"):
        client.next("a message that nobody sends")


def opened(script, *frames: bytes, with_head: bytes = b"", ending: str = "") -> WebSocket:
    """A client whose handshake was answered as it should be, and what a server sends with the head, and next."""
    client = WebSocket(script, "client", "/echo")
    sock = script.accept()
    while b"\r\n\r\n" not in (head := sock.recv(65536)):
        script.turn(0.001)
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)[1].decode()
    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    sock.sendall(f"{answer}Sec-WebSocket-Accept: {accept_of(key)}\r\n\r\n".encode() + with_head)
    client.opened()
    sock.sendall(b"".join(frames))
    if ending:
        sock.close()
    return client


def test_frames_behind_the_head_are_read(script):
    client = opened(script, with_head=frame(TEXT, b"at once", key=None) + frame(PING, b"p", key=None))
    assert client.next() == "at once"
    script.until(lambda: client.pings, "a Ping")


def test_a_bad_frame_is_told(script):
    client = opened(script, frame(TEXT, b"masked"))
    with pytest.raises(Broken, match="no WebSocket: a masked frame"):
        client.next()


def test_a_close_with_another_code_is_told(script):
    client = opened(script, frame(8, close_payload(1011, "oops"), key=None), ending="fin")
    with pytest.raises(Broken, match=r"a Close with 1000, and came a Close 1011 oops"):
        client.until_close(1000)


def test_an_end_without_a_close_is_told(script):
    client = opened(script, ending="fin")
    with pytest.raises(Broken, match="broke off without one"):
        client.until_close(1000)
    with pytest.raises(Broken, match="the connection was closed instead"):
        client.next()


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n", "Sec-WebSocket-Accept"),
        ("101 X\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n", "`Upgrade: websocket` is owed"),
        ("101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n", "`Connection: Upgrade` is owed"),
        ("200 OK\r\nContent-Length: 0\r\n", "owed 101, and came 200"),
        ("nonsense\r\n", "no WebSocket"),
    ],
)
def test_a_wrong_response_is_told(script, head, why):
    client = WebSocket(script, "client", "/echo")
    script.accept().sendall(f"HTTP/1.1 {head}\r\n".encode())
    with pytest.raises(Broken, match=why):
        client.opened()


@pytest.mark.oracle
def test_what_a_server_leaves_unread_is_counted(server):
    client = WebSocket(server, "client", "/echo", slow_reader=True).opened()
    connection = client.connection
    assert server.unread(connection) == 0
    connection.stop_reading()
    client.send(client.bytes_of(BINARY, bytes(65_536)) * 64, "4 MiB")
    server.settled()
    unread = server.unread(connection)
    assert unread, "it does not read on while nobody reads its echoes"
    kept = connection.sent - unread - connection.received - server.kernel_holds(connection)
    assert 1 << 20 <= kept < 2 << 20, "websockets keeps 16 messages of 64 KiB, and what its buffers hold"
    client.hang_up()
    server.settled()
    assert server.unread(connection) is None, "a connection that is gone has nothing to read"
