"""A NATS client that the harness plays: raw frames on a recorded connection, strict in what it accepts.

It answers PING by itself (unless told to stay silent) and skips asynchronous INFO. Fences are PING and PONG:
on one connection a PONG comes after every frame that earlier commands of that connection caused.
Source: docs.nats.io, reference/nats-protocol/nats-protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.solution.program import Solution
from harness.story.record import Label
from harness.verdicts import Broken
from harness.wire.tcp import Connection

CONNECT = {
    "verbose": False,
    "pedantic": False,
    "echo": True,
    "protocol": 0,
    "lang": "harness",
    "version": "1.0.0",
}
MSG = re.compile(rb"MSG ([^ \t\r\n]+) ([^ \t\r\n]+) (?:([^ \t\r\n]+) )?([0-9]{1,9})")
SHOWN = 41  # bytes of a payload that a story is given; forty are shown, one more tells that it goes on
ERR = re.compile(rb"-ERR '(.*)'", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Msg:
    """A message as it was delivered."""

    subject: str
    sid: str
    payload: bytes
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Ok:
    """+OK, in verbose mode."""


@dataclass(frozen=True, slots=True)
class Err:
    """-ERR with its text, quotes removed."""

    text: str


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes that are no frame of a NATS server."""

    line: bytes
    why: str


Frame = Msg | Ok | Err | Garbage


class NatsClient:
    """One client connection. `frames` holds what arrived besides INFO, PING and PONG, oldest first."""

    def __init__(self, solution: Solution, name: str, slow_reader: bool = False) -> None:
        self.solution, self.name = solution, name
        self.frames: list[Frame] = []
        self.info: dict[str, Any] | None = None
        self.pings = 0
        self.answers_pings = True
        self._expected_pongs = 0
        self._pongs: list[int] = []  # for each PONG, how many frames had arrived before it
        self._arrived = self._taken = 0
        self._body: tuple[bytes, bytes, bytes, int] | None = None  # MSG whose payload is not complete
        self.connection: Connection = solution.connect(name, slow_reader)
        self.connection.on_bytes = self._parse

    # -- saying -------------------------------------------------------------------------------------------------

    def send(self, data: bytes, label: Label = "") -> None:
        """Send bytes as they are, well-formed or not."""
        shown = label or data[:200].decode(errors="replace").replace("\r\n", "␍␊")
        self.solution.record.add("message", self.name, self._peer, shown, data, self.name)
        self.connection.send(data)

    def send_in_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send each piece in a segment of its own, the next one only when the solution has read it."""
        for piece in pieces:
            self.send(piece)
            self.solution.settled()

    def connect(self, **options: Any) -> None:
        """CONNECT with all the options that the protocol names; keywords override them."""
        options = CONNECT | options
        told = {key: options[key] for key in ("verbose", "echo") if options[key] != CONNECT[key]}
        self.send(
            b"CONNECT " + json.dumps(options).encode() + b"\r\n",
            f"CONNECT {json.dumps(told) if told else '{}'}",
        )

    def sub(self, subject: str, sid: str | int, queue: str = "") -> None:
        self.send(f"SUB {subject} {queue + ' ' if queue else ''}{sid}\r\n".encode())

    def unsub(self, sid: str | int, most: int | None = None) -> None:
        self.send(f"UNSUB {sid}{'' if most is None else f' {most}'}\r\n".encode())

    def pub(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        self.send(*publication(subject, payload, reply))

    def ping(self) -> int:
        """Send PING; the result is the number of PONGs that are owed so far."""
        self.send(b"PING\r\n", "PING")
        self._expected_pongs += 1
        return self._expected_pongs

    # -- hearing ------------------------------------------------------------------------------------------------

    def greeted(self) -> NatsClient:
        """Wait for INFO, send CONNECT, and fence: the usual beginning."""
        self.solution.until(lambda: self.info is not None or self.ended, "INFO", self.name)
        assert self.info is not None, f"the broker owes {self.name} an INFO line, and closed the connection instead"
        self.connect()
        self.fence()
        return self

    def fence(self) -> None:
        """PING, and wait for its PONG: everything sent before has been handled."""
        self.until_pong(self.ping())

    def until_pong(self, number: int) -> int:
        """Wait for the PONG of that `ping`; how many frames had arrived before it."""
        self.solution.until(lambda: len(self._pongs) >= number or self.ended, "PONG", self.name)
        if len(self._pongs) < number:
            last = next((frame for frame in reversed(self.frames) if isinstance(frame, Err)), None)
            raise Broken(
                f"{self.name} is owed PONG; the connection was closed instead" + (f" with {last}" if last else "")
            )
        return self._pongs[number - 1]

    def check(self) -> list[Frame]:
        """PING, and take everything that arrives before its PONG: what is not among it is not under way."""
        mark = self.until_pong(self.ping())
        return self._take(mark - self._taken)

    def messages(self) -> list[Msg]:
        """Like `check`, when nothing but messages may arrive."""
        return [self._message(frame) for frame in self.check()]

    def next_frame(self, owed: str) -> Frame:
        """Wait for one frame and take it."""
        self.solution.until(lambda: bool(self.frames) or self.ended, owed, self.name)
        assert self.frames, f"{self.name} is owed {owed}; the connection was closed instead"
        return self._take(1)[0]

    def until_frames(self, number: int, owed: str) -> list[Frame]:
        """Wait until `number` frames are there, and take them."""
        self.solution.until(lambda: len(self.frames) >= number or self.ended, owed, self.name)
        got = len(self.frames)
        assert got >= number, f"{self.name} is owed {owed}; {got} arrived, then the connection was closed"
        return self._take(number)

    def until_closed(self) -> list[Frame]:
        """Wait for the broker to close the connection, and take the frames that came before that."""
        self.solution.until(lambda: self.ended, "an end of the connection", self.name)
        return self._take(len(self.frames))

    def stays_silent(self, message: str) -> None:
        """Leave a tripwire: the connection stays open, and nothing may arrive on it for the rest of the run."""
        self.connection.stays = True
        self.solution.leave_tripwire(lambda: bool(self.frames), message)

    @property
    def ended(self) -> bool:
        return self.connection.ended

    @property
    def pongs(self) -> int:
        return len(self._pongs)

    # -- ending -------------------------------------------------------------------------------------------------

    def leave(self) -> list[Frame]:
        """Half-close and read to the end: once that is done, the broker has forgotten this client."""
        self.connection.half_close()
        return self.until_closed()

    def hang_up(self) -> None:
        self.connection.hang_up()

    def stop_reading(self) -> None:
        self.connection.stop_reading()

    def read_again(self) -> None:
        self.connection.read_again()

    # -- parsing ------------------------------------------------------------------------------------------------

    @property
    def _peer(self) -> str:
        return self.solution.record.solution

    def _take(self, number: int) -> list[Frame]:
        taken, self.frames = self.frames[:number], self.frames[number:]
        self._taken += len(taken)
        for frame in taken:
            if isinstance(frame, Garbage):
                raise Broken(f"{self.name} got bytes that are no NATS frame: {frame.line[:120]!r} ({frame.why})")
        return taken

    def _message(self, frame: Frame) -> Msg:
        assert isinstance(frame, Msg), f"{self.name} is owed messages only, and got {frame}"
        return frame

    def _parse(self, connection: Connection) -> None:
        inbox, at = connection.inbox, 0
        while True:
            if self._body:
                end = at + self._body[3]
                if len(inbox) < end + 2:
                    break
                self._payload(bytes(inbox[at:end]), bytes(inbox[end : end + 2]))
                at = end + 2
                continue
            newline = inbox.find(b"\n", at)
            if newline < 0:
                break
            line = bytes(inbox[at : newline + 1])
            at = newline + 1
            self._line(line)
        del inbox[:at]

    def _line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            self._arrive(Garbage(line, "the line does not end with CRLF"), line)
            return
        text = line[:-2]
        verb, _, rest = text.partition(b" ")
        match verb.upper(), rest:
            case b"MSG", _:
                self._control_line(text, line)
            case b"PING", b"":
                self.pings += 1
                self._record("PING", line)
                if self.answers_pings:
                    self.send(b"PONG\r\n", "PONG")
            case b"PONG", b"":
                self._record("PONG", line)
                self._pongs.append(self._arrived)
            case b"+OK", b"":
                self._arrive(Ok(), line, "+OK")
            case b"-ERR", _:
                found = ERR.fullmatch(text)
                frame = Err(found[1].decode(errors="replace")) if found else Garbage(line, "-ERR wants a quoted text")
                self._arrive(frame, line)
            case b"INFO", _:
                self._info(rest, line)
            case _:
                self._arrive(Garbage(line, "no such frame"), line)

    def _info(self, text: bytes, line: bytes) -> None:
        try:
            info = json.loads(text)
        except (ValueError, RecursionError) as error:  # deeply nested brackets are the second
            self._arrive(Garbage(line, f"INFO is not JSON: {error}"), line)
            return
        if not isinstance(info, dict):
            self._arrive(Garbage(line, "INFO is not an object"), line)
            return
        self._record("INFO {…}", line)
        if self.info is None:
            self.info = info

    def _control_line(self, text: bytes, line: bytes) -> None:
        found = MSG.fullmatch(text)
        if found is None:
            self._arrive(Garbage(line, "MSG <subject> <sid> [reply-to] <#bytes>, joined by one space"), line)
            return
        self._body = found[1], found[2], found[3] or b"", int(found[4])

    def _payload(self, payload: bytes, ending: bytes) -> None:
        assert self._body is not None
        subject, sid, reply, size = self._body
        self._body = None
        if ending != b"\r\n":
            self._arrive(
                Garbage(
                    payload[-60:] + ending,
                    f"the {size} bytes of the payload are not followed by CRLF",
                )
            )
            return
        message = Msg(
            subject.decode(errors="replace"),
            sid.decode(errors="replace"),
            payload,
            reply.decode(errors="replace"),
        )
        self._arrive(message, payload, partial(delivered, message.subject, message.sid, reply, size, payload[:SHOWN]))

    def _arrive(self, frame: Frame, data: bytes = b"", label: Label = "") -> None:
        self._record(label or data[:200].decode(errors="replace").replace("\r\n", "␍␊"), data)
        self.frames.append(frame)
        self._arrived += 1

    def _record(self, label: Label, data: bytes) -> None:
        self.solution.record.add("message", self._peer, self.name, label, data, self.name)


def publication(subject: str, payload: bytes, reply: str = "") -> tuple[bytes, Label]:
    """The bytes of a PUB frame, and how a story shows it."""
    head = f"PUB {subject} {reply + ' ' if reply else ''}{len(payload)}"
    return head.encode() + b"\r\n" + payload + b"\r\n", partial(published, head, payload[:SHOWN])


def published(head: str, payload: bytes) -> str:
    return f"{head} ␍␊ {shown(payload)}"


def delivered(subject: str, sid: str, reply: bytes, size: int, payload: bytes) -> str:
    """A MSG frame as a story shows it."""
    head = " ".join(filter(None, ["MSG", subject, sid, reply.decode(errors="replace"), str(size)]))
    return f"{head} ␍␊ {shown(payload)}"


def shown(payload: bytes) -> str:
    """The beginning of a payload, as text."""
    text = payload[: SHOWN - 1].decode(errors="replace").replace("\r\n", "␍␊")
    return text + ("…" if len(payload) >= SHOWN else "")
