"""Frames agree with the codec of `websockets`: what is written is read there, what is written there is read here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ProtocolError
from websockets.frames import Close as TheirClose
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader
from websockets.utils import accept_key

from harness.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Frame,
    Message,
    Reader,
    accept_of,
    close_payload,
    closing,
    described,
    frame,
    masked,
)

SIZES = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536])
OPCODES = st.sampled_from([CONTINUATION, TEXT, BINARY])


def their_reading(data: bytes) -> TheirFrame:
    """The frame as a server of `websockets` reads it."""
    stream = StreamReader()
    stream.feed_data(data)
    parsing = TheirFrame.parse(stream.read_exact, mask=True, max_size=None)
    try:
        next(parsing)
    except StopIteration as done:
        return done.value
    raise AssertionError("the frame is not complete")


def our_reading(pieces: list[bytes]) -> tuple[list[Frame], list[Message]]:
    frames: list[Frame] = []
    messages: list[Message] = []
    reader = Reader(frames.append, messages.append)
    for piece in pieces:
        reader.feed(piece)
    assert reader.at_boundary
    return frames, messages


def cut(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


@settings(max_examples=60)
@given(OPCODES, SIZES, st.booleans(), st.binary(min_size=4, max_size=4))
def test_what_is_written_is_read(opcode, size, fin, key):
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    read = their_reading(frame(opcode, payload, fin=fin, key=key))
    assert (read.opcode, read.data, read.fin) == (opcode, payload, fin)


@pytest.mark.parametrize("rsv", range(8))
def test_reserved_bits_are_written(rsv):
    assert frame(TEXT, b"x", rsv=rsv, key=None)[0] == 0x81 | rsv << 4


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_control_frames_are_read(opcode):
    payload = close_payload(1001, "é") if opcode == CLOSE else b"\xff payload"
    assert their_reading(frame(opcode, payload)).data == payload


@pytest.mark.parametrize("shape", [{"form": 16}, {"form": 64}])
def test_a_longer_form_has_the_same_length(shape):
    data = frame(BINARY, b"hello", **shape)
    assert len(data) == len(frame(BINARY, b"hello")) + shape["form"] // 8
    assert their_reading(data).data == b"hello"


def test_malformed_frames_are_what_they_are_called():
    assert frame(TEXT, b"x", key=None) == b"\x81\x01x"
    assert frame(TEXT, b"", length=200, key=b"abcd") == b"\x81\xfe\x00\xc8abcd"
    for bad in (frame(TEXT, b"x", key=None), frame(5, b""), frame(PING, b"x" * 126), frame(PING, b"", fin=False)):
        with pytest.raises(ProtocolError):
            their_reading(bad).check()


@given(st.binary(max_size=40), st.binary(min_size=4, max_size=4))
def test_masking_twice_changes_nothing(payload, key):
    assert masked(masked(payload, key), key) == payload
    assert masked(payload, key) == bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


MESSAGES = st.lists(st.one_of(st.text(max_size=8), st.binary(max_size=8), st.just("x" * 126), st.just(b"y" * 65536)))


@settings(max_examples=40)
@given(MESSAGES, st.integers(1, 5), st.integers(1, 9))
def test_what_they_write_is_read_however_it_is_cut(messages, fragment, size):
    whole = b""
    for message in messages:
        kind, data = (Opcode.TEXT, message.encode()) if isinstance(message, str) else (Opcode.BINARY, message)
        parts = cut(data, fragment) if len(data) < 99 else [data]
        for number, part in enumerate(parts or [b""]):
            last = number == len(parts or [b""]) - 1
            whole += TheirFrame(Opcode.CONT if number else kind, part, fin=last).serialize(mask=False)
            whole += TheirFrame(Opcode.PING, b"p").serialize(mask=False)
    frames, got = our_reading(cut(whole, size if len(whole) < 999 else 4096))
    assert got == messages
    assert all(each.payload == b"p" for each in frames if each.opcode == PING)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frame(TEXT, b"x"), "masked"),
        (frame(TEXT, b"x", key=None, rsv=4), "reserved bits"),
        (frame(3, b"x", key=None), "opcode"),
        (frame(11, b"", key=None), "opcode"),
        (frame(BINARY, b"x", key=None, form=16), "shortest"),
        (frame(BINARY, b"x" * 126, key=None, form=64), "shortest"),
        (frame(PING, b"x", key=None, fin=False), "fragmented"),
        (frame(PING, b"x" * 126, key=None), "longer"),
        (frame(CONTINUATION, b"x", key=None), "without a fragmented message"),
        (frame(TEXT, b"x", key=None, fin=False) + frame(TEXT, b"x", key=None), "inside of a fragmented message"),
        (frame(CLOSE, b"\x03", key=None), "one byte"),
        (frame(CLOSE, key=None) + frame(PING, key=None), "behind the Close"),
        (frame(TEXT, b"\xed\xa0\x80", key=None), "utf-8"),
    ],
)
def test_what_must_not_come_is_a_fault(data, why):
    with pytest.raises(ValueError, match=why):
        our_reading([data])


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000])
def test_a_code_that_is_never_sent_is_a_fault(code):
    with pytest.raises(ValueError, match=str(code)):
        closing(Frame(CLOSE, close_payload(code)))


def test_a_close_is_read_as_they_read_it():
    for payload in (b"", close_payload(1000), close_payload(4999, "é")):
        theirs, ours = TheirClose.parse(payload), closing(Frame(CLOSE, payload))
        assert ours == Close(theirs.code, theirs.reason)


def test_a_frame_is_told_in_a_few_words():
    assert described(CLOSE, close_payload(1001, "going")) == "Close 1001 going"
    assert (described(CLOSE, b""), described(PING, b"p"), described(11, b"")) == ("Close", "Ping p", "opcode 0xb")
    assert described(BINARY, b"\xff" * 50) == f"binary (50 bytes) {'ff ' * 39}ff…"


def test_the_accept_key_is_theirs():
    for key in ("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA=="):
        assert accept_of(key) == accept_key(key)
