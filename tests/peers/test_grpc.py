"""The gRPC client that the harness plays meets grpcio's server, and its carrier meets grpcio's client."""

from __future__ import annotations

import threading

import grpc
import pytest

from harness.peers.carrier import BOOK, BOOKING, PATH, Carrier, tracking_of
from harness.peers.grpc_client import Channel, Method
from harness.peers.grpc_messages import (
    CHECK,
    FILE_DESCRIPTOR,
    HEALTH,
    REFLECTIONS,
    RPC_STATUS,
    SERVING,
    details_of,
    reflection,
)
from harness.wire.grpc import Code, Status, from_base64, to_base64
from harness.wire.protobuf import Message

from .foreign import http_server
from .stage import PATIENCE, Stage


@pytest.fixture(scope="module")
def server(scratch, open_until_the_end):
    return open_until_the_end.enter_context(http_server(scratch, "grpc_server.py"))


class Raw(Message):
    """A message that is any bytes: grpcio's server here has no types."""

    def encode(self, **values):
        return values["data"]

    def decode(self, data):
        return {"data": data}

    def told(self, data):
        return repr(data[:20])


RAW = Raw("Raw")
KINDS = {name: Method("test.Kinds", name, RAW, RAW) for name in ("One", "Down", "Up", "Both")}


@pytest.mark.oracle
def test_a_call_with_metadata_deadline_and_trailers(server):
    given = b"\x00\xff,bytes"
    metadata = [("given-bin", to_base64(given))]
    call = Channel(server).call(KINDS["One"], {"data": b"hello"}, metadata=metadata, timeout="5000m")
    assert call.next() == {"data": b"hello"}
    assert call.result().code is Code.OK
    assert [from_base64(value) for value in call.metadata("left-bin")] == [given]
    assert 0 < float(call.metadata("timeout")[0]) < 6


@pytest.mark.oracle
def test_a_refusal_with_details(server):
    status = Channel(server).call(KINDS["One"], {"data": b"refuse"}).result()
    assert (status.code, status.message) == (Code.FAILED_PRECONDITION, "größer 100%")
    told = RPC_STATUS.decode(status.details)
    assert (told["code"], told["message"]) == (9, "größer 100%")
    info = details_of(told)["ErrorInfo"]
    assert (info["reason"], info["metadata"]) == ("WHY", [{"key": "key", "value": "value"}])
    unknown = Method("test.Kinds", "Nothing", RAW, RAW)
    assert Channel(server).call(unknown, {"data": b""}).result().code is Code.UNIMPLEMENTED


@pytest.mark.oracle
def test_streams_of_all_kinds_on_one_connection(server):
    channel = Channel(server)
    down = channel.call(KINDS["Down"], {"data": b"50"})
    up = channel.call(KINDS["Up"], *({"data": part} for part in (b"a", b"", b"c" * 100_000)))
    both = channel.call(KINDS["Both"], end=False)
    for number in range(5):
        both.send(data=b"%d" % number)
        assert both.next() == {"data": b"%d" % number}
    both.half_close()
    assert both.result() == Status(Code.OK)
    assert up.next() == {"data": b"a,," + b"c" * 100_000}
    assert [down.next()["data"] for _ in range(50)] == [b"%d" % number * 1000 for number in range(50)]
    assert down.result().code is Code.OK


@pytest.mark.oracle
def test_what_is_not_read_waits_at_the_server(server):
    channel = Channel(server, window=4096)
    slow = channel.call(KINDS["Down"], {"data": b"500"}, slow=True)
    quick = channel.call(KINDS["Down"], {"data": b"500"})
    assert quick.result().code is Code.OK
    assert 0 < len(slow.replies) <= 4
    slow.read_again()
    assert slow.result().code is Code.OK
    assert len(slow.replies) == 500


@pytest.mark.oracle
def test_a_cancelled_call_ends_alone(server):
    channel = Channel(server)
    cancelled, other = channel.call(KINDS["Both"], end=False), channel.call(KINDS["Both"], end=False)
    cancelled.cancel()
    other.send(data=b"still here", end=True)
    assert other.next() == {"data": b"still here"}
    assert other.result().code is Code.OK
    assert cancelled.status is None


@pytest.mark.oracle
def test_pings_are_answered_unless_the_client_plays_dead(server):
    live, dead = Channel(server, "live"), Channel(server, "dead")
    for channel in (live, dead):
        channel.call(KINDS["Both"], end=False)
    dead.http2.answers_pings = False
    server.until(lambda: dead.over, "an end of the connection")
    assert dead.http2.pings
    seen = live.http2.pings
    server.until(lambda: live.http2.pings > seen, "another PING")
    assert not live.over


@pytest.mark.oracle
def test_health_and_reflection(server):
    channel = Channel(server)
    assert channel.call(CHECK, {"service": ""}).next() == {"status": SERVING}
    question = {"file_containing_symbol": HEALTH}
    assert channel.call(reflection(REFLECTIONS[0]), question).result().code is Code.UNIMPLEMENTED
    answer = channel.call(reflection(REFLECTIONS[1]), question).next()
    (file,) = answer["file_descriptor_response"]["file_descriptor_proto"]
    (service,) = FILE_DESCRIPTOR.decode(file)["service"]
    methods = {method["name"]: method["server_streaming"] for method in service["method"]}
    assert methods == {"Check": 0, "List": 0, "Watch": 1} or methods == {"Check": 0, "Watch": 1}


@pytest.mark.oracle
def test_calls_go_on_behind_a_goaway(scratch):
    with http_server(scratch, "grpc_server.py") as server:
        channel = Channel(server)
        call = channel.call(KINDS["Both"], {"data": b"one"}, end=False)
        call.next()
        server.terminate()
        server.until(lambda: channel.http2.going, "a GOAWAY")
        call.send(data=b"two", end=True)
        assert call.next() == {"data": b"two"}
        assert call.result().code is Code.OK
        server.until_exit()


# -- the carrier ----------------------------------------------------------------------------------------------------


@pytest.fixture
def carrier(stage: Stage) -> Carrier:
    return Carrier(stage)


@pytest.fixture
def book(stage, carrier):
    """Begins a booking by grpcio's client, on threads of its own; `outcome` lets the harness go on until it is over."""
    target = carrier.environment()["CARRIER"]
    with grpc.insecure_channel(target) as channel:
        method = channel.unary_unary(PATH)
        begin = lambda name, **how: method.future(BOOK.encode(request_id=name, sku="tea", quantity=3), **how)  # noqa: E731
        yield begin
        closing = threading.Thread(target=channel.close)
        closing.start()
        until(stage, lambda: not closing.is_alive())


def until(stage: Stage, happened) -> None:
    stage.until(happened, "what grpcio does")


def outcome(stage: Stage, booking):
    until(stage, booking.done)
    if booking.code() is not grpc.StatusCode.OK:
        return booking.code(), booking.details()
    return BOOKING.decode(booking.result(PATIENCE))["tracking"]


@pytest.mark.oracle
def test_the_carrier_books(stage, carrier, book):
    metadata = (("x-trace-id", "t"), ("context-bin", b"\xff\x00"))
    assert outcome(stage, book("one", timeout=5, metadata=metadata)) == tracking_of("one")
    (asked,) = carrier.asked
    assert asked.request == {"request_id": "one", "sku": "tea", "quantity": 3}
    assert 0 < asked.timeout <= 5100
    assert ("x-trace-id", "t") in asked.metadata
    assert carrier.bookings("tea") == ["one"]


@pytest.mark.oracle
def test_the_carrier_holds_and_sees_who_goes(stage, carrier, book):
    with carrier.holding():
        kept, cancelled, late = book("kept"), book("cancelled"), book("late", timeout=0.2)
        until(stage, lambda: len(carrier.asked) == 3)
        cancelled.cancel()
        until(stage, lambda: len(carrier.waiting_now) == 1)
        assert outcome(stage, late)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not kept.done()
    assert outcome(stage, kept) == tracking_of("kept")
    assert list(carrier.booked) == ["kept"]


@pytest.mark.oracle
def test_the_carrier_fails(stage, carrier, book):
    with carrier.failing(Code.RESOURCE_EXHAUSTED, "no more", times=1):
        assert outcome(stage, book("one")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")
        assert outcome(stage, book("one")) == tracking_of("one")
    with carrier.holding():
        lost = book("two")
        until(stage, lambda: len(carrier.asked) == 3)
        carrier.hang_up()
        assert outcome(stage, lost)[0] is grpc.StatusCode.UNAVAILABLE
    assert outcome(stage, book("two", wait_for_ready=True)) == tracking_of("two")
