"""What the NATS client that the harness plays makes of bytes: frames, or garbage with a reason, and nothing between."""

from __future__ import annotations

import pytest

from harness.peers.nats import Err, Msg, NatsClient, Ok
from harness.verdicts import Broken

from .stage import Script

INFO = b'INFO {"server_id":"s","version":"1.0.0"} \r\n'

FRAMES = {
    b"MSG a 1 0\r\n\r\n": Msg("a", "1", b""),
    b"MSG a.b sid inbox.1 5\r\nhello\r\n": Msg("a.b", "sid", b"hello", "inbox.1"),
    b"MSG a 1 002\r\nhi\r\n": Msg("a", "1", b"hi"),
    b"MSG a 1 6\r\nPING\r\n\r\n": Msg("a", "1", b"PING\r\n"),
    b"+OK\r\n": Ok(),
    b"+ok\r\n": Ok(),
    b"-ERR 'Stale Connection'\r\n": Err("Stale Connection"),
    b"-err 'it''s'\r\n": Err("it''s"),
}

GARBAGE = {
    b"MSG a 1 0\n\r\n": "does not end with CRLF",
    b"PONG\n": "does not end with CRLF",
    b"MSG a 1 5\r\nhello\n\n": "not followed by CRLF",
    b"MSG a 1 4\r\nhello\r\n": "not followed by CRLF",
    b"MSG a 1 6\r\nhello\r\n+OK\r\n": "not followed by CRLF",
    b"MSG  a 1 0\r\n": "joined by one space",
    b"MSG\ta 1 0\r\n": "no such frame",
    b"MSG a\t1 0\r\n": "joined by one space",
    b"MSG a 1 0 \r\n": "joined by one space",
    b"MSG a 1\r\n": "joined by one space",
    b"MSG a 1 b c 0\r\n": "joined by one space",
    b"MSG a 1 -1\r\n": "joined by one space",
    b"MSG a 1 +2\r\n": "joined by one space",
    b"MSG a 1 1_0\r\n": "joined by one space",
    b"MSG a 1 \xd9\xa1\r\n": "joined by one space",
    b"MSG a 1 " + b"9" * 5000 + b"\r\n": "joined by one space",
    b"MSG\r\n": "joined by one space",
    b"-ERR Stale Connection\r\n": "quoted",
    b"-ERR\r\n": "quoted",
    b"+OKAY\r\n": "no such frame",
    b"+OK yes\r\n": "no such frame",
    b"PONGS\r\n": "no such frame",
    b"PONG again\r\n": "no such frame",
    b"PINGPONG\r\n": "no such frame",
    b"HTTP/1.1 200 OK\r\n": "no such frame",
    b"\r\n": "no such frame",
    b"\x16\x03\x01\0\r\n": "no such frame",
    b"INFO {\r\n": "not JSON",
    b"INFO \xff\r\n": "not JSON",
    b"INFO\r\n": "not JSON",
    b"INFO []\r\n": "not an object",
    b'INFO "hello"\r\n': "not an object",
    b"INFORM {}\r\n": "no such frame",
}


def name(data: bytes) -> str:
    return repr(data[:40])[2:-1]


@pytest.fixture
def client(script: Script) -> NatsClient:
    return NatsClient(script, "alice")


@pytest.mark.parametrize(("data", "frame"), FRAMES.items(), ids=map(name, FRAMES))
def test_a_frame_is_read(script, client, data, frame):
    script.play(INFO + data)
    assert client.next_frame("a frame") == frame


@pytest.mark.parametrize("data", [b"".join(FRAMES)], ids=["all"])
def test_frames_are_read_however_they_are_cut(script, client, data):
    script.play(*(data[at : at + 1] for at in range(len(data))))
    assert client.until_frames(len(FRAMES), "all frames") == list(FRAMES.values())


@pytest.mark.parametrize(("data", "why"), GARBAGE.items(), ids=map(name, GARBAGE))
def test_garbage_is_refused_with_a_reason(script, client, data, why):
    script.play(data, ending="fin")

    with pytest.raises(Broken) as raised:
        client.until_closed()

    assert "alice got bytes that are no NATS frame" in str(raised.value)
    assert why in str(raised.value)


def test_a_garbled_pong_is_no_fence(script, client):
    number = client.ping()
    script.play(b"PONGED\r\n", ending="fin")

    with pytest.raises(Broken, match="is owed PONG"):
        client.until_pong(number)


@pytest.mark.parametrize(
    "data", [b"MSG a 1 5\r\nhell", b"MSG a 1 5\r\nhello", b"MSG a 1 5\r\nhello\r", b"MSG a 1", b"+OK"]
)
@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_half_a_frame_is_none(script, client, data, ending):
    script.play(data, ending=ending)
    assert client.until_closed() == []


@pytest.mark.parametrize("ending", ["fin", "reset"])
def test_an_end_instead_of_a_frame_is_told(script, client, ending):
    script.play(INFO, ending=ending)

    with pytest.raises(AssertionError, match="alice is owed a message; the connection was closed instead"):
        client.next_frame("a message")


def test_a_last_word_is_told_with_the_end(script, client):
    number = client.ping()
    script.play(b"-ERR 'Slow Consumer'\r\n", ending="fin")

    with pytest.raises(Broken, match=r"owed PONG; the connection was closed instead with Err\(text='Slow Consumer'\)"):
        client.until_pong(number)


def test_a_greeting_that_never_comes_is_owed(script, client):
    script.play(ending="fin")

    with pytest.raises(AssertionError, match="owes alice an INFO line"):
        client.greeted()


def test_the_first_info_counts_and_later_ones_are_skipped(script, client):
    script.play(INFO, b'INFO {"server_id":"other"}\r\n', b"+OK\r\n")

    assert client.next_frame("+OK") == Ok()
    assert client.info == {"server_id": "s", "version": "1.0.0"}


def test_it_sends_what_the_protocol_names(script, client):
    client.sub("a.*", 1)
    client.sub("a.b", "s2", queue="q")
    client.unsub(1)
    client.unsub("s2", 5)
    client.pub("a.b", b"hello")
    client.pub("a.b", b"", reply="inbox")
    client.ping()
    client.connect(verbose=True)

    *lines, connect = script.drain(script.accept()).split(b"\r\n")[:-1]

    assert lines == [
        *(b"SUB a.* 1", b"SUB a.b q s2", b"UNSUB 1", b"UNSUB s2 5"),
        *(b"PUB a.b 5", b"hello", b"PUB a.b inbox 0", b"", b"PING"),
    ]
    assert connect.startswith(b"CONNECT {")
    assert b'"verbose": true' in connect


def test_pings_are_answered(script, client):
    script.play(b"PING\r\nPING\r\n+OK\r\n")
    client.next_frame("+OK")

    assert script.drain(script.accepted[0]) == b"PONG\r\n" * 2
    assert client.pings == 2


def test_silence_answers_no_ping(script, client):
    client.answers_pings = False
    script.play(b"PING\r\n+OK\r\n")
    client.next_frame("+OK")

    assert script.drain(script.accepted[0]) == b""
    assert client.pings == 1


def test_what_comes_behind_a_tripwire_trips_it(script, client):
    client.stays_silent("nothing more")
    (tripped,) = script.tripwires
    script.play(INFO)
    script.turn()
    assert not tripped()

    script.accepted[0].sendall(b"+OK\r\n")
    script.until(tripped, "the wire to be tripped")
