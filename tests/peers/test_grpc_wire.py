"""Protocol Buffers as the harness writes and reads them, against Google's; and the texts and lengths of gRPC."""

from __future__ import annotations

import struct

import pytest
from google.protobuf import any_pb2, descriptor_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from harness.peers.grpc_messages import ERROR_INFO, FILE_DESCRIPTOR, RPC_STATUS, details_of
from harness.wire.grpc import (
    Code,
    Messages,
    framed,
    from_base64,
    milliseconds,
    status_of,
    status_of_reset,
    to_base64,
    values,
)
from harness.wire.protobuf import Field, Message

NUMBERS = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(NUMBERS, TEXT, st.lists(st.tuples(TEXT, st.binary())))
def test_a_status_is_the_same_to_both(code, message, details):
    ours = [{"type_url": url, "value": value} for url, value in details]
    theirs = status_pb2.Status(code=code, message=message)
    theirs.details.extend(any_pb2.Any(**each) for each in ours)
    assert RPC_STATUS.decode(theirs.SerializeToString()) == {"code": code, "message": message, "details": ours}
    encoded = RPC_STATUS.encode(code=code, message=message, details=ours)
    assert status_pb2.Status.FromString(encoded) == theirs


@given(st.dictionaries(TEXT, TEXT))
def test_a_map_is_a_list_of_entries(metadata):
    info = error_details_pb2.ErrorInfo(reason="R", domain="d", metadata=metadata)
    status = status_pb2.Status(code=3)
    status.details.add().Pack(info)
    status.details.add().Pack(health_pb2.HealthCheckRequest(service="not known here"))
    read = details_of(RPC_STATUS.decode(status.SerializeToString()))["ErrorInfo"]
    assert {each["key"]: each["value"] for each in read["metadata"]} == metadata
    written = ERROR_INFO.encode(reason="R", domain="d", metadata=read["metadata"])
    assert error_details_pb2.ErrorInfo.FromString(written) == info


def test_unknown_fields_are_skipped():
    file = descriptor_pb2.FileDescriptorProto()
    status_pb2.DESCRIPTOR.CopyToProto(file)
    read = FILE_DESCRIPTOR.decode(file.SerializeToString())
    assert (read["name"], read["package"], read["service"]) == ("google/rpc/status.proto", "google.rpc", [])
    fixed = b"\x09" + bytes(8) + b"\x15" + bytes(4)  # fields 1 and 2, of 64 and 32 bits
    assert Message("Other", text=Field(3, "string")).decode(fixed + b"\x1a\x02ok") == {"text": "ok"}


@pytest.mark.parametrize(
    "data",
    [b"\x12", b"\x12\x05four", b"\x08" + b"\xff" * 10, b"\x0b", b"\x12\x01\xff", b"\x09\x00"],
    ids=["no length", "cut off", "endless varint", "group", "no UTF-8", "short"],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError):
        RPC_STATUS.decode(data)
    with pytest.raises(DecodeError):
        status_pb2.Status.FromString(data)


def test_a_field_of_the_wrong_type_is_refused():
    """Google's reader takes it for one that it does not know; no server sends such a thing."""
    with pytest.raises(ValueError, match="came with the wire type 2"):
        RPC_STATUS.decode(b"\x0a\x01x")


@given(st.lists(st.binary(max_size=40)), st.integers(1, 7))
def test_messages_are_read_however_they_are_cut(messages, size):
    whole, reader = b"".join(map(framed, messages)), Messages()
    pieces = (whole[at : at + size] for at in range(0, len(whole), size))
    assert [message for piece in pieces for message in reader.feed(piece)] == messages
    assert reader.at_boundary


def test_a_compressed_message_is_refused():
    with pytest.raises(ValueError, match="compressed-flag 1"):
        list(Messages().feed(struct.pack(">BI", 1, 0)))


@pytest.mark.parametrize(
    ("text", "owed"), [("1H", 3.6e6), ("2M", 1.2e5), ("3S", 3000), ("45m", 45), ("5u", 0.005), ("99999999n", 99.999999)]
)
def test_a_timeout(text, owed):
    assert milliseconds(text) == pytest.approx(owed)


@pytest.mark.parametrize("text", ["", "1", "m", "-1S", "123456789S", "1s", "1.5S", "1S "])
def test_what_is_no_timeout_is_refused(text):
    with pytest.raises(ValueError):
        milliseconds(text)


def test_statuses():
    status = status_of([("grpc-status", "5"), ("grpc-message", "%CE%A9 100%25"), ("grpc-status-details-bin", "CAU")])
    assert (status.code, status.message, status.details) == (Code.NOT_FOUND, "Ω 100%", b"\x08\x05")
    assert status_of_reset(8).code is Code.CANCELLED
    assert status_of_reset(0).code is Code.INTERNAL
    for trailers in ([], [("grpc-status", "17")], [("grpc-status", "ok")]):
        with pytest.raises(ValueError, match="grpc-status"):
            status_of(trailers)


@given(st.binary())
def test_binary_metadata(value):
    assert from_base64(to_base64(value)) == value
    padded = to_base64(value) + "=" * (-len(to_base64(value)) % 4)
    assert from_base64(padded) == value
    assert values([("a-bin", f"{to_base64(value)},{padded}"), ("b", "x,y")], "a-bin") == [to_base64(value), padded]
    assert values([("a-bin", ""), ("b", "x,y")], "b") == ["x,y"]
