"""What a WebSocket server owes its clients: the behaviours of the kata `websocket`.

A Pong may overtake a message, so it is no fence here. "Nothing else came" is shown by a later message that must be the
next one seen, by the server's rest, and by a tripwire. Each thing that is refused stands beside one that is served.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.websocket import Fields, WebSocket
from harness.solution.program import STOPPED, Solution
from harness.verdicts import NotReached
from harness.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NAMES,
    PING,
    PONG,
    TEXT,
    Message,
    close_payload,
)

KIB, MIB = 1 << 10, 1 << 20
LIMIT = 100_000  # of a message, in bytes: no default of anybody's
APP, LOCAL = "https://app.example", "http://localhost:8080"
SETTINGS = {"MAX_MESSAGE": LIMIT, "ORIGINS": f"{APP},{LOCAL}", "SUBPROTOCOLS": "chat.v2,chat.v1"}
PATIENT = 1900  # ms, where a slow machine has shown that a short time is too short
SHORT = {"MAX_PENDING": 512 * KIB}
BIG = 64 * KIB


def brief(rule: str, words: str) -> Source:
    """A rule that stands in the kata's own brief."""
    return Source(f"README {rule}, {words}")


class Server:
    """The solution in the words of this kata; `room` is one of this behaviour's own."""

    def __init__(self, solution: Solution, chance: random.Random) -> None:
        self.solution, self.chance = solution, chance
        self.room = f"r-{self.word()}"

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    def dial(self, name: str, target: str = "/echo", fields: Fields | None = None, **how: Any) -> WebSocket:
        """A client that has sent its handshake."""
        return WebSocket(self.solution, name, target, fields, chance=self.chance, **how)

    def echo(self, name: str = "client", fields: Fields | None = None, **how: Any) -> WebSocket:
        """A client of the echo, whose first message has come back: whatever it does next, it is served."""
        client = self.dial(name, "/echo", fields, **how).opened()
        assert_echoed(client, self.word())
        return client

    def join(self, name: str, room: str = "", slow: bool = False) -> WebSocket:
        """A member of a room. A `slow` one stops reading with the 101, and its kernel takes little on its behalf."""
        member = self.dial(name, f"/rooms/{room or self.room}", slow_reader=slow).opened()
        if slow:
            member.connection.stop_reading()
        return member

    def members(self, *names: str) -> list[WebSocket]:
        return [self.join(name) for name in names]

    def fence(self, speaker: WebSocket, *members: WebSocket) -> None:
        """A last message is the next thing that each of them gets after what was waited for: nothing stands between."""
        word = f"fence-{self.word()}"
        speaker.say(word)
        for member in members:
            came = member.next(f"the next message, {word}")
            assert came == word, f"{member.name} is owed {word} next, and got {brief_of(came)}"

    def stalled(self, name: str = "slow") -> tuple[WebSocket, list[bytes]]:
        """A member that reads no more, with more waiting for it than the kernel takes; and what was said so far."""
        slow, filler, said = self.join(name, slow=True), self.join("filler"), list[bytes]()
        while len(said) * BIG - self.solution.kernel_holds(slow.connection) < 192 * KIB:
            if len(said) > 200:
                raise NotReached(
                    "the scene could not be set: the server goes on sending to a member that does not read"
                )
            said += self.fill(filler, 4, len(said))
            self.solution.settled()
        return slow, said

    def fill(self, speaker: WebSocket, number: int, first: int = 0) -> list[bytes]:
        """Say numbered messages of 64 KiB each."""
        messages = [b"%08d" % each + bytes(BIG - 8) for each in range(first, first + number)]
        frames = b"".join(speaker.bytes_of(BINARY, message) for message in messages)
        speaker.send(frames, f"{number} binary messages of 64 KiB, from {first} on")
        return messages


@pytest.fixture
def server(solution: Solution, chance: random.Random) -> Server:
    return Server(solution, chance)


def brief_of(message: Message) -> str:
    return repr(message) if len(message) <= 60 else f"{message[:24]!r}… ({len(message)} long)"


def assert_echoed(client: WebSocket, *messages: Message) -> None:
    """What the client says comes back, next, as it is."""
    for message in messages:
        client.say(message)
    assert_back(client, *messages)


def assert_back(client: WebSocket, *messages: Message) -> None:
    for message in messages:
        kind = "text" if isinstance(message, str) else "binary"
        came = client.next(f"its own {kind} message back, {brief_of(message)}")
        assert came == message, f"{client.name} is owed {brief_of(message)} back, and got {brief_of(came)}"


class F(NamedTuple):
    """A frame that a client may send, right or not: see `harness.wire.websocket.frame` for its shape."""

    opcode: int
    payload: bytes = b""
    shape: dict[str, Any] = {}  # noqa: RUF012

    def but(self, **shape: Any) -> F:
        """The same frame in another shape."""
        return F(self.opcode, self.payload, shape)


def assert_fails(server: Server, what: str, codes: tuple[int, ...], *frames: F, then: int = PING) -> None:
    """These frames are the end of a connection that was served before: a Close, and nothing that stands behind them."""
    client = server.echo()
    sent = b"".join(client.bytes_of(each.opcode, each.payload, **each.shape) for each in (*frames, F(then, b"behind")))
    client.send(sent, f"{what}; then a {NAMES[then]}")
    client.until_close(*codes)
    assert len(client.messages) == client.taken, f"{what}: nothing of it, or behind it, is a message; it was echoed"
    assert not client.pongs, f"{what}: what stands behind it is not processed, and the Ping was answered"


def numbers(messages: Iterable[Message]) -> list[int]:
    return [int(message[:8]) for message in messages]


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=rfc(6455, "4.2.2", "Sending the Server's Opening Handshake"))
@hints(
    "What does the client compare your answer with?",
    "The key is used as the text that it is; nothing is decoded.",
    "base64(sha1(key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')): of the digest's 20 bytes, not of its hex form.",
)
def test_handshake(server: Server) -> None:
    """The handshake is answered with 101, Upgrade, Connection and the accept key, and then messages flow."""
    for number in range(3):
        client = server.dial(f"client {number}").opened()
        assert client.status == 101, "101 switches protocols"
        assert not client.header("sec-websocket-protocol"), "no subprotocol was asked for, so none is named"
        assert_echoed(client, server.word())


@behaviour(stage=1, source=rfc(6455, "5.6", "Data Frames"), needs="handshake")
@hints(
    "In which order do the bytes of the key apply?",
    "Byte i of the payload belongs to byte i modulo 4 of the key, and the answer is not masked.",
    "Unmask with key[i % 4], and send head + payload with the mask bit 0 and the same opcode.",
)
def test_echo(server: Server) -> None:
    """Text and binary messages come back with their type and every byte, whatever the masking key."""
    client = server.echo()
    noise = server.chance.randbytes(300)
    assert_echoed(client, "", b"", "ok", b"\xff\x00\xfe", "é€😀", noise, "x" * 99)
    for key in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xff\0\x01"):
        client.frame(TEXT, b"masked", key=key)
        assert_back(client, "masked")


@behaviour(stage=1, source=rfc(6455, "5.2", "Base Framing Protocol"), needs="echo")
def test_lengths(server: Server) -> None:
    """Lengths of 7, 16 and 64 bits are read and written, each where it is the shortest form."""
    client = server.echo()
    for size in (1, 124, 125, 126, 127, 128, 255, 256, 32768, 65535, 65536, 70000):
        assert_echoed(client, b"b" * size, "t" * size)


@behaviour(stage=1, source=rfc(6455, "5.5.2", "Ping"), needs="echo")
def test_ping_pong(server: Server) -> None:
    """A Ping is answered by a Pong with its payload, and a Pong that nobody asked for by nothing."""
    client = server.echo()
    for payload in (b"", b"hello", b"\x00\xff\xfe\xfd", bytes(range(125))):
        client.ping(payload)
        client.until_pong(payload)
    client.frame(PONG)
    client.frame(PONG, b"unasked for")
    client.ping(b"last")
    client.until_pong(b"last")
    assert_echoed(client, "still here")
    assert len(client.pongs) == 5, f"5 Pings were sent, and {len(client.pongs)} Pongs came"


@behaviour(stage=1, points=2, source=rfc(6455, "5.5.1", "Close"), needs="echo")
@hints(
    "Who has the last word, and who hangs up first?",
    "A Close is answered with a Close, and behind it the server closes the TCP connection, without waiting.",
    "Send a Close with the code that came (none if none came), flush, and shut the socket down.",
)
def test_close_handshake(server: Server) -> None:
    """A Close is answered with one Close, of its code or 1000, and the server closes the TCP connection."""
    for code, reason in ((1000, ""), (1000, "bye"), (1001, "é" * 61 + "x"), (4321, "x" * 123), (None, "")):
        client = server.echo()
        client.close(code, reason)
        answer = client.until_close()
        allowed = {code, 1000} if code else {1005, 1000}
        assert answer.code in allowed, f"a Close with {code} is answered with {code} or 1000, and came {answer.code}"


@behaviour(stage=1, points=2, source=rfc(6455, "5.4", "Fragmentation"), needs="echo")
@hints(
    "What is a message, and what is a frame?",
    "Only the first frame says the type; FIN says where the message ends.",
    "Collect payloads until FIN, keep the opcode of the first frame, and allow frames without any payload.",
)
def test_fragments(server: Server) -> None:
    """Fragments, also empty ones, are joined to one message of the first one's type."""
    client = server.echo()
    data = server.chance.randbytes(1000)
    for message, cuts in (
        ("hello world", (5,)),
        ("hello world", (0, 11)),
        ("", (0, 0)),
        (data, (1, 2, 3, 500)),
        (b"", (0,)),
        ("a" * 65536, tuple(range(1300, 65536, 1300))),
    ):
        client.say_in_fragments(message, *cuts)
        assert_back(client, message)


@behaviour(stage=1, points=2, source=brief("R8", "rooms"), needs="echo")
def test_room(server: Server) -> None:
    """What a member says goes to all others of its room, with its type, and to nobody else."""
    ann, ben, cem = server.members("ann", "ben", "cem")
    stranger, other = server.join("stranger", f"{server.room}2"), server.join("other", f"{server.room}2")

    ann.say("hello")
    ben.say_in_fragments(b"\xff\x00", 1)
    came = sorted(map(repr, cem.until_messages(2)))  # a text and a binary message, in whatever order
    assert came == ["'hello'", "b'\\xff\\x00'"], f"both are owed to cem, and came {cem.messages}"
    assert ben.next() == "hello", "ben is owed what ann said"
    assert ann.next() == b"\xff\x00", "ann is owed what ben said, and not her own words"
    server.fence(cem, ann, ben)
    server.fence(other, stranger)
    stranger.stays_silent("a message of another room came late")


@behaviour(
    stage=1, source=rfc(6455, "4.2.2", "Sending the Server's Opening Handshake (/resource name/)"), needs="handshake"
)
def test_unknown_path(server: Server) -> None:
    """A path that offers nothing is 404; a query changes nothing."""
    for target in ("/", "/nothing", "/echo/", "/rooms/", "/rooms/a.b", f"/rooms/{'x' * 65}"):
        status = server.dial("lost", target).until_answered()
        assert status == 404, f"there is nothing at {target}: 404 is owed, and came {status}"
    assert_echoed(server.dial("client", "/echo?token=1").opened(), "found")
    longest = server.join("ann", "x" * 64), server.join("ben", "x" * 64)
    server.fence(*longest)


@behaviour(stage=1, source=rfc(6455, "5.1", "Overview (masking)"), needs="echo")
def test_masking_required(server: Server) -> None:
    """A frame that is not masked ends the connection with 1002."""
    for opcode in (TEXT, BINARY, PING):
        what = f"an unmasked {NAMES[opcode]} frame"
        assert_fails(server, what, (1002,), F(opcode, b"bare").but(key=None))


# -- stage 2: edges -------------------------------------------------------------------------------------------------


def request(**fields: str | list[str] | None) -> bytes:
    """A handshake, given field by field; None leaves a usual one out, a list sends it so many times."""
    usual = {
        "line": "GET /echo HTTP/1.1",
        "host": "localhost",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec_websocket_version": "13",
    }
    given: dict[str, Any] = usual | fields
    lines = [given.pop("line")]
    for name, value in given.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        lines += [f"{name.replace('_', '-')}: {each}" for each in values]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@behaviour(stage=2, hidden=True, source=rfc(6455, "4.2.1", "Reading the Client's Opening Handshake"), needs="handshake")
def test_odd_but_right_handshakes(server: Server) -> None:
    """Names and keywords have no case, Connection is a list; unknown fields and extensions change nothing."""
    odd = [
        request(upgrade="WebSocket", connection="keep-alive, uPGRADE", x_unknown="yes"),
        request(connection=["keep-alive", "Upgrade"], cookie="a=b", accept_encoding="gzip"),
        request(connection="Upgrade , foo", sec_websocket_key="  dGhlIHNhbXBsZSBub25jZQ==  "),
        request(line="GET /echo?a=b HTTP/1.1").replace(b"sec-websocket-", b"SEC-WEBSOCKET-").replace(b"host", b"hOSt"),
        request(sec_websocket_extensions="permessage-deflate; client_max_window_bits"),
        request(sec_websocket_extensions=["permessage-deflate; server_no_context_takeover, x-foo", "x-bar"]),
    ]
    for head in odd:
        client = server.dial("client", request=head, key="dGhlIHNhbXBsZSBub25jZQ==").opened()
        agreed = client.header("sec-websocket-extensions")
        assert not agreed, f"no extension is spoken here, and the server agreed to {agreed!r}"
        assert_echoed(client, server.word())


BAD_HANDSHAKES = {
    "without Upgrade": request(upgrade=None),
    "with Upgrade: h2c": request(upgrade="h2c"),
    "without Connection": request(connection=None),
    "with Connection: keep-alive": request(connection="keep-alive"),
    "without a key": request(sec_websocket_key=None),
    "that is a POST": request(line="POST /echo HTTP/1.1", content_length="0"),
}


@behaviour(stage=2, source=rfc(6455, "4.2.1", "Reading the Client's Opening Handshake"), needs="handshake")
def test_bad_handshakes(server: Server) -> None:
    """What is no GET with Upgrade, Connection and a key is answered with an error, and not with 101."""
    for what, head in BAD_HANDSHAKES.items():
        status = server.dial("client", request=head).until_answered()
        assert 400 <= status < 600, f"a handshake {what} is answered with an error, and came {status}"
    assert_echoed(server.dial("client").opened(), "served")


def assert_refused(server: Server, what: str, head: bytes, *statuses: int) -> WebSocket:
    client = server.dial("client", request=head)
    status, wanted = client.until_answered(), " or ".join(map(str, statuses)) or "4xx"
    right = status in statuses if statuses else 400 <= status < 500
    assert right, f"a handshake {what} is refused with {wanted}, and came {status}"
    return client


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(6455, "4.2.1", "Reading the Client's Opening Handshake, items 1 and 5"),
    needs="bad_handshakes",
)
def test_sloppy_handshakes(server: Server) -> None:
    """HTTP/1.0, and a key that is not 16 bytes in base64 or comes twice, are answered with an error."""
    sloppy = {"of HTTP/1.0": request(line="GET /echo HTTP/1.0")}
    for key in ("", "c2hvcnQ=", "AAAAAAAAAAAAAAAAAAAAAAAAAA==", "no base64 at all!!!!!!!!", "dGhlIHNhbXBsZSBub25jZQ"):
        sloppy[f"with the key {key!r}"] = request(sec_websocket_key=key)
    twice = ["dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA=="]
    sloppy["with two keys"] = request(sec_websocket_key=twice)
    for what, head in sloppy.items():
        status = server.dial("client", request=head).until_answered()
        assert 400 <= status < 600, f"a handshake {what} is answered with an error, and came {status}"
    assert_echoed(server.dial("client").opened(), "served")


@behaviour(stage=2, source=rfc(6455, "4.4", "Supporting Multiple Versions of WebSocket Protocol"), needs="handshake")
@hints(
    "What does a client of tomorrow need to know from your refusal?",
    "426 and 400 are both right, as long as the answer names the version that you speak.",
    "Answer with 426 and `Sec-WebSocket-Version: 13`.",
)
def test_version(server: Server) -> None:
    """Another version than 13 is refused with 426 or 400, and the answer names 13."""
    for version in ("8", "14", "25", "0"):
        client = assert_refused(server, f"of version {version}", request(sec_websocket_version=version), 426, 400)
        offered = [word.strip() for word in client.header("sec-websocket-version").split(",")]
        assert "13" in offered, f"`Sec-WebSocket-Version: 13` is owed with the {client.status}, and came {offered}"
    assert_refused(server, "without a version", request(sec_websocket_version=None), 426, 400)
    assert_echoed(server.dial("client").opened(), "served")


@behaviour(
    stage=2, source=rfc(6455, "4.2.2", "Sending the Server's Opening Handshake (/subprotocol/)"), needs="handshake"
)
@hints(
    "What may the answer name, and when must it name nothing?",
    "Only a value that the client offered; a browser gives up on any other.",
    "Choose from the items of all Sec-WebSocket-Protocol lines; leave the field out if none is yours.",
)
def test_subprotocol(server: Server) -> None:
    """The answer names one subprotocol that both sides know, or none, and the connection is open either way."""
    for offered, known in (
        (["chat.v1"], {"chat.v1"}),
        (["mqtt, chat.v2"], {"chat.v2"}),
        (["mqtt", "chat.v1"], {"chat.v1"}),
        (["chat.v2,chat.v1"], {"chat.v2", "chat.v1"}),
        (["mqtt"], {""}),
        (["CHAT.V1, chat.v"], {""}),
    ):
        client = server.echo(fields=[("Sec-WebSocket-Protocol", line) for line in offered])
        chosen = client.header("sec-websocket-protocol")
        wanted = " or ".join(sorted(known)) if known != {""} else "none"
        assert chosen in known, f"offered are {', '.join(offered)}: {wanted} is owed, and came {chosen or 'none'!r}"


@behaviour(
    stage=2,
    source=Source(
        "README R3; RFC 6455 §10.2 Origin Considerations", "https://www.rfc-editor.org/rfc/rfc6455#section-10.2"
    ),
    needs="handshake",
)
@hints(
    "Who sends Origin, and who may forge it?",
    "Compare whole origins: `https://app.example.evil` begins like a good one.",
    "No Origin is no browser, and welcome; an Origin must equal an item of ORIGINS, else 403.",
)
@incident(
    "Gitpod did not compare Origin: any page could talk to the workspace of whoever visited it, and take it over "
    "(CVE-2023-0957)."
)
def test_origin(server: Server) -> None:
    """Pages of other origins get 403; those of ORIGINS, and clients that are no browser, are served."""
    for bad in ("https://evil.example", f"{APP}.evil", "http://app.example", f"{APP}:8443", "null", "https://app"):
        status = server.dial("page", fields=[("Origin", bad)]).until_answered()
        assert status == 403, f"the origin {bad} is not in ORIGINS: 403 is owed, and came {status}"
    for good in (APP, LOCAL):
        server.echo("page", [("Origin", good)])
    server.echo("no browser")


@behaviour(
    stage=2,
    points=3,
    source=rfc(6455, "5.2", "Base Framing Protocol, and §5.5 Control Frames"),
    needs=("ping_pong", "masking_required"),
)
def test_improper_frames(server: Server) -> None:
    """A reserved bit or opcode, or a control frame that is long or in fragments, ends the connection with 1002."""
    for rsv, opcode in ((4, TEXT), (2, TEXT), (1, BINARY), (3, TEXT), (5, BINARY), (6, PING), (7, CLOSE)):
        what = f"a {NAMES[opcode]} frame with the reserved bits {rsv:03b}"
        assert_fails(server, what, (1002,), F(opcode, b"\x03\xe8").but(rsv=rsv))
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        assert_fails(server, f"opcode {opcode}", (1002,), F(opcode, b"x" * (opcode % 2)))
    for opcode in (PING, PONG, CLOSE):
        long = close_payload(1000, "x" * 124)
        assert_fails(server, f"a {NAMES[opcode]} of 126 bytes", (1002,), F(opcode, long))
        begin = F(opcode, b"\x03\xe8").but(fin=False)
        assert_fails(server, f"a {NAMES[opcode]} in two fragments", (1002,), begin, F(CONTINUATION, b"b"))


@behaviour(stage=2, points=3, source=rfc(6455, "5.4", "Fragmentation"), needs=("fragments", "masking_required"))
@hints(
    "What may come while a message is unfinished, and what when none is?",
    "A continuation continues something; a new text or binary frame may not begin inside of a message.",
    "Keep the opcode of the message under way, or None; opcode 0 needs one, 1 and 2 need None.",
)
def test_fragments_in_order(server: Server) -> None:
    """A continuation of nothing, or a message that begins inside of another, ends the connection with 1002."""
    text, more = F(TEXT, b"text"), F(CONTINUATION, b"more")
    for what, frames in (
        ("a continuation of nothing", (more, text)),
        ("a continuation of nothing, unfinished", (more.but(fin=False), text)),
        ("a text inside of a text", (text.but(fin=False), text)),
        ("a binary message inside of a text", (text.but(fin=False), F(BINARY, b"x").but(fin=False))),
    ):
        assert_fails(server, what, (1002,), *frames)
    client = server.echo()
    client.say_in_fragments("complete", 4)
    assert_back(client, "complete")
    client.frame(CONTINUATION, b"more")
    client.until_close(1002)


@behaviour(
    stage=2,
    points=3,
    hidden=True,
    source=rfc(6455, "5.4", "Fragmentation (control frames in the middle)"),
    needs="fragments",
)
@hints(
    "Can a Ping wait until the message is complete?",
    "Control frames are served in the middle of a message, and leave its fragments alone.",
    "Look at the opcode first: control frames have no part in the state of the message.",
)
def test_control_between_fragments(server: Server) -> None:
    """Pings and Pongs between fragments are served at once, and a Close there ends the connection."""
    client = server.echo()
    client.frame(TEXT, b"frag", fin=False)
    client.ping(b"one")
    client.until_pong(b"one")
    client.frame(CONTINUATION, b"men", fin=False)
    client.frame(PONG, b"unasked for")
    client.ping(b"two")
    client.until_pong(b"two")
    client.frame(CONTINUATION, b"ted")
    assert_back(client, "fragmented")

    client.frame(TEXT, b"never", fin=False)
    client.close(1000)
    client.until_close(1000, 1002)  # some call the message that never ends an error
    assert len(client.messages) == client.taken, "a message without its end is none, and was echoed"


@behaviour(stage=2, hidden=True, points=3, source=rfc(6455, "5.2", "Base Framing Protocol"), needs="fragments")
def test_any_pieces(server: Server) -> None:
    """Frames arrive intact however TCP cuts or joins them: byte by byte, or many in one piece."""
    client = server.echo()
    euro = "€".encode()
    frames = [client.bytes_of(TEXT, euro[:2], fin=False), client.bytes_of(PING, b"p")]
    frames += [client.bytes_of(CONTINUATION, euro[2:])]
    whole = b"".join(frames)
    client.in_pieces((whole[at : at + 1] for at in range(len(whole))), "one byte")
    client.until_pong(b"p")
    assert_back(client, "€")

    long = client.bytes_of(BINARY, b"y" * 65536)
    client.in_pieces((long[:1], long[1:5], long[5:12], long[12:997], long[997:40000], long[40000:]), "a piece")
    assert_back(client, b"y" * 65536)

    words = [server.word() for _ in range(300)]
    client.send(b"".join(client.bytes_of(TEXT, word.encode()) for word in words), "300 texts in one piece")
    assert_back(client, *words)


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(6455, "5.2", "Base Framing Protocol (payload length)"),
    needs=("lengths", "masking_required"),
)
def test_shortest_lengths(server: Server) -> None:
    """A length that is not in its shortest form ends the connection with 1002."""
    for size, form in ((5, 16), (125, 16), (0, 64), (126, 64), (65535, 64)):
        what = f"a length of {size} in {form} bits"
        assert_fails(server, what, (1002,), F(BINARY, b"x" * size).but(form=form))


@behaviour(
    stage=2,
    points=3,
    source=Source("README R5; CVE-2020-13935; RFC 6455 §5.2 Payload length"),
    needs=("lengths", "masking_required"),
)
@hints(
    "Which sign has a length of 64 bits in your language?",
    "The highest bit must be 0, and no length is a reason to allocate.",
    "Compare with MAX_MESSAGE as an unsigned number, before you read or reserve a byte of the payload.",
)
@incident(
    "Tomcat did not look at the highest bit of a length, and one frame sent a thread into an endless loop "
    "(CVE-2020-13935). In gorilla/websocket lengths overflowed, to the same effect (CVE-2020-27813)."
)
def test_absurd_lengths(server: Server) -> None:
    """A length of exabytes, or one with its highest bit set, ends the connection."""
    some = b"x" * (LIMIT + 1)
    for length in (1 << 40, (1 << 62) + 5):
        assert_fails(server, f"a length of {length}", (1009,), F(BINARY, some).but(form=64, length=length))
    for length in (1 << 63, (1 << 64) - 1, (1 << 63) + 5):
        bad = F(BINARY, b"hello").but(form=64, length=length)
        assert_fails(server, f"a length with its highest bit set, {length:#x}", (1002, 1009), bad)


@behaviour(
    stage=2,
    points=3,
    source=rfc(6455, "10.4", "Implementation-Specific Limits"),
    needs=("fragments", "masking_required"),
)
@hints(
    "What is limited: the frame, or the message?",
    "Fragments add up, and a message without an end must not fill the memory.",
    "Before taking a data frame, compare the bytes so far plus its length with MAX_MESSAGE; above it, close with 1009.",
)
def test_message_limit(server: Server) -> None:
    """A message of MAX_MESSAGE bytes is served, and one byte more, in one frame or in many, is closed with 1009."""
    client = server.echo()
    assert_echoed(client, b"m" * LIMIT, "t" * LIMIT)
    client.say_in_fragments(b"f" * LIMIT, 1, 50_000)
    assert_back(client, b"f" * LIMIT)

    half = b"x" * (LIMIT // 2)
    assert_fails(server, f"a message of {LIMIT + 1} bytes", (1009,), F(BINARY, half * 2 + b"x"))
    parts = [F(TEXT, half), F(CONTINUATION, half), F(CONTINUATION, b"x")]
    what = f"an unfinished message of {LIMIT + 1} bytes so far"
    assert_fails(server, what, (1009,), *(part.but(fin=False) for part in parts))


GOOD_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
BAD_CODES = (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999)


@behaviour(stage=2, points=3, hidden=True, source=rfc(6455, "7.4", "Status Codes"), needs="close_handshake")
@hints(
    "Which numbers may stand in a Close, and which are only names for what happened?",
    "1005, 1006 and 1015 are never sent, 1004 and 1016 to 2999 are not defined, and 3000 to 4999 are anybody's.",
    "Allow 1000-1003, 1007-1014 and 3000-4999; answer everything else with 1002.",
)
def test_close_contents(server: Server) -> None:
    """Codes and reasons that may be sent are answered; other codes are 1002, and a reason must be UTF-8."""
    for code in GOOD_CODES:
        client = server.echo()
        client.close(code)
        client.until_close(code, 1000)
    for payload in (*(close_payload(code) for code in BAD_CODES), b"\x03"):
        client = server.echo()
        client.said_close = True
        client.frame(CLOSE, payload)
        client.until_close(1002)
    for reason in (b"\xff", b"\xce\xba\xed\xa0\x80edited", "é".encode()[:1]):
        client = server.echo()
        client.close(1000, reason)
        client.until_close(1007, 1002)
    client = server.echo()
    client.close(1000, "ünïcödé 😀")
    client.until_close(1000)


@behaviour(stage=2, hidden=True, points=3, source=rfc(6455, "5.5.1", "Close"), needs=("close_handshake", "room"))
def test_nothing_after_close(server: Server) -> None:
    """What a client sends behind its Close is ignored, and what it said before reaches the room."""
    client = server.echo()
    behind = client.bytes_of(PING, b"late") + client.bytes_of(TEXT, b"late") + client.bytes_of(CLOSE, b"\x03\xe9")
    client.said_close = True
    client.send(client.bytes_of(CLOSE, b"\x03\xe8") + behind, "Close 1000; then a Ping, a text, another Close")
    answer = client.until_close(1000)
    assert not client.pongs, f"nothing behind a Close is answered but the Close, {answer.code}, and a Pong came"
    assert len(client.messages) == client.taken, "nothing behind a Close is a message, and it was echoed"

    ann, ben, cem = server.members("ann", "ben", "cem")
    ann.said_close = True
    frames = [(TEXT, b"before"), (CLOSE, b"\x03\xe8"), (TEXT, b"behind")]
    ann.send(b"".join(ann.bytes_of(*each) for each in frames), "a text; Close 1000; another text")
    ann.until_close(1000)
    assert ben.next("what ann said before her Close") == "before", "ben is owed what ann said before her Close"
    server.fence(cem, ben)


VALID_TEXTS = (
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5",
    b"\x00\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf",
    b"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
    b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd\xef\xbf\xbe\xef\xbb\xbf\xef\xbf\xb9",
    b"hello$world \xc2\xa2 \xe2\x82\xac \xf0\xa4\xad\xa2 \xf0\x9f\xbf\xbe",
)


INVALID_TEXTS = (
    b"\x80",  # continuations of nothing
    b"\xbf\x80",
    b"\xc0\x80",  # overlong forms: of NUL, of /, and the longest ones
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",  # above U+10FFFF
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xed\xa0\x80",  # a surrogate, and two of them
    b"\xed\xaf\xbf\xed\xbf\xbf",
    b"\xfe",  # bytes that are in no text
    b"\xff",
    b"\xe0 ",  # beginnings without an end
    b"\xdf\xef\xbf",
    b"\xce\xba\xe1\xbd",
    b"\xdf",
    b"\xf0\x90\x80",
)


@behaviour(
    stage=2,
    points=3,
    source=rfc(6455, "8.1", "Handling Errors in UTF-8-Encoded Data"),
    needs=("fragments", "masking_required"),
)
@hints(
    "Which texts does your decoder take that are none?",
    "Overlong forms, surrogates, numbers above U+10FFFF, and a character that the message leaves unfinished.",
    "Decode strictly, and once more with final=True when the message ends; UnicodeDecodeError is a Close with 1007.",
)
def test_text_is_utf8(server: Server) -> None:
    """Text that is UTF-8 comes back, though fragments cut its characters; any other ends the connection with 1007."""
    client = server.echo()
    for payload in VALID_TEXTS:
        text = payload.decode()
        client.say(text)
        client.say_in_fragments(text, *range(1, len(payload)))
        client.say_in_fragments(text, 1, 1, len(payload) - 1)
        assert_back(client, text, text, text)
    for payload in INVALID_TEXTS:
        what = f"a text of the bytes {payload.hex(' ')}"
        assert_fails(server, what, (1007,), F(TEXT, payload), then=TEXT)
    for payload in INVALID_TEXTS[-3:]:
        bad = server.echo()
        for at in range(len(payload)):
            bad.frame(CONTINUATION if at else TEXT, payload[at : at + 1], fin=False)
        bad.frame(CONTINUATION)
        bad.until_close(1007)
        assert len(bad.messages) == bad.taken, "a text that is no UTF-8 is no message, and was echoed"
    assert_echoed(client, *VALID_TEXTS, *INVALID_TEXTS)  # binary messages may be anything


@behaviour(stage=2, points=3, hidden=True, source=brief("R6", "as early as it can be"), needs="text_is_utf8")
@hints(
    "When do you know that a text is none?",
    "With the first byte that no character can go on with, in whatever fragment it stands.",
    "Keep an incremental decoder for the message, and feed it whatever has come, before the frame is complete.",
)
def test_utf8_fails_fast(server: Server) -> None:
    """A text is refused with the byte that makes it invalid, though neither its message nor its frame is complete."""
    good = "κόσμε".encode()
    for bad in (b"\xf4\x90", b"\xc0", b"ok\xff", b"\xe0\x80"):
        client = server.echo()
        client.frame(TEXT, good, fin=False)
        client.frame(CONTINUATION, bad, fin=False)
        client.until_close(1007)
    for begin, bad in ((b"\xf4", b"\x90"), (good + b"\xf0", b"\x41"), (b"plain ", b"\xff")):
        client = server.echo()
        whole, head = client.bytes_of(TEXT, begin + bad + b"x" * 40), 6  # bytes of a short head
        client.send(whole[: head + len(begin)], f"a text that goes on behind {begin!r}")
        server.solution.settled()
        assert not client.close_frame, "what came so far may become a text, and was refused"
        client.send(whole[head + len(begin) :][: len(bad)], f"its next byte, {bad.hex()}, with which no text goes on")
        client.until_close(1007)


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, hidden=True, source=brief("R8", "who has the 101 is in"), needs="room")
@hints(
    "When is a client a member: before or behind its 101?",
    "Whatever is awaited between the 101 and the registration is a gap.",
    "Enter the room first and write the 101 then, or do both without an await in between.",
)
def test_open_means_member(server: Server) -> None:
    """Who has the 101 misses nothing that is said from then on."""
    ann = server.join("ann")
    for number in range(8):
        comer = server.join(f"comer {number}")
        word = server.word()
        ann.say(word)
        assert comer.next("what was said after it had its 101") == word, "a member is owed what is said"
        comer.hang_up()


@behaviour(stage=3, source=brief("R8", "one order for all"), needs="room")
def test_one_order_for_all(server: Server) -> None:
    """Many speak at once: all members get everything in one order, which keeps each speaker's own."""
    speakers, listeners = server.members("p0", "p1", "p2", "p3"), server.members("ann", "ben", "cem")
    said = {speaker.name: [f"{speaker.name} {number}" for number in range(10)] for speaker in speakers}
    with server.solution.frozen():
        for speaker in speakers:
            frames = b"".join(speaker.bytes_of(TEXT, text.encode()) for text in said[speaker.name])
            speaker.send(frames, f"10 texts, {speaker.name} 0 to 9")
    orders = [listener.until_messages(40) for listener in listeners]
    assert orders[0] == orders[1] == orders[2], "one order is owed to all members"
    for speaker in speakers:
        own = [text for text in orders[0] if text in said[speaker.name]]
        assert own == said[speaker.name], f"{speaker.name}'s own order is kept, and came {own}"
        others = [text for text in orders[0] if text not in own]
        assert speaker.until_messages(30) == others, f"{speaker.name} is owed what the others said, in that order"
    server.fence(speakers[0], *listeners)


@behaviour(stage=3, hidden=True, source=brief("R8", "nobody waits for another"), needs="room")
@hints(
    "Whose time does a client take that sends half a frame?",
    "What has come of a message is kept with its own connection.",
    "Hand a message out only when it is complete; nothing of it is shared before.",
)
def test_unfinished_message_blocks_nobody(server: Server) -> None:
    """Who is in the middle of a message, or of a frame, delays nobody, and is heard when it is complete."""
    drip, halting, quick, ann = server.members("drip", "halting", "quick", "ann")
    frame = drip.bytes_of(TEXT, b"half of a frame")
    drip.send(frame[:9], "the first 9 bytes of a frame")
    halting.frame(BINARY, b"first fragment, ", fin=False)
    server.solution.settled()

    quick.say("quick")
    assert ann.next() == "quick", "what is complete is owed at once"
    halting.ping(b"p")
    halting.until_pong(b"p")
    drip.send(frame[9:], "the rest of the frame")
    assert ann.next() == "half of a frame", "a frame that came in two pieces is a message"
    halting.frame(CONTINUATION, b"last fragment")
    assert ann.next() == b"first fragment, last fragment", "fragments are joined, whoever spoke in between"


@behaviour(stage=3, points=5, source=brief("R9", "a slow member"), needs="room")
@hints(
    "Who waits when one socket is full?",
    "Delivering must only append to what waits for that one member.",
    "No `await drain()` while a message is handed out: write, and compare what waits with MAX_PENDING.",
)
def test_slow_member_delays_nobody(server: Server) -> None:
    """While a member does not read, the others hear each other at once; when it reads again it has missed nothing."""
    slow, said = server.stalled()
    ann, ben = server.members("ann", "ben")
    words = [server.word() for _ in range(20)]
    for word in words:
        ann.say(word)
    assert ben.until_messages(20, "all 20 messages, though another member does not read") == words, "in their order"
    assert_echoed(server.echo(), "served")

    slow.connection.read_again()
    came = slow.until_messages(len(said) + 20, "everything that was said, once it reads again")
    assert came == [*said, *words], "the slow one is owed everything, in order, once it reads"


@behaviour(stage=3, hidden=True, source=brief("R8", "members come and go"), needs="slow_member_delays_nobody")
@hints(
    "Your list of members changes while you walk it.",
    "Decide who gets a message before you write the first byte.",
    "`for member in list(room)`, without an await inside, and skip connections that are closed.",
)
def test_members_come_and_go(server: Server) -> None:
    """Members that come, close or vanish while messages are handed out disturb nobody."""
    slow, said = server.stalled()
    staying, leaving, dying, ann, ben = server.members("staying", "leaving", "dying", "ann", "ben")
    with server.solution.frozen():
        ann.say("first")
        leaving.close()
        dying.hang_up()
        comer = server.dial("comer", f"/rooms/{server.room}")
    comer.opened()
    leaving.until_close(1000)
    assert staying.next() == "first", "the one that stays is owed what was said in that moment"
    ben.say("second")

    for member in (staying, ann):
        assert member.next() == "second", f"{member.name} is owed what ben said"
    server.solution.until(lambda: "second" in comer.messages or comer.ended, "what was said since it came", "comer")
    assert comer.messages in (["second"], ["first", "second"]), f"the one that came got {comer.messages}"
    slow.connection.read_again()
    came = slow.until_messages(len(said) + 2, "both, once it reads again")
    assert came[len(said) :] == ["first", "second"], "the slow one is owed both"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


def flood(server: Server, speaker: WebSocket, healthy: WebSocket, slow: WebSocket, behind: int) -> int:
    """Say 64 KiB at a time, which `healthy` keeps up with, until `slow` is `behind` by so many bytes; how often."""
    said = 0
    while said * BIG - server.solution.kernel_holds(slow.connection) < behind:
        server.fill(speaker, 2, said)
        said += 2
        came = healthy.until_messages(said, "every message, though another member does not read")
        assert numbers(came[-2:]) == [said - 2, said - 1], "the healthy member is owed every message, in order"
    return said


@behaviour(stage=4, points=5, settings=SHORT, source=brief("R9", "MAX_PENDING"), needs="slow_member_delays_nobody")
@hints(
    "What waits for a member that does not read must end somewhere.",
    "Compare what waits with MAX_PENDING after each message; skipping single messages would be a lie.",
    "Above the limit leave the room first, and then abort the connection.",
)
def test_slow_member_is_cut(server: Server) -> None:
    """A member more than MAX_PENDING behind is cut, has seen no gap, and the others have everything."""
    slow = server.join("slow", slow=True)
    ann, ben = server.members("ann", "ben")
    said = flood(server, ann, ben, slow, 2 * MIB)
    slow.connection.read_again()
    slow.answers_close = False
    server.solution.until(lambda: slow.ended, "an end for a member that is more than MAX_PENDING behind", "slow")
    slow.check()
    seen = numbers(slow.messages)
    assert len(seen) < said, "a member that is more than MAX_PENDING behind is cut off"
    assert seen == list(range(len(seen))), "what a slow member gets before the cut has no gap"
    server.fence(ann, ben)


@behaviour(
    stage=4, points=5, hidden=True, settings=SHORT, source=brief("R9", "a client of the echo"), needs="any_pieces"
)
@hints(
    "Your client sends and never reads: where do its echoes wait?",
    "Who does not read need not be read from: then TCP makes it wait by itself.",
    "`await writer.drain()` behind each echo, or cut the client above MAX_PENDING.",
)
def test_echo_to_a_client_that_does_not_read(server: Server) -> None:
    """A client of the echo that sends and does not read has little kept for it, and delays nobody."""
    greedy = server.echo("greedy", slow_reader=True)
    other = server.echo("other")
    greedy.connection.stop_reading()
    message, number = b"m" * BIG, 64
    frames = greedy.bytes_of(BINARY, message) * number
    greedy.send(frames, f"{number} messages of 64 KiB, and none is read")
    server.solution.settled()
    kept = kept_for(server, greedy)
    assert kept < 4 * SHORT["MAX_PENDING"], (
        f"{kept >> 10} KiB are kept for a client that does not read; MAX_PENDING is {SHORT['MAX_PENDING'] >> 10} KiB"
    )
    assert_echoed(other, "served")
    greedy.connection.read_again()
    some = lambda: len(greedy.messages) > 3 or greedy.ended  # noqa: E731
    server.solution.until(some, "its echoes, or an end", "greedy")
    assert set(greedy.messages[1:]) <= {message}, "what comes is what was sent"
    greedy.hang_up()


def kept_for(server: Server, client: WebSocket) -> int:
    """Bytes of a client of the echo that the server itself has: taken from the kernel, and not given back to it.

    That is exact, where its memory would only tell when its garbage was collected last.
    """
    unread = server.solution.unread(client.connection)
    if unread is None or client.ended:
        return 0
    taken, given = client.connection.sent - unread, client.connection.received
    return taken - given - server.solution.kernel_holds(client.connection)


@behaviour(
    stage=4,
    points=4,
    alone=True,
    settings={"PING_INTERVAL_MS": 20, "PONG_TIMEOUT_MS": 60},
    source=rfc(6455, "5.5.2", "Ping"),
    needs="ping_pong",
)
@hints(
    "How do you know that somebody is still there who says nothing?",
    "Ask with a Ping; only an answer is a proof of life.",
    "Note when you last heard of the client; if that lies before your Ping when PONG_TIMEOUT_MS is over, end it.",
)
def test_silent_client_is_ended(server: Server) -> None:
    """A client that is silent gets a Ping, and one that does not answer is ended; one that does is kept."""
    live = outlives_a_silent_one(server)
    if live.ended:  # on a slow machine its Pong may have been late
        server.solution.kill()
        server.solution.restart(PING_INTERVAL_MS=200, PONG_TIMEOUT_MS=PATIENT)
        live = outlives_a_silent_one(server)
    assert not live.ended, f"it answered each of {len(live.pings)} Pings, and was ended all the same"


def outlives_a_silent_one(server: Server) -> WebSocket:
    """A client that answers Pings, asked once more after another that does not was ended; or ended itself."""
    silent, live = server.join("silent"), server.join("live")
    silent.answers_pings = silent.answers_close = False
    asked = f"a Ping after PING_INTERVAL_MS, {server.solution.settings['PING_INTERVAL_MS']}"
    server.solution.until(lambda: silent.pings or silent.ended, asked, "silent")
    assert silent.pings, "a Ping is owed before anybody is taken for dead"
    late = f"an end, PONG_TIMEOUT_MS, {server.solution.settings['PONG_TIMEOUT_MS']}, after a Ping without an answer"
    server.solution.until(lambda: silent.ended, late, "silent")
    silent.check()
    seen = len(live.pings)
    server.solution.until(lambda: len(live.pings) > seen or live.ended, "the next Ping", "live")
    return live


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings={"HANDSHAKE_TIMEOUT_MS": 60},
    source=brief("R4", "HANDSHAKE_TIMEOUT_MS"),
    needs="handshake",
)
def test_unfinished_handshake_is_ended(server: Server) -> None:
    """A client that does not finish its handshake is ended in time, and delays nobody."""
    client = quick(server)
    drips = [server.solution.connect("silent"), server.solution.connect("drip")]
    drips[1].send(request()[:-2])
    server.solution.settled()
    assert_echoed(client, "not delayed")
    server.solution.until(lambda: all(drip.ended for drip in drips), "an end, HANDSHAKE_TIMEOUT_MS after they came")
    assert_echoed(client, "an open connection has all the time it wants")


def quick(server: Server) -> WebSocket:
    """A client whose handshake is over in time; where none is, on a slow machine, the server is to give more."""
    client = server.dial("quick")
    server.solution.until(lambda: client.status or client.ended, "a response", "quick")
    if client.status != 101:
        server.solution.kill()
        server.solution.restart(HANDSHAKE_TIMEOUT_MS=PATIENT)
        client = server.dial("quick")
    return client.opened()


@behaviour(stage=4, hidden=True, alone=True, points=5, source=brief("R10", "bad clients"), needs="room")
@hints(
    "What is left of a client that is gone?",
    "Its socket, its place in the room, and the beginning of what it wanted to say: all three go with it.",
    "One `finally` for every way in which a connection may end: leave the room, close the socket.",
)
@incident(
    "In the library ws for Node, a handshake with more header fields than Node keeps ended the process, "
    "and with it everybody's connection (CVE-2024-37890)."
)
def test_bad_clients_hurt_nobody(server: Server) -> None:
    """Who vanishes in the middle of anything, or sends garbage, harms nobody else, and leaves nothing behind."""
    ann, ben = server.members("ann", "ben")
    server.fence(ann, ben)
    server.solution.settled()
    before = server.solution.sockets()
    for ending in ("hang_up", "half_close"):
        gone = vanishing(server)
        for client in gone:
            getattr(client.connection, ending)()
        if ending == "half_close":
            over = "the server's end of connections that the clients have closed"
            server.solution.until(lambda: all(client.ended for client in gone), over)  # noqa: B023
    server.solution.settled()
    server.fence(ann, ben)  # nothing that was never complete is a message

    for number in range(6):
        member, stranger = server.join(f"offender {number}"), server.solution.connect(f"stranger {number}")
        member.send(server.chance.randbytes(40), "40 bytes at random")
        stranger.send(GARBAGE[number % len(GARBAGE)])
        if number % 3:
            server.solution.settled()
        member.hang_up()
        stranger.hang_up()
    server.solution.settled()
    ben.until_messages(len(ben.messages))  # what was said at random may have been a message
    server.fence(ann, ben)
    server.solution.until(
        lambda: server.solution.sockets() <= before, "an end of the sockets of 22 clients that are gone"
    )


GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(0x80, 0x100)) + b"\r\n\r\n",  # TLS
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x00\xff garbage \r\n\r\n",
)


def vanishing(server: Server) -> list[WebSocket]:
    """Five members in the middle of something."""
    gone = server.members(*(f"gone {number}" for number in range(5)))
    frame = gone[0].bytes_of(TEXT, b"never complete")
    gone[0].send(frame[:1], "one byte of a frame")
    gone[1].send(frame[:-1], "a frame but for its last byte")
    gone[2].frame(TEXT, b"a fragment", fin=False)
    gone[3].ping(b"p")
    server.solution.settled()
    return gone


@behaviour(
    stage=4,
    alone=True,
    points=5,
    settings={"CLOSE_TIMEOUT_MS": 20_000},
    source=rfc(6455, "7.4.1", "Defined Status Codes (1001)"),
    needs="close_handshake",
)
@hints(
    "What does a browser see when your process simply ends?",
    "1006 and an error. A Close with 1001 tells it that it may come back.",
    "Accept nobody, send Close 1001 behind what waits, read until the client's Close comes, close TCP, exit.",
)
def test_sigterm_goes_away(server: Server) -> None:
    """On SIGTERM every client gets what waits for it, then a Close with 1001; the server answers no more, and exits."""
    slow, said = server.stalled()
    ann, ben = server.members("ann", "ben")
    echo = server.echo("echo")
    server.fence(ann, ben)
    ben.answers_close = False
    server.solution.terminate()
    server.solution.settled()
    late = server.dial("late")
    server.solution.until(lambda: ben.close_frame, "a Close with 1001", "ben")
    assert not ben.ended, "the client has not answered the Close yet, and the connection was closed"
    ben.close(1001)
    for client in (ann, ben, echo):
        client.until_close(1001)
    slow.connection.read_again()
    slow.until_close(1001)
    assert slow.messages[: len(said)] == said, f"{len(said)} messages were waiting, {len(slow.messages)} came"
    status = server.solution.until_exit("to end once every client has gone")
    assert status in STOPPED, f"exit status 0, 143 or an end by SIGTERM is owed, and came {status}"
    assert late.status != 101, "who comes after SIGTERM is not let in, and got 101"


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings={"CLOSE_TIMEOUT_MS": 80},
    source=brief("R11", "CLOSE_TIMEOUT_MS"),
    needs="close_handshake",
)
def test_sigterm_is_bounded(server: Server) -> None:
    """Clients that do not answer the Close, or do not read at all, can't keep the server from ending."""
    server.stalled()
    server.join("deaf").answers_close = False
    assert_echoed(server.echo(), "served")
    server.solution.terminate()
    server.solution.until_exit("to end CLOSE_TIMEOUT_MS after SIGTERM, though two clients do nothing")


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=3, source=brief("R12", "many members"), needs="one_order_for_all")
def test_many_members(server: Server) -> None:
    """110 members of one room hear everything that is said."""
    members = [server.dial(f"member {number}", f"/rooms/{server.room}") for number in range(110)]
    for member in members:
        member.opened()
    for word in ("one", "two", "three"):
        members[0].say(word)
    for member in members[1:]:
        assert member.until_messages(3) == ["one", "two", "three"], f"{member.name} is owed all three"


@behaviour(stage=5, hidden=True, alone=True, source=brief("R12", "memory"), needs="room")
def test_rooms_leave_nothing_behind(server: Server) -> None:
    """Rooms and clients that are gone cost no memory."""
    number = 0

    def visit_60_rooms() -> None:
        nonlocal number
        visitors = []
        for _ in range(60):
            number += 1
            visitors.append(server.dial("visitor", f"/rooms/{number:064d}"))
        for visitor in visitors:
            visitor.opened().say("hello")
        server.solution.settled()
        for visitor in visitors:
            visitor.hang_up()
        server.solution.settled()

    assert_levels_off(server, visit_60_rooms, "60 rooms were visited and left", MIB // 4)
    ann, ben = server.join("ann", f"{number:064d}"), server.join("ben", f"{number:064d}")
    server.fence(ann, ben)


def assert_levels_off(server: Server, step: Callable[[], object], what: str, most: int) -> None:
    """Repeat `step` until the server grows by less than `most` bytes.

    What leaks grows each time; what waits for a garbage collector grows until it comes, perhaps tens of MiB later.
    """
    step()
    grown: list[float] = []
    for _ in range(25):
        before = server.solution.memory_bytes()
        step()
        grown.append((server.solution.memory_bytes() - before) / MIB)
        if grown[-1] * MIB < most:
            return
    raise AssertionError(f"{what}, {len(grown)} times: each time the server grew, by {sum(grown):.1f} MiB in all")
