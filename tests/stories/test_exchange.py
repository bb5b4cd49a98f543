"""The clients of a story as commands: what they say is what was said, tried with the tools themselves."""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading

import pytest
from peers.foreign import require

from harness.story import exchange
from harness.story.exchange import commands, curl
from harness.story.record import Event, Record

from .samples import a_charge, ticking

POST = (
    b"POST /p?x=1&y='2' HTTP/1.1\r\nHost: h\r\nIdempotency-Key: \"it's\"\r\nContent-Length: 16\r\n\r\n"
    b'{"a": "100% \\\\"}'
)

TEXT = b"SUB a 1\r\nPUB 100% 'x' \\r \\\\ \"$HOME\" `id` 3\r\n\tend\r\n"


def said(*messages: bytes, party: str = "alice") -> Record:
    record = ticking()
    for data in messages:
        record.add("message", party, "bell", "...", data, party)
    return record


def told(record: Record) -> list[str]:
    return commands(record.events, "bell")


def test_a_request_is_a_curl_command():
    (line,) = told(said(POST))

    assert shlex.split(line) == [
        "curl",
        "-i",
        "-H",
        'Idempotency-Key: "it\'s"',
        "--data-binary",
        '{"a": "100% \\\\"}',
        "http://127.0.0.1:8080/p?x=1&y='2'",
    ]


@pytest.mark.parametrize(
    ("request_line", "words"),
    [("GET", []), ("HEAD", ["-I"]), ("DELETE", ["-X", "DELETE"]), ("PUT", ["-X", "PUT"])],
)
def test_the_method_is_said_where_curl_would_choose_another(request_line: str, words: list[str]):
    (line,) = told(said(f"{request_line} / HTTP/1.1\r\nHost: h\r\n\r\n".encode()))

    assert shlex.split(line) == ["curl", "-i", *words, "http://127.0.0.1:8080/"]


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\x1bc",
        b"GET / HTTP/1.1\r\nX: \xe9\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\r\n",
    ],
)
def test_what_curl_would_not_send_like_that_is_left_out(data: bytes):
    assert told(said(data)) == []


def test_a_request_that_was_not_kept_whole_is_left_out():
    body = bytes(2000)
    assert told(said(b"POST / HTTP/1.1\r\nContent-Length: 2000\r\n\r\n" + body)) == []


def test_text_is_said_by_nc_one_command_a_client():
    record = said(b"CONNECT {}\r\n", b"PUB 100% 'x'\\y\r\n")
    record.add("message", "bob", "bell", "...", b"PING\r\n", "bob")
    record.add("message", "bell", "bob", "...", b"PONG\r\n", "bob")

    alice, bob = told(record)

    assert alice == ("(printf 'CONNECT {}\\r\\nPUB 100%% '\"'\"'x'\"'\"'\\\\y\\r\\n'; sleep 1) | nc 127.0.0.1 8080")
    assert bob == "(printf 'PING\\r\\n'; sleep 1) | nc 127.0.0.1 8080"


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02", b"PUB \xff\r\n", b"x" * 5000])
def test_binary_and_endless_talk_is_left_out(data: bytes):
    assert told(said(b"PING\r\n", data)) == []


def test_a_client_that_said_more_than_was_written_down_is_left_out():
    assert told(said(b"PING\r\n", b"")) == []


def test_a_story_with_a_gap_is_no_exchange():
    record = a_charge()
    assert told(record) != []
    gap = Event(0.0, "gap", "bell", "bell", "98 more like it", size=98)
    assert commands([*record.events, gap], "bell") == []


def test_what_servers_answer_is_not_said_by_a_client():
    assert told(a_charge()) == [curl(a_charge().events[1])]


@pytest.mark.oracle
@pytest.mark.parametrize(("tool", "package", "data"), [("nc", "netcat-openbsd", TEXT), ("curl", "curl", POST)])
def test_the_shell_says_to_the_letter_what_the_client_said(
    monkeypatch: pytest.MonkeyPatch, tool: str, package: str, data: bytes
):
    """`curl` and `nc` themselves, against a socket that takes down what comes."""
    require(tool, package)
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(exchange, "PORT", listener.getsockname()[1])
        (command,) = told(said(data))
        writer = threading.Thread(target=take_down, args=(listener, heard, data))
        writer.start()
        subprocess.run(["sh", "-c", command.replace("sleep 1", ":")], capture_output=True, timeout=60)
        writer.join(60)
    head, _, body = data.partition(b"\r\n\r\n")
    if tool == "nc":
        assert heard == data
    else:
        assert {*head.split(b"\r\n")} - {b"Host: h"} <= {*bytes(heard).split(b"\r\n")}
        assert heard.endswith(body)


def take_down(listener: socket.socket, heard: bytearray, wanted: bytes) -> None:
    connection, _ = listener.accept()
    ending = wanted[-16:]
    with connection:
        while not heard.endswith(ending) and (data := connection.recv(1 << 16)):
            heard += data
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
