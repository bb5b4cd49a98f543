"""WebSocket frames: of any shape on the way out, only proper ones on the way in. Nothing here moves bytes.

What is sent is made of raw frames, since malformed ones are the point. What comes is read strictly: unmasked frames in
their shortest form, whole control frames, fragments in their order, text in UTF-8.
Source: RFC 6455, section 5 (framing), section 7.4 (codes), section 4.2.2 (the accept key).
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NAMES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "Close", PING: "Ping", PONG: "Pong"}
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LONGEST_CONTROL = 125  # bytes
NO_CODE = 1005  # a Close without a code; never on the wire
NEVER_SENT = {1004, 1005, 1006, 1015}
SHOWN = 40

Message = str | bytes  # text or binary


def accept_of(key: str) -> str:
    """What `Sec-WebSocket-Accept` must be for that key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def masked(payload: bytes, key: bytes) -> bytes:
    """Payload XOR key, which is the same in both directions."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(size, "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = b"\x37\xfa\x21\x3d",
    form: int | None = None,
    length: int | None = None,
) -> bytes:
    """The bytes of a frame, well-formed or not.

    `rsv` are the three reserved bits as a number; `key` masks, None leaves the frame unmasked. `form` forces the length
    into 7, 16 or 64 bits; `length` is announced instead of that of the payload.
    """
    size = len(payload) if length is None else length
    if form is None:
        form = 7 if size <= 125 else 16 if size <= 0xFFFF else 64
    mask = 0x80 if key is not None else 0
    first = fin << 7 | rsv << 4 | opcode
    head = {
        7: lambda: struct.pack(">BB", first, mask | size),
        16: lambda: struct.pack(">BBH", first, mask | 126, size),
        64: lambda: struct.pack(">BBQ", first, mask | 127, size),
    }[form]()
    return head + (payload if key is None else key + masked(payload, key))


def close_payload(code: int | None, reason: str | bytes = "") -> bytes:
    text = reason.encode() if isinstance(reason, str) else reason
    return b"" if code is None else struct.pack(">H", code) + text


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it came."""

    opcode: int
    payload: bytes
    fin: bool = True


@dataclass(frozen=True, slots=True)
class Close:
    """A Close as it came; without a code it is 1005."""

    code: int
    reason: str = ""


class Reader:
    """From a server's bytes to frames and messages, however they are cut. Raises ValueError for what must not come."""

    def __init__(self, on_frame: Callable[[Frame], None], on_message: Callable[[Message], None]) -> None:
        self._on_frame, self._on_message = on_frame, on_message
        self._buffer = bytearray()
        self._kind: int | None = None  # of the message whose fragments are coming
        self._parts = bytearray()
        self.closed = False

    @property
    def at_boundary(self) -> bool:
        """No frame is half sent."""
        return not self._buffer

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data
        at = 0
        try:
            while taken := self._take(at):
                at = taken
        finally:
            del self._buffer[:at]

    def _take(self, at: int) -> int:
        """Read the frame that begins there; where the next one does, 0 if it is not complete yet."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return 0
        first, second = buffer[at], buffer[at + 1]
        opcode, size = first & 0x0F, second & 0x7F
        self._check_head(first, second)
        wide = {126: 2, 127: 8}.get(size, 0)
        start = at + 2 + wide
        if len(buffer) < start:
            return 0
        if wide:
            size = int.from_bytes(buffer[at + 2 : start], "big")
            if size <= (LONGEST_CONTROL if wide == 2 else 0xFFFF):
                raise ValueError(f"a length of {size} is not in its shortest form")
        if len(buffer) < start + size:
            return 0
        self._arrived(Frame(opcode, bytes(buffer[start : start + size]), bool(first & 0x80)))
        return start + size

    def _check_head(self, first: int, second: int) -> None:
        opcode, fin = first & 0x0F, first & 0x80
        if self.closed:
            raise ValueError("a frame behind the Close")
        if first & 0x70:
            raise ValueError(f"a frame with reserved bits set ({first:#04x}), and no extension was agreed on")
        if opcode not in NAMES:
            raise ValueError(f"a frame with the reserved opcode {opcode:#x}")
        if second & 0x80:
            raise ValueError("a masked frame; only clients mask")
        if opcode >= CLOSE and (not fin or second > LONGEST_CONTROL):
            raise ValueError(f"a {NAMES[opcode]} that is fragmented, or longer than {LONGEST_CONTROL} bytes")
        if opcode < CLOSE and (opcode == CONTINUATION) != (self._kind is not None):
            raise ValueError(f"a {NAMES[opcode]} frame {'inside of' if self._kind else 'without'} a fragmented message")

    def _arrived(self, frame: Frame) -> None:
        if frame.opcode == CLOSE:
            self.closed = True
            if len(frame.payload) == 1:
                raise ValueError("a Close whose payload is one byte; a code has two")
        self._on_frame(frame)
        if frame.opcode < CLOSE:
            self._add(frame)

    def _add(self, frame: Frame) -> None:
        self._kind = self._kind or frame.opcode
        self._parts += frame.payload
        if frame.fin:
            kind, whole = self._kind, bytes(self._parts)
            self._kind, self._parts = None, bytearray()
            self._on_message(whole.decode() if kind == TEXT else whole)


def closing(frame: Frame) -> Close:
    """The Close that a frame is. Raises ValueError for a code that is never sent, and a reason that is no UTF-8."""
    if not frame.payload:
        return Close(NO_CODE)
    code = int.from_bytes(frame.payload[:2], "big")
    if not 1000 <= code <= 4999 or code in NEVER_SENT:
        raise ValueError(f"a Close with the code {code}, which must not be sent")
    return Close(code, frame.payload[2:].decode())


def opcode_and_payload(message: Message) -> tuple[int, bytes]:
    return (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)


def told(close: Close) -> str:
    """A Close in a few words."""
    code = "without a code" if close.code == NO_CODE else f"{close.code} {close.reason}".rstrip()
    return f"a Close {code}"


def described(opcode: int, payload: bytes) -> str:
    """A frame in a few words: its name, and what it says."""
    name = NAMES.get(opcode, f"opcode {opcode:#x}")
    if opcode == CLOSE and len(payload) >= 2:
        return f"{name} {int.from_bytes(payload[:2], 'big')} {shown(payload[2:])}".rstrip()
    return f"{name} {shown(payload)}".rstrip()


def shown(payload: bytes) -> str:
    """The beginning of a payload, as text where it is some."""
    try:
        text = payload[:SHOWN].decode()
    except UnicodeDecodeError:
        text = payload[:SHOWN].hex(" ")
    return f"({len(payload)} bytes) {text}…" if len(payload) > SHOWN else text
