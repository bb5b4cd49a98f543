"""A WebSocket client that the harness plays, on a recorded connection: it says anything, and takes only what is right.

The response to its handshake is judged by h11, frames by the strict reader. What no client could take ends up in
`fault`, and every wait tells it. It answers Ping and Close by itself, unless told not to.
Source: RFC 6455, sections 4.1, 5.5 and 7.1.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterable
from typing import Any

import h11

from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.tcp import Connection
from harness.wire.websocket import (
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    PONG,
    Close,
    Frame,
    Message,
    Reader,
    accept_of,
    close_payload,
    closing,
    described,
    frame,
    opcode_and_payload,
    shown,
    told,
)

Fields = list[tuple[str, str]]


class WebSocket:
    """One client. Creating it sends the opening handshake; what came stands in `messages`, `pongs`, `close`."""

    def __init__(
        self,
        solution: Solution,
        name: str,
        target: str,
        fields: Fields | None = None,
        request: bytes = b"",
        key: str = "",
        slow_reader: bool = False,
        chance: random.Random | None = None,
    ) -> None:
        """`fields` are sent beside the usual ones; `request` is sent as it is instead of all that, and has that `key`.

        Keys come from `chance`: here they must be new to the server, and not hard to guess.
        """
        self.solution, self.name = solution, name
        self._chance = chance or random.Random(f"{name}{target}")
        self.key = key or base64.b64encode(self._chance.randbytes(16)).decode()
        self.status: int | None = None
        self.headers: Fields = []
        self.body = bytearray()  # of a refusal
        self.messages: list[Message] = []
        self.taken = 0  # how many of them were waited for
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.close_frame: Close | None = None
        self.fault = ""
        self.answers_pings = self.answers_close = True
        self.said_close = False
        self._refused = False  # completely: the response that is no 101 has its end
        self._reader = Reader(self._frame, self._message)
        self._http = h11.Connection(h11.CLIENT)
        self.connection: Connection = solution.connect(name, slow_reader)
        self.connection.on_bytes = self._parse
        self._ask(target, fields or [], request)

    # -- saying -------------------------------------------------------------------------------------------------

    def send(self, data: bytes, label: str) -> None:
        """Send bytes as they are, well-formed or not."""
        self.solution.record.add("message", self.name, self._peer, label, data, self.name)
        self.connection.send(data)

    def frame(self, opcode: int, payload: bytes = b"", **shape: Any) -> None:
        """Send one frame; `shape` is that of `frame`, and a fresh key masks it."""
        data = self.bytes_of(opcode, payload, **shape)
        odd = "".join(f" {name}={value!r}" for name, value in shape.items())
        self.send(data, f"{described(opcode, payload)}{odd}")

    def bytes_of(self, opcode: int, payload: bytes = b"", **shape: Any) -> bytes:
        """The bytes of such a frame, not sent."""
        return frame(opcode, payload, **({"key": self._chance.randbytes(4)} | shape))

    def say(self, message: Message) -> None:
        """Send a message in one frame."""
        self.frame(*opcode_and_payload(message))

    def say_in_fragments(self, message: Message, *cuts: int) -> None:
        """Send a message cut at these places, each piece in a frame of its own."""
        kind, payload = opcode_and_payload(message)
        ends = [*cuts, len(payload)]
        for number, (begin, end) in enumerate(zip([0, *cuts], ends, strict=True)):
            self.frame(CONTINUATION if number else kind, payload[begin:end], fin=number == len(cuts))

    def in_pieces(self, pieces: Iterable[bytes], label: str) -> None:
        """Send each piece in a segment of its own, the next one only when the solution has read it.

        A Ping that comes meanwhile is answered behind the last piece: the answer must not fall into a frame.
        """
        answering, self.answers_pings = self.answers_pings, False
        before = len(self.pings)
        for piece in pieces:
            self.send(piece, label)
            self.solution.settled()
        self.answers_pings = answering
        for payload in self.pings[before:] if answering else []:
            self.frame(PONG, payload)

    def ping(self, payload: bytes = b"") -> None:
        self.frame(PING, payload)

    def close(self, code: int | None = 1000, reason: str | bytes = "") -> None:
        self.said_close = True
        self.frame(CLOSE, close_payload(code, reason))

    def hang_up(self) -> None:
        self.connection.hang_up()

    # -- waiting ------------------------------------------------------------------------------------------------

    def until_answered(self) -> int:
        """Wait for the response to the handshake; its status. Raises Broken."""
        self.solution.until(
            lambda: (self.status and (self.status == 101 or self._refused)) or self._over, "a complete response"
        )
        self.check()
        if self.status is None:
            raise Broken(f"{self.name} is owed a response to its handshake; the connection was closed instead")
        return self.status

    def opened(self) -> WebSocket:
        """Wait until the connection is open, with everything in the response as a client checks it. Raises Broken."""
        status = self.until_answered()
        if status != 101:
            raise Broken(
                f"{self.name} is owed 101, and came {status} {bytes(self.body[:120]).decode(errors='replace')}"
            )
        if self.header("upgrade").lower() != "websocket":
            raise Broken(f"`Upgrade: websocket` is owed with the 101, and came {self.header('upgrade')!r}")
        if "upgrade" not in re.split(r"[ \t]*,[ \t]*", self.header("connection").lower()):
            raise Broken(f"`Connection: Upgrade` is owed with the 101, and came {self.header('connection')!r}")
        if self.header("sec-websocket-accept") != accept_of(self.key):
            raise Broken(
                f"Sec-WebSocket-Accept for the key {self.key} is {accept_of(self.key)}, "
                f"and came {self.header('sec-websocket-accept')!r}"
            )
        return self

    def until_messages(self, number: int, owed: str = "") -> list[Message]:
        """Wait for that many messages in all, and return them. Raises Broken."""
        what = owed or f"message {number}"
        self.solution.until(lambda: len(self.messages) >= number or self._over, what, self.name)
        self.check()
        if len(self.messages) < number:
            raise Broken(f"{self.name} is owed {what}; {self._ending()}")
        self.taken = max(self.taken, number)
        return self.messages[:number]

    def next(self, owed: str = "") -> Message:
        """Wait for the message after those that were waited for. Raises Broken."""
        number = self.taken + 1
        return self.until_messages(number, owed)[-1]

    def until_pong(self, payload: bytes) -> None:
        """Wait for the Pong with that payload. Raises Broken."""
        what = f"a Pong with the payload of the Ping, {shown(payload) or 'which is empty'}"
        self.solution.until(lambda: payload in self.pongs or self._over, what, self.name)
        self.check()
        if payload not in self.pongs:
            raise Broken(f"{self.name} is owed {what}; {self._ending()}")

    def until_close(self, *codes: int) -> Close:
        """Wait for a Close with one of these codes, and for the end of the connection behind it. Raises Broken."""
        wanted = " or ".join(map(str, codes)) or "a code"
        self.solution.until(lambda: self.close_frame or self._over, f"a Close with {wanted}", self.name)
        self.check()
        if self.close_frame is None:
            raise Broken(f"{self.name} is owed a Close with {wanted}; the connection broke off without one")
        if codes and self.close_frame.code not in codes:
            raise Broken(f"{self.name} is owed a Close with {wanted}, and came {told(self.close_frame)}")
        self.until_ended()
        return self.close_frame

    def until_ended(self) -> None:
        """Wait for the server to close the TCP connection. Raises Broken."""
        behind = " behind the Close" if self.close_frame else ""
        self.solution.until(lambda: self.connection.ended, f"an end of the TCP connection{behind}", self.name)
        self.check()

    def check(self) -> None:
        if self.fault:
            raise Broken(f"what came to {self.name} is no WebSocket: {self.fault}")

    def stays_silent(self, message: str) -> None:
        """Leave a tripwire: the connection stays open, and no further message may come for the rest of the run."""
        before, self.connection.stays = len(self.messages), True
        self.solution.leave_tripwire(lambda: len(self.messages) > before, message)

    def header(self, name: str) -> str:
        """The values of all fields of that name, joined."""
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def ended(self) -> bool:
        return self.connection.ended

    @property
    def _over(self) -> bool:
        return bool(self.fault) or self.connection.ended

    def _ending(self) -> str:
        return f"{told(self.close_frame)} came instead" if self.close_frame else "the connection was closed instead"

    # -- reading ------------------------------------------------------------------------------------------------

    @property
    def _peer(self) -> str:
        return self.solution.record.solution

    def _ask(self, target: str, fields: Fields, request: bytes) -> None:
        host, port = self.solution.address
        usual = [
            ("Host", f"{host}:{port}"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self.key),
            ("Sec-WebSocket-Version", "13"),
        ]
        lines = [f"GET {target} HTTP/1.1", *(f"{key}: {value}" for key, value in [*usual, *fields])]
        data = request or "\r\n".join([*lines, "", ""]).encode("latin-1")
        # h11 only reads here: it is told of the request so that it knows that a 101 may come.
        self._http.send(h11.Request(method="GET", target=target, headers=usual))
        self._http.send(h11.EndOfMessage())
        label = data.split(b"\r\n", 1)[0].decode("latin-1") + "".join(f" {key}: {value}" for key, value in fields)
        self.send(data, label)

    def _parse(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        try:
            if self.status == 101:
                self._reader.feed(data)
            else:
                self._respond(data, connection.eof)
        except (h11.RemoteProtocolError, ValueError) as error:
            self.fault = self.fault or str(error)
        if connection.eof:
            connection.close()  # as clients do: the server has closed first, and may wait for it

    def _respond(self, data: bytes, eof: bool) -> None:
        if data:
            self._http.receive_data(data)
        if eof:
            self._http.receive_data(b"")
        while True:
            match self._http.next_event():
                case h11.Response() | h11.InformationalResponse() as head if head.status_code not in (100, 102, 103):
                    self.status = head.status_code
                    self.headers = [(key.decode(), value.decode("latin-1")) for key, value in head.headers]
                    self._told(f"{self.status} {head.reason.decode('latin-1')}")
                    if self.status == 101:
                        self._reader.feed(self._http.trailing_data[0])
                        return
                case h11.Data() as piece:
                    self.body += piece.data
                case h11.EndOfMessage():
                    self._refused = True
                    return
                case _:
                    return

    def _frame(self, arrived: Frame) -> None:
        self._told(described(arrived.opcode, arrived.payload), arrived.payload)
        if arrived.opcode == PING:
            self.pings.append(arrived.payload)
            if self.answers_pings:
                self.frame(PONG, arrived.payload)
        elif arrived.opcode == PONG:
            self.pongs.append(arrived.payload)
        elif arrived.opcode == CLOSE:
            self.close_frame = closing(arrived)
            if self.answers_close and not self.said_close:
                self.close(None if self.close_frame.code == NO_CODE else self.close_frame.code)

    def _message(self, message: Message) -> None:
        self.messages.append(message)

    def _told(self, label: str, data: bytes = b"") -> None:
        record = self.solution.record
        record.add("message", record.solution, self.name, label, data, self.name)
