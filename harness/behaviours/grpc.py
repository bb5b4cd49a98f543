"""What a depot behind gRPC owes its callers: the behaviours of the kata `grpc`.

The harness is both the clients and the carrier that the depot asks, so it decides when the carrier answers, and sees
what becomes of a call that nobody wants any more. Effects on the stock are seen by watching it. What the libraries
decide by themselves (a trailer or a reset, when exactly) is not judged.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.behaviour import Source, behaviour, hints, incident
from harness.peers.carrier import Asked, Carrier, tracking_of
from harness.peers.grpc_client import NO_METADATA, Call, Channel, Method
from harness.peers.grpc_messages import (
    CHECK,
    FILE_DESCRIPTOR,
    HEALTH,
    NOT_SERVING,
    REFLECTIONS,
    RPC_STATUS,
    SERVICE_UNKNOWN,
    SERVING,
    WATCH_HEALTH,
    details_of,
    reflection,
)
from harness.solution.program import STOPPED, Solution
from harness.verdicts import Broken, LimitReached, NotReached
from harness.wire.grpc import DETAILS, Code, Metadata, Status, from_base64, to_base64, values
from harness.wire.http2 import WINDOW
from harness.wire.protobuf import Field, Message, Values

PEERS = [Carrier]
LIMIT = 50_000  # bytes of a message: no default of anybody's
CARRIER_TIMEOUT = 10_000
SETTINGS = {"MAX_MESSAGE": LIMIT, "CARRIER_TIMEOUT_MS": CARRIER_TIMEOUT, "RETRY_MS": 4}
LIBRARY = 1.5  # seconds for which a library may hold back a status that it decides on by itself
PATIENT = 1900  # ms, where a slow machine has shown that a short time is too short
NARROW = 4096  # bytes, of the window of a client that is soon full
ROUNDED = 1.03  # libraries round a timeout up to two or three digits

SERVICE = "depot.v1.Depot"
RESERVE = Method(
    SERVICE,
    "Reserve",
    Message("ReserveRequest", request_id=Field(1, "string"), sku=Field(2, "string"), quantity=Field(3, "int")),
    Message("Reservation", id=Field(1, "string"), tracking=Field(2, "string")),
)
WATCH = Method(
    SERVICE,
    "Watch",
    Message("WatchRequest", sku=Field(1, "string")),
    Message("Level", quantity=Field(1, "int"), note=Field(2, "string")),
)
DELIVER = Method(
    SERVICE,
    "Deliver",
    Message(
        "Delivery", sku=Field(1, "string"), quantity=Field(2, "int"), note=Field(3, "string"), last=Field(4, "int")
    ),
    Message("Summary", lines=Field(1, "int"), items=Field(2, "int")),
)
PICK = Method(
    SERVICE,
    "Pick",
    Message("PickRequest", sku=Field(1, "string"), quantity=Field(2, "int")),
    Message("Picked", sku=Field(1, "string"), quantity=Field(2, "int"), left=Field(3, "int")),
)
KINDS = {"Reserve": (False, False), "Watch": (False, True), "Deliver": (True, False), "Pick": (True, True)}

GRPC_IO = "https://grpc.io/docs/guides"
CORE_CONCEPTS = "https://grpc.io/docs/what-is-grpc/core-concepts/#client-streaming-rpc"
GITHUB = "https://github.com/grpc"


def brief(rule: str, words: str) -> Source:
    """A rule that stands in the kata's own brief."""
    return Source(f"README {rule}, {words}")


def guide(page: str, title: str, rule: str) -> Source:
    """A page of the guides of grpc.io, beside the rule of the brief."""
    return Source(f"README {rule}; grpc.io, {title}", f"{GRPC_IO}/{page}/")


def document(name: str, title: str, rule: str) -> Source:
    """A document of the grpc project, beside the rule of the brief."""
    return Source(f"README {rule}; grpc, {title}", f"{GITHUB}/grpc/blob/master/doc/{name}")


CORE = Source("README R2; grpc.io, Core concepts: client streaming RPC", CORE_CONCEPTS)
RICH = Source("README R3; google/rpc/error_details.proto", f"{GRPC_IO}/error/#richer-error-model")


class Depot:
    """The solution in the words of this kata. Every SKU is one of this behaviour's own."""

    def __init__(self, solution: Solution, carrier: Carrier, chance: random.Random) -> None:
        self.solution, self.carrier, self.chance = solution, carrier, chance
        self._channel: Channel | None = None

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    @property
    def channel(self) -> Channel:
        """The client's usual connection."""
        if self._channel is None:
            self._channel = self.dial("client")
        return self._channel

    def dial(self, name: str, window: int = WINDOW) -> Channel:
        return Channel(self.solution, name, window)

    # -- the four methods, without waiting

    def reserve(self, sku: str, quantity: int = 1, request_id: str = "", by: Channel | None = None, **how: Any) -> Call:
        request = {"request_id": request_id or self.word(), "sku": sku, "quantity": quantity}
        return (by or self.channel).call(RESERVE, request, **how)

    def watch(self, sku: str, by: Channel | None = None, **how: Any) -> Call:
        return (by or self.channel).call(WATCH, {"sku": sku}, **how)

    def deliver(self, *lines: Values, by: Channel | None = None, **how: Any) -> Call:
        """A delivery, complete unless its stream is not to `end`."""
        if how.get("end", True):
            lines = (*lines[:-1], lines[-1] | {"last": 1})
        return (by or self.channel).call(DELIVER, *lines, **how)

    def pick(self, *lines: Values, by: Channel | None = None, **how: Any) -> Call:
        """A stream of picks that stays open."""
        return (by or self.channel).call(PICK, *lines, end=False, **how)

    # -- and with their outcome

    def delivered(self, sku: str, quantity: int, note: str = "") -> None:
        done(self.deliver({"sku": sku, "quantity": quantity, "note": note}))

    def stocked(self, quantity: int = 10) -> str:
        """A new SKU, of which so many are in stock."""
        sku = f"sku-{self.word()}"
        self.delivered(sku, quantity)
        return sku

    def reserved(self, sku: str, quantity: int = 1, request_id: str = "", **how: Any) -> Values:
        return done(self.reserve(sku, quantity, request_id, **how))

    def stock(self, sku: str, by: Channel | None = None) -> int:
        """What is in stock now."""
        watch = self.watch(sku, by)
        level = watch.next("the level at once")
        watch.cancel()
        return int(level["quantity"])

    def until_stock(self, sku: str, quantity: int, why: str) -> None:
        """Wait until so many are in stock. Raises Broken."""
        watch = self.watch(sku, self.dial("watcher"))
        until_level(watch, quantity, why)
        watch.cancel()

    def settled(self) -> None:
        self.solution.settled()


@pytest.fixture
def carrier(solution: Solution) -> Carrier:
    return solution.peer(Carrier)


@pytest.fixture
def depot(solution: Solution, carrier: Carrier, chance: random.Random) -> Depot:
    return Depot(solution, carrier, chance)


def done(call: Call) -> Values:
    """The one reply of a call that ends well. Raises Broken."""
    reply = call.next()
    ended(call, Code.OK)
    assert len(call.replies) == 1, f"{call.method.name} has one reply, and {len(call.replies)} came"
    return reply


def ended(call: Call, *codes: Code, why: str = "") -> Status:
    """The call ends with one of these codes."""
    owed = " or ".join(code.name for code in codes)
    status = call.result(owed)
    assert status.code in codes, f"{owed} is owed{f': {why}' if why else ''}, and came {status}"
    return status


def until_level(watch: Call, quantity: int, why: str) -> Values:
    """Wait for that level, whatever levels come before it."""
    while (level := watch.next(f"the level {quantity}: {why}"))["quantity"] != quantity:
        pass
    return level


def rich(status: Status) -> dict[str, Values]:
    """The details of a status, which say the same as the status itself."""
    assert status.details, f"{DETAILS} is owed in the trailers, and {status} came without"
    try:
        told = RPC_STATUS.decode(status.details)
        details = details_of(told)
    except ValueError as error:
        raise AssertionError(f"{DETAILS} is no google.rpc.Status: {error}") from None
    assert told["code"] == status.code, f"the code in {DETAILS} is that of grpc-status, {int(status.code)}"
    assert told["message"] == status.message, f"the message in {DETAILS} is grpc-message, {status.message!r}"
    return details


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=brief("R2", "Reserve"))
def test_reserve(depot: Depot, carrier: Carrier) -> None:
    """Reserve takes from the stock, has the carrier book just that, and answers with the carrier's tracking."""
    sku = depot.stocked(10)
    first, second = depot.word(), depot.word()
    replies = [depot.reserved(sku, 3, first), depot.reserved(sku, 2, second)]

    asked = [each.request for each in carrier.asked]
    assert asked == [
        {"request_id": first, "sku": sku, "quantity": 3},
        {"request_id": second, "sku": sku, "quantity": 2},
    ], f"the carrier is asked once for each reservation, for just what was reserved, and was asked {asked}"
    assert [reply["tracking"] for reply in replies] == [tracking_of(first), tracking_of(second)]
    ids = {reply["id"] for reply in replies} - {""}
    assert len(ids) == 2, f"each reservation has an id of its own, and they came as {replies}"
    assert depot.stock(sku) == 5, "10 were delivered, and 3 and 2 reserved"


@behaviour(stage=1, source=CORE)
@hints(
    "When do you know that all lines have come?",
    "Only at the end of the client's stream; until then nothing of it counts.",
    "Collect the lines in a list, and change the stock behind the loop.",
)
def test_deliver(depot: Depot) -> None:
    """Deliver answers when the client's stream ends, with a count of its lines and items, and only then adds them."""
    one, two = f"sku-{depot.word()}", f"sku-{depot.word()}"
    lines = [{"sku": one, "quantity": 3}, {"sku": two, "quantity": 7}, {"sku": one, "quantity": 5, "last": 1}]
    call = depot.deliver(*lines, end=False)
    depot.settled()
    assert not call.replies, "the client's stream has not ended, and was answered"
    ended(depot.watch(one), Code.NOT_FOUND, why="what is not delivered yet is not there")
    call.half_close()
    assert done(call) == {"lines": 3, "items": 15}
    assert (depot.stock(one), depot.stock(two)) == (8, 7), "what was delivered is in stock"


@behaviour(stage=1, source=brief("R2", "Watch"), needs="deliver")
def test_watch(depot: Depot) -> None:
    """Watch tells the level at once, and again whenever it changes, with the note of the last delivery."""
    sku = depot.stocked(4)
    watch, other = depot.watch(sku), depot.watch(sku, depot.dial("other"))
    for each in (watch, other):
        assert each.next("the level at once") == {"quantity": 4, "note": ""}
    for quantity, note in ((5, depot.word()), (6, f"from {depot.word()} é€😀")):
        depot.delivered(sku, 1, note)
        for each in (watch, other):
            level = until_level(each, quantity, "one was delivered")
            assert level["note"] == note, "a level has the note of the last delivery"
    depot.reserved(sku, 2)
    for each in (watch, other):
        assert until_level(each, 4, "2 were reserved")["note"] == note
        assert not each.over, "a watch goes on until its client has enough"


@behaviour(stage=1, source=brief("R2", "Pick"), needs="deliver")
@hints(
    "When is a pick answered: at the end of the stream, or at once?",
    "The client may send its next pick only when it has the answer to the last.",
    "Write one reply for each request inside the loop that reads.",
)
def test_pick(depot: Depot) -> None:
    """Each pick is answered before the next one is sent, with no more than there is; the stream ends with OK."""
    sku, other = depot.stocked(10), depot.stocked(1)
    call = depot.pick()
    for line, quantity, left in ((sku, 4, 6), (other, 1, 0), (sku, 6, 0), (sku, 0, 0)):
        call.send(sku=line, quantity=max(quantity, 4))
        assert call.next("an answer to its pick") == {"sku": line, "quantity": quantity, "left": left}
    assert not call.over, "the client has not ended its stream"
    call.half_close()
    ended(call, Code.OK)
    assert len(call.replies) == 4, "there is one answer to each pick"


@behaviour(stage=1, source=document("statuscodes.md", "Status codes", "R3"), needs="deliver")
def test_not_found(depot: Depot) -> None:
    """What was never delivered is NOT_FOUND, by a message that names it, in whatever script."""
    sku = depot.stocked(1)
    for missing in (f"sku-{depot.word()}", f"Ω-größe-{depot.word()}-100%", f"货-{depot.word()}"):
        for call in (depot.reserve(missing), depot.watch(missing), depot.pick({"sku": missing, "quantity": 1})):
            status = ended(call, Code.NOT_FOUND)
            assert missing in status.message, f"the message names {missing}, and came {status.message!r}"
    assert depot.stock(sku) == 1, "what was delivered is there"


@behaviour(stage=1, source=document("statuscodes.md", "Status codes", "R3"), needs="deliver")
def test_invalid_argument(depot: Depot) -> None:
    """A request that breaks a rule is INVALID_ARGUMENT and changes nothing; one at the limit is served."""
    sku = depot.stocked(10)
    long = "x" * 65
    bad = [
        *(depot.reserve(sku, quantity) for quantity in (0, -1, 1001, 1 << 40)),
        depot.reserve(""),
        depot.reserve(long),
        depot.reserve(sku, 1, long),
        depot.channel.call(RESERVE, {"sku": sku, "quantity": 1}),
        depot.watch(""),
        depot.deliver({"sku": sku, "quantity": 0}),
        depot.deliver({"sku": long, "quantity": 1}),
        depot.pick({"sku": sku, "quantity": -5}),
        depot.pick({"sku": "", "quantity": 1}),
    ]
    for call in bad:
        ended(call, Code.INVALID_ARGUMENT)
    assert depot.stock(sku) == 10, "a request that is refused changes nothing"
    assert not depot.carrier.asked, "a request that is refused never reaches the carrier"
    longest = "é" * 64
    depot.delivered(longest, 1000)
    depot.reserved(longest, 1000, "é" * 64)


@behaviour(stage=1, source=document("health-checking.md", "Health Checking Protocol", "R12"))
def test_health(depot: Depot) -> None:
    """Health/Check says SERVING for the server as a whole and for its service, and knows no other."""
    for service in ("", SERVICE):
        status = done(depot.channel.call(CHECK, {"service": service}))["status"]
        assert status == SERVING, f"{service or 'the server as a whole'} is SERVING, and came {status}"
    ended(depot.channel.call(CHECK, {"service": "depot.v1.Nothing"}), Code.NOT_FOUND)


@behaviour(stage=1, source=document("server-reflection.md", "Server Reflection Protocol", "R13"))
def test_reflection(depot: Depot) -> None:
    """Reflection lists the services, those of the depot and of health among them."""
    answer = reflected(depot, list_services="*")
    names = {each["name"] for each in (answer["list_services_response"] or {"service": []})["service"]}
    assert {SERVICE, HEALTH} <= names, f"{SERVICE} and {HEALTH} are listed, and came {sorted(names)}"


def reflected(depot: Depot, **question: str) -> Values:
    """The answer of reflection, of whatever version the server speaks."""
    for name in REFLECTIONS:
        call = depot.channel.call(reflection(name), question)
        depot.solution.until(lambda: call.replies or call.over, "an answer of reflection", call.name)  # noqa: B023
        if call.replies or call.result().code is not Code.UNIMPLEMENTED:
            break
    return call.next("an answer of reflection")


@behaviour(stage=1, source=guide("metadata", "Metadata", "R4"), needs="deliver")
@hints(
    "Where do metadata go that belong to no message?",
    "Each call begins with them, whether it has replies or not, and whether it ends well or not.",
    "Send x-trace-id as initial metadata before anything else, in one place for all four methods.",
)
def test_trace_comes_back(depot: Depot) -> None:
    """Every call, also one that fails, gives back its x-trace-id, and a call without one gets one of its own."""
    sku = depot.stocked(10)
    mine = f"trace-{depot.word()}"
    calls: list[tuple[Metadata, str | None]] = [([("x-trace-id", mine)], mine), (NO_METADATA, None)]
    made: list[str] = []
    for metadata, owed in calls:
        pick = depot.pick({"sku": sku, "quantity": 1}, metadata=metadata)
        pick.half_close()
        watch = depot.watch(sku, metadata=metadata)
        watch.next("the level at once")
        ends = [pick, depot.reserve(sku, metadata=metadata), depot.reserve("none", metadata=metadata)]
        ends.append(depot.deliver({"sku": sku, "quantity": 1}, metadata=metadata))
        for call in ends:
            call.result()
        for call in (watch, *ends):
            came = call.metadata("x-trace-id")
            assert len(came) == 1, f"one x-trace-id is owed with {call.method.name}, and came {came}"
            assert came[0], f"the x-trace-id of {call.method.name} is empty"
            assert owed in (None, came[0]), f"{call.method.name} owes the x-trace-id {owed}, not {came[0]}"
            made += [] if owed else came
    assert len(set(made)) == len(made) == 5, f"calls without x-trace-id get one each, and they got {made}"


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, source=RICH, needs="invalid_argument")
@hints(
    "What does a form need to mark its fields in red?",
    "The names of all fields that are wrong, where a program can read them.",
    "Pack a google.rpc.BadRequest into a google.rpc.Status; grpcio-status puts that into the trailers.",
)
def test_bad_fields_are_named(depot: Depot) -> None:
    """INVALID_ARGUMENT carries a BadRequest that names every field that is wrong, and no other."""
    sku = depot.stocked(10)
    for call, fields in (
        (depot.reserve("x" * 65, 0, "x" * 65), {"request_id", "sku", "quantity"}),
        (depot.reserve("", 1001), {"sku", "quantity"}),
        (depot.reserve(sku, -1), {"quantity"}),
        (depot.watch(""), {"sku"}),
        (depot.deliver({"sku": "", "quantity": 0}), {"sku", "quantity"}),
        (depot.pick({"sku": sku, "quantity": 0}), {"quantity"}),
        (depot.channel.call(DELIVER, {"sku": sku, "quantity": 1}), {"last"}),
    ):
        details = rich(ended(call, Code.INVALID_ARGUMENT))
        violations = details.get("BadRequest", {"field_violations": []})["field_violations"]
        named = sorted(each["field"] for each in violations)
        assert named == sorted(fields), f"BadRequest names {sorted(fields)}, and came {named}"
        assert all(each["description"] for each in violations), "each violation says what is wrong"


@behaviour(stage=2, source=RICH, needs="reserve")
def test_out_of_stock(depot: Depot) -> None:
    """Too few in stock is FAILED_PRECONDITION with an ErrorInfo: reason, domain, and what is available."""
    sku = depot.stocked(3)
    status = ended(depot.reserve(sku, 4), Code.FAILED_PRECONDITION)
    info = rich(status).get("ErrorInfo")
    assert info, "an ErrorInfo is owed among the details"
    assert (info["reason"], info["domain"]) == ("OUT_OF_STOCK", SERVICE)
    told = {each["key"]: each["value"] for each in info["metadata"]}
    assert told.items() >= {"sku": sku, "available": "3"}.items(), f"sku and available are told, and came {told}"
    assert not depot.carrier.asked, "what is not there is never booked"
    depot.reserved(sku, 3)
    assert depot.stock(sku) == 0


@behaviour(stage=2, hidden=True, source=guide("metadata", "Metadata", "R4"), needs=("reserve", "trace_comes_back"))
@hints(
    "What may the carrier know of your caller?",
    "What you hand on, you name; a copy of everything hands on the credentials as well.",
    "Give the call to the carrier x-trace-id and context-bin, and nothing else.",
)
def test_metadata_are_passed_on(depot: Depot, carrier: Carrier) -> None:
    """The carrier gets the trace and the binary context as they came, and none of the caller's credentials."""
    sku, secret = depot.stocked(10), f"secret-{depot.word()}"
    context = depot.chance.randbytes(40) + b"\0\xff,"
    mine: Metadata = [
        ("x-trace-id", f"trace-{depot.word()}"),
        ("context-bin", to_base64(context)),
        ("authorization", f"Bearer {secret}"),
        ("cookie", f"session={secret}"),
    ]
    depot.reserved(sku, metadata=mine)
    asked = last_asked(carrier)
    assert values(asked.metadata, "x-trace-id") == [mine[0][1]], "the trace goes on to the carrier"
    assert binary(asked) == [context], f"context-bin goes on with its bytes, {context!r}, and came {binary(asked)}"
    assert secret not in repr(asked.metadata), "the caller's credentials are none of the carrier's business"

    plain = depot.reserve(sku)
    done(plain)
    asked = last_asked(carrier)
    assert not binary(asked), "a context that did not come is not made up"
    made = values(asked.metadata, "x-trace-id")
    assert made == plain.metadata("x-trace-id"), "a trace that the server made up goes on to the carrier too"


def last_asked(carrier: Carrier) -> Asked:
    assert carrier.asked, "a reservation is booked at the carrier, and it was not asked"
    return carrier.asked[-1]


def binary(asked: Asked) -> list[bytes]:
    try:
        return [from_base64(value) for value in values(asked.metadata, "context-bin")]
    except ValueError as error:
        raise AssertionError(f"the value of context-bin is no base64: {error}") from None


@behaviour(stage=2, points=3, source=brief("R2", "Deliver, all or nothing"), needs="deliver")
def test_delivery_is_all_or_nothing(depot: Depot) -> None:
    """A line that breaks a rule refuses the whole delivery at once, and so does an end without its last line."""
    sku, new = depot.stocked(10), f"sku-{depot.word()}"
    lines = [{"sku": sku, "quantity": 5}, {"sku": new, "quantity": 5}, {"sku": sku, "quantity": 0}]
    call = depot.deliver(*lines, end=False)
    ended(call, Code.INVALID_ARGUMENT, why="a line without a quantity, though the stream has not ended")
    early = depot.channel.call(DELIVER, lines[0] | {"last": 1}, lines[1] | {"last": 1})
    for incomplete in (depot.channel.call(DELIVER, *lines[:2]), depot.channel.call(DELIVER), early):
        ended(incomplete, Code.INVALID_ARGUMENT, why="exactly the last line of a delivery has `last`")
    assert depot.stock(sku) == 10, "nothing of a delivery that is refused is in stock"
    ended(depot.watch(new), Code.NOT_FOUND)
    assert done(depot.deliver(*lines[:2])) == {"lines": 2, "items": 10}
    assert depot.stock(sku) == 15


@behaviour(stage=2, hidden=True, points=3, source=brief("R2", "Deliver, all or nothing"), needs="deliver")
@hints(
    "Your loop over the requests has ended. Why?",
    "Because the client was done, or because it went away: a library may tell you both in the same way.",
    "Change the stock only if the line that came last says that it is the last.",
)
def test_cancelled_delivery_adds_nothing(depot: Depot) -> None:
    """A delivery that is cancelled, or cut off with its connection, adds nothing."""
    skus = {ending: depot.stocked(10) for ending in ("cancel", "hang_up")}
    calls = {
        ending: depot.deliver(
            {"sku": sku, "quantity": 5}, {"sku": sku, "quantity": 1}, end=False, by=depot.dial(f"other, to {ending}")
        )
        for ending, sku in skus.items()
    }
    depot.settled()
    calls["cancel"].cancel()
    calls["hang_up"].channel.hang_up()
    depot.settled()
    for ending, sku in skus.items():
        assert depot.stock(sku) == 10, f"a delivery that did not end ({ending}) adds nothing"
    depot.delivered(sku, 5)
    assert depot.stock(sku) == 15


@behaviour(stage=2, points=3, source=guide("deadlines", "Deadlines: deadline propagation", "R5"), needs="reserve")
@hints(
    "How long may the carrier take, if your caller waits for 5 s?",
    "No longer than your caller, and no longer than CARRIER_TIMEOUT_MS.",
    "timeout = min(CARRIER_TIMEOUT, context.time_remaining()), the smaller of the two where the caller has a deadline.",
)
@incident(
    "Without deadline propagation servers go on with work that nobody waits for; the SRE book of Google tells how that "
    "keeps an overloaded system overloaded (Addressing Cascading Failures, Latency and Deadlines)."
)
def test_deadline_is_passed_on(depot: Depot, carrier: Carrier) -> None:
    """The carrier is given what is left of the caller's deadline, and never more than CARRIER_TIMEOUT_MS."""
    sku = depot.stocked(10)
    for timeout, most in (("", CARRIER_TIMEOUT), ("5000m", 5000), ("3S", 3000), ("1H", CARRIER_TIMEOUT)):
        depot.reserved(sku, timeout=timeout)
        given = last_asked(carrier).timeout
        told = f"a caller with {timeout or 'no deadline'} gives the carrier no more than {most} ms"
        assert given is not None, f"{told}, and the carrier was given no deadline at all"
        assert given <= most * ROUNDED, f"{told}, and it was given {given:.0f} ms"


@behaviour(stage=2, points=3, source=brief("R9", "MAX_MESSAGE"), needs="deliver")
def test_message_limit(depot: Depot) -> None:
    """A message of MAX_MESSAGE bytes is served; one byte more is RESOURCE_EXHAUSTED, and changes and hurts nothing."""
    sku = depot.stocked(1)
    watch = depot.watch(sku)
    watch.next("the level at once")
    depot.solution.lease = LIBRARY
    small = {"sku": sku, "quantity": 1}
    for lines in ([line_of(sku, LIMIT + 1)], [small, small, line_of(sku, LIMIT + 1)]):
        status = depot.deliver(*lines).result("RESOURCE_EXHAUSTED")
        refused = status.code is Code.RESOURCE_EXHAUSTED or status.reset is not None
        assert refused, f"RESOURCE_EXHAUSTED is owed: {LIMIT + 1} bytes, {LIMIT} are allowed, and came {status}"
    assert depot.stock(sku) == 1, "a call with a message that is too big changes nothing"
    largest = line_of(sku, LIMIT)
    assert done(depot.deliver(small, largest)) == {"lines": 2, "items": 2}
    assert until_level(watch, 3, "2 were delivered")["note"] == largest["note"]


def line_of(sku: str, size: int) -> Values:
    """A delivery of one item whose message has so many bytes, as the last line of its stream."""
    line = {"sku": sku, "quantity": 1, "note": "x" * (size - 100), "last": 1}
    line["note"] = "x" * (size - 100 + size - len(DELIVER.request.encode(**line)))
    return line


@behaviour(
    stage=2, hidden=True, source=document("server-reflection.md", "Server Reflection", "R13"), needs="reflection"
)
def test_reflection_describes(depot: Depot) -> None:
    """Reflection gives the descriptor of the service: its four methods, and which of them stream."""
    answer = reflected(depot, file_containing_symbol=SERVICE)
    files = (answer["file_descriptor_response"] or {"file_descriptor_proto": []})["file_descriptor_proto"]
    try:
        described = [FILE_DESCRIPTOR.decode(file) for file in files]
    except ValueError as error:
        raise AssertionError(f"what came is no FileDescriptorProto: {error}") from None
    services = [each for file in described if file["package"] == "depot.v1" for each in file["service"]]
    kinds = {
        method["name"]: (bool(method["client_streaming"]), bool(method["server_streaming"]))
        for service in services
        if service["name"] == "Depot"
        for method in service["method"]
    }
    assert kinds == KINDS, f"a descriptor of {SERVICE} with its methods is owed, and came {kinds or answer}"
    refused = reflected(depot, file_containing_symbol="depot.v1.Nothing")["error_response"]
    code = refused["error_code"] if refused else None
    assert code == Code.NOT_FOUND, f"an unknown symbol is the error NOT_FOUND, and came {code}"


@behaviour(
    stage=2, hidden=True, source=document("health-checking.md", "Health Checking Protocol", "R12"), needs="health"
)
def test_health_is_watched(depot: Depot) -> None:
    """Health/Watch tells the state at once and stays open, also for a service that nobody knows."""
    states = {"": SERVING, SERVICE: SERVING, "depot.v1.Nothing": SERVICE_UNKNOWN}
    calls = {service: depot.channel.call(WATCH_HEALTH, {"service": service}) for service in states}
    for service, call in calls.items():
        status = call.next("the state at once")["status"]
        assert status == states[service], f"the state of {service!r} is {states[service]}, and came {status}"
    depot.settled()
    for service, call in calls.items():
        assert not call.over, f"the watch of {service!r} stays open, and ended with {call.status}"


@behaviour(stage=2, points=4, source=brief("R7", "retries of callers"), needs="reserve")
@hints(
    "Your caller never got your answer, and asks again. Is that one reservation, or two?",
    "The request_id says which requests are one.",
    "Keep each reservation under its request_id, with the request it was made for.",
)
def test_retry_is_answered_alike(depot: Depot, carrier: Carrier) -> None:
    """The same request_id gets the same reservation and takes nothing more; with other content it is ALREADY_EXISTS."""
    sku, other, name = depot.stocked(10), depot.stocked(10), depot.word()
    first = depot.reserved(sku, 3, name)
    for client in (depot.channel, depot.dial("again")):
        assert depot.reserved(sku, 3, name, by=client) == first, "a retry is owed the reservation that was made"
    assert len(carrier.asked) == 1, "a retry of what is done does not reach the carrier"
    for content in ((sku, 4), (other, 3)):
        ended(depot.reserve(*content, name), Code.ALREADY_EXISTS, why=f"{name} stands for another request")
    assert (depot.stock(sku), depot.stock(other)) == (7, 10), "3 were reserved, once"
    assert depot.reserved(sku, 3) != first, "another request_id is another reservation"


@behaviour(stage=2, points=3, source=document("statuscodes.md", "Status codes", "R8"), needs="reserve")
@incident(
    "A server that hands on the status of its own back end tells callers PERMISSION_DENIED when its own credentials "
    "have expired: they look for the mistake on their side."
)
def test_failures_of_the_carrier_are_ours(depot: Depot, carrier: Carrier) -> None:
    """What the carrier refuses is INTERNAL, asked once, told without the carrier's words, and gives the items back."""
    sku, name = depot.stocked(10), depot.word()
    for code in (Code.PERMISSION_DENIED, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND, Code.ABORTED):
        secret = f"key-{depot.word()}"
        before = len(carrier.asked)
        with carrier.failing(code, secret):
            call = depot.reserve(sku, 4, name)
            status = ended(call, Code.INTERNAL, why=f"the carrier says {code.name}, and that is not the caller's fault")
        told = [status.message, str(status.details), *(value for _, value in [*call.headers, *call.trailers])]
        assert not any(secret in text for text in told), f"the carrier's words are not for the caller: {status}"
        assert len(carrier.asked) == before + 1, f"{code.name} is no reason to ask the carrier again"
        assert depot.stock(sku) == 10, "what could not be booked is in stock again"
    assert depot.reserved(sku, 4, name)["tracking"] == tracking_of(name), "a request that failed may be made again"
    assert depot.stock(sku) == 6


@behaviour(stage=2, hidden=True, source=brief("R2", "Pick"), needs="pick")
def test_bad_pick_ends_the_stream(depot: Depot) -> None:
    """A pick that is refused ends its stream with the status; what was picked before is answered, and stays picked."""
    sku = depot.stocked(10)
    call = depot.pick({"sku": sku, "quantity": 3}, {"sku": sku, "quantity": 0}, {"sku": sku, "quantity": 2})
    assert call.next("an answer to its first pick")["quantity"] == 3
    ended(call, Code.INVALID_ARGUMENT)
    assert len(call.replies) == 1, "what stands behind a refused pick is not picked"
    assert depot.stock(sku) == 7, "3 were picked, and nothing behind the pick that was refused"


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, points=4, source=brief("R6", "items are taken before the carrier is asked"), needs="out_of_stock")
@hints(
    "Two callers want the last item, and the carrier takes its time. Who gets it?",
    "Whoever took it out of the stock before the carrier was asked.",
    "Check and take in one step, with nothing awaited between, then ask the carrier, and give back if that fails.",
)
def test_last_item_goes_once(depot: Depot, carrier: Carrier) -> None:
    """While the carrier is asked for the last item, nobody else can have it."""
    sku = depot.stocked(1)
    with carrier.holding():
        first = depot.reserve(sku)
        carrier.until_held()
        assert depot.stock(sku) == 0, "what is being booked is out of stock"
        second = depot.reserve(sku, by=depot.dial("second"))
        ended(second, Code.FAILED_PRECONDITION, why="the last item is being booked for somebody else")
        pick = depot.pick({"sku": sku, "quantity": 1})
        assert pick.next()["quantity"] == 0, "it can't be picked either"
    done(first)
    assert len(carrier.bookings(sku)) == 1, "one item is booked once"
    assert depot.stock(sku) == 0


@behaviour(stage=3, points=5, source=brief("R7", "one at a time"), needs="retry_is_answered_alike")
@hints(
    "A retry may overtake the first try. What does your table know of it then?",
    "Note the request_id before you ask the carrier, not when it has answered.",
    "Keep an entry for what is under way; whoever finds it waits for its end, or is refused with ABORTED.",
)
@incident(
    "Clients hedge: gRPC can be configured to send a call again while the first try is under way (gRFC A6), and only "
    "the server can know that both are one."
)
def test_retry_of_what_is_under_way(depot: Depot, carrier: Carrier) -> None:
    """The same request_id while its first try is under way is one reservation: the same answer, or ABORTED."""
    sku, name = depot.stocked(10), depot.word()
    with carrier.holding():
        calls = [depot.reserve(sku, 3, name, by=depot.dial(f"try {number}")) for number in range(3)]
        carrier.until_held()
        depot.settled()
        assert len(carrier.asked) == 1, "one request_id is asked for once at a time"
        ended(depot.reserve(sku, 4, name), Code.ALREADY_EXISTS, why="another request has this request_id")
    statuses = [ended(call, Code.OK, Code.ABORTED) for call in calls]
    made = [call.replies[0] for call, status in zip(calls, statuses, strict=True) if status.code is Code.OK]
    assert made, "one of the tries is served"
    assert all(each == made[0] for each in made), f"one request_id is one reservation, and they got {made}"
    assert depot.stock(sku) == 7, "3 were reserved, once"


@behaviour(stage=3, points=5, source=guide("cancellation", "Cancellation", "R6"), needs="last_item_goes_once")
@hints(
    "Your caller has gone. Who is still at work for it?",
    "The carrier is; and the items that you took wait for nobody.",
    "Let the end of the call end its handler: cancel the carrier's call, give the items back, forget the request_id.",
)
def test_cancel_reaches_the_carrier(depot: Depot, carrier: Carrier) -> None:
    """When the caller cancels, the carrier's call is cancelled, the items are back, and the request_id is free."""
    sku, name = depot.stocked(5), depot.word()
    with carrier.holding():
        call = depot.reserve(sku, 5, name)
        carrier.until_held()
        call.cancel()
        carrier.until_cancelled("its caller has cancelled")
        depot.until_stock(sku, 5, "the caller has cancelled, so the items are back")
    reply = depot.reserved(sku, 5, name, by=depot.dial("again"))
    assert reply["tracking"] == tracking_of(name), "a request that was cancelled may be made again"
    assert depot.stock(sku) == 0


@behaviour(stage=3, hidden=True, points=5, source=brief("R7", "cancelled tries"), needs="retry_of_what_is_under_way")
@hints(
    "The second try waits for the first. What if the first is cancelled?",
    "Then the second has not been answered, and it is not cancelled.",
    "Whoever waits looks again when the first try is over: without a reservation, it makes its own try.",
)
def test_retry_outlives_a_cancelled_try(depot: Depot, carrier: Carrier) -> None:
    """A retry that waits for a try which is then cancelled is not cancelled with it."""
    sku, name = depot.stocked(5), depot.word()
    with carrier.holding():
        first = depot.reserve(sku, 4, name, by=depot.dial("first"))
        carrier.until_held()
        second = depot.reserve(sku, 4, name, by=depot.dial("second"))
        depot.settled()
        first.cancel()
        depot.settled()
    if ended(second, Code.OK, Code.ABORTED).code is Code.ABORTED:
        depot.reserved(sku, 4, name)
    else:
        assert second.replies[0]["tracking"] == tracking_of(name)
    assert depot.stock(sku) == 1, "4 of 5 are reserved, once"


@behaviour(stage=3, points=5, source=guide("deadlines", "Deadlines", "R5"), needs="deadline_is_passed_on")
def test_deadline_ends_the_work(depot: Depot, carrier: Carrier) -> None:
    """When the caller's deadline is over the call ends, the carrier's is cancelled, and the items are back."""
    sku = depot.stocked(5)
    depot.solution.lease = LIBRARY
    with carrier.holding():
        for timeout in (30, 400, PATIENT):
            call = depot.reserve(sku, 5, timeout=f"{timeout}m")
            depot.solution.until(lambda: carrier.asked or call.over, "a booking at the carrier")  # noqa: B023
            if carrier.asked:
                break
            depot.settled()  # the items are back before the next try
        else:
            raise LimitReached(f"time: the deadline of {PATIENT} ms was over before the carrier was asked")
        carrier.until_cancelled(f"its caller's deadline of {timeout} ms is over")
        status = call.result("DEADLINE_EXCEEDED")
        late = status.code in (Code.DEADLINE_EXCEEDED, Code.CANCELLED) or status.reset is not None
        assert late, f"DEADLINE_EXCEEDED is owed, and came {status}"
        depot.until_stock(sku, 5, "the deadline is over, so the items are back")
    depot.reserved(sku, 5)


@behaviour(stage=3, points=4, source=brief("R15", "calls at once"), needs=("reserve", "watch", "pick"))
@hints(
    "How many calls does your server have hands for?",
    "A call that waits, for its client or for the carrier, must not keep the next one from being served.",
    "With a pool of threads make it as big as R15 asks for; with an event loop never block it.",
)
def test_waiting_calls_block_nobody(depot: Depot, carrier: Carrier) -> None:
    """While many calls wait, for the carrier or for their clients, all four kinds are served at once."""
    sku, seen, other = depot.stocked(100), depot.stocked(1), depot.stocked(10)
    waiting_too = depot.dial("waiting")
    watches = [depot.watch(seen, by=waiting_too) for _ in range(10)]
    for watch in watches:
        watch.next("the level at once")
    idle = [depot.pick(by=waiting_too) for _ in range(10)]
    half = [depot.deliver({"sku": sku, "quantity": 1}, end=False, by=waiting_too) for _ in range(10)]
    with carrier.holding():
        held = [depot.reserve(sku) for _ in range(20)]
        carrier.until_asked(20, "all 20 bookings at once: none waits for another")
        ended(depot.reserve(other, 11), Code.FAILED_PRECONDITION)
        depot.delivered(other, 5)
        assert depot.stock(other) == 15
        assert done_pick(depot, other, 5)["left"] == 10
    for call in held:
        done(call)
    for pick in idle:
        pick.send(sku=other, quantity=1, end=True)
    for call in half:
        call.send(sku=sku, quantity=1, last=1, end=True)
        done(call)
    assert sorted(done(pick)["left"] for pick in idle) == list(range(10)), "picks that waited are served"
    assert depot.stock(sku) == 100, "20 of 100 were reserved, and 20 delivered"
    depot.delivered(seen, 1)
    for watch in watches:
        until_level(watch, 2, "1 was delivered")


def done_pick(depot: Depot, sku: str, quantity: int) -> Values:
    call = depot.pick({"sku": sku, "quantity": quantity})
    reply = call.next("an answer to its pick")
    call.half_close()
    ended(call, Code.OK)
    return reply


@behaviour(stage=3, points=4, source=guide("flow-control", "Flow control", "R10"), needs="watch")
@hints(
    "Who waits when one watcher does not read?",
    "Whoever changes the stock must only leave word, and never write to watchers itself.",
    "Each watcher writes for itself, and looks at the level only when it can send one.",
)
def test_slow_watcher_delays_nobody(depot: Depot) -> None:
    """A watcher that does not read delays nobody, and when it reads again it gets the present level."""
    sku = depot.stocked(1)
    shared = depot.dial("shared")
    slow = depot.watch(sku, by=shared, slow=True)
    quick = [depot.watch(sku, by=shared), depot.watch(sku)]
    for number in range(2, 11):
        depot.delivered(sku, 1, f"{number:06d}" + "n" * 40_000)
        for watch in quick:
            until_level(watch, number, "a delivery, though another watcher does not read")
    slow.read_again()
    until_level(slow, number, "the present one, once it reads again")
    levels = [level["quantity"] for level in slow.replies]
    assert levels == sorted(levels), f"levels come in their order, and came {levels}"
    for level in (each for each in slow.replies if each["quantity"] > 1):
        assert level["note"][:6] == f"{level['quantity']:06d}", "a level and its note are of the same moment"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, source=guide("retry", "Retry", "R8"), needs="failures_of_the_carrier_are_ours")
@hints(
    "When is it safe to ask the carrier again?",
    "When the request says which one it is, and the answer says that nothing was done.",
    "Up to three attempts in all, with the same request_id, RETRY_MS apart, and only for UNAVAILABLE.",
)
def test_unavailable_is_retried(depot: Depot, carrier: Carrier) -> None:
    """A carrier that is UNAVAILABLE is asked again with the same request, up to three times in all."""
    sku = depot.stocked(10)
    for failures in (1, 2):
        name, before = depot.word(), len(carrier.asked)
        with carrier.failing(Code.UNAVAILABLE, times=failures):
            assert depot.reserved(sku, 1, name)["tracking"] == tracking_of(name)
        asked = [each.request for each in carrier.asked[before:]]
        wanted = {"request_id": name, "sku": sku, "quantity": 1}
        assert asked == [wanted] * (failures + 1), f"each attempt is the same request, and they were {asked}"
        timeouts = [each.timeout for each in carrier.asked[before:]]
        assert all(timeout and timeout <= CARRIER_TIMEOUT * ROUNDED for timeout in timeouts)
    assert depot.stock(sku) == 8, "two were reserved, though the carrier was asked five times"


@behaviour(stage=4, hidden=True, source=guide("retry", "Retry", "R8"), needs="unavailable_is_retried")
def test_retries_end(depot: Depot, carrier: Carrier) -> None:
    """A carrier that stays UNAVAILABLE is asked three times, the caller is told UNAVAILABLE, and the items are back."""
    sku, name = depot.stocked(10), depot.word()
    with carrier.failing(Code.UNAVAILABLE, "try later"):
        ended(depot.reserve(sku, 4, name), Code.UNAVAILABLE)
    assert len(carrier.asked) == 3, f"three attempts in all, and the carrier was asked {len(carrier.asked)} times"
    assert depot.stock(sku) == 10, "what could not be booked is in stock again"
    assert depot.reserved(sku, 4, name)["tracking"] == tracking_of(name), "a request that failed may be made again"


@behaviour(stage=4, hidden=True, source=brief("R8", "a connection that breaks"), needs="unavailable_is_retried")
def test_broken_connection_is_retried(depot: Depot, carrier: Carrier) -> None:
    """When the connection to the carrier breaks under a booking, it is asked again with the same request_id."""
    sku, name = depot.stocked(10), depot.word()
    depot.reserved(sku)
    with carrier.holding():
        call = depot.reserve(sku, 4, name)
        carrier.until_held()
        carrier.hang_up()
        carrier.until_asked(3, "another attempt, on another connection")
    assert done(call)["tracking"] == tracking_of(name)
    assert [each.request["request_id"] for each in carrier.asked[1:]] == [name, name], "a retry is the same request"
    assert depot.stock(sku) == 5


@behaviour(
    stage=4,
    alone=True,
    settings={"CARRIER_TIMEOUT_MS": 40},
    source=guide("deadlines", "Deadlines", "R5"),
    needs="cancel_reaches_the_carrier",
)
@hints(
    "Your caller has all the time in the world, and the carrier never answers. Who ends that?",
    "CARRIER_TIMEOUT_MS does, for all attempts together; it is not the caller's deadline that is over.",
    "Map DEADLINE_EXCEEDED of the carrier's call to UNAVAILABLE, unless the caller's own deadline was the nearer one.",
)
def test_carrier_that_never_answers(depot: Depot, carrier: Carrier) -> None:
    """A carrier that does not answer in CARRIER_TIMEOUT_MS is given up: UNAVAILABLE, and the items are back."""
    is_given_up(depot, carrier)
    if not carrier.asked:  # on a slow machine the time may have been over before
        depot.solution.kill()
        depot.solution.restart(CARRIER_TIMEOUT_MS=PATIENT)
        is_given_up(Depot(depot.solution, carrier, depot.chance), carrier)
    if not carrier.asked:
        raise LimitReached("time: the carrier's was over before it was asked")


def is_given_up(depot: Depot, carrier: Carrier) -> None:
    """Nobody is answered by the carrier, and both are told so, whatever their own deadline."""
    sku = depot.stocked(5)
    with carrier.holding():
        patient, hasty = depot.reserve(sku, 2), depot.reserve(sku, 3, timeout="1H")
        for call in (patient, hasty):
            ended(call, Code.UNAVAILABLE, why="the carrier is too slow, not the caller too hasty")
        carrier.until_cancelled("its time is over")
        depot.until_stock(sku, 5, "both were given up, so the items are back")


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    source=guide("cancellation", "Cancellation", "R6"),
    needs="cancel_reaches_the_carrier",
)
def test_vanished_client_is_cancelled(depot: Depot, carrier: Carrier) -> None:
    """A client whose connection breaks has cancelled all its calls, whatever they were at."""
    sku = depot.stocked(10)
    watch = depot.watch(sku)
    watch.next("the level at once")
    gone = {ending: depot.dial(f"gone by {ending}") for ending in ("hang_up", "close")}
    with carrier.holding():
        for client in gone.values():
            depot.reserve(sku, 3, by=client)
        carrier.until_held(len(gone))
        until_level(watch, 4, "3 are being booked for each")
        for client in gone.values():
            depot.watch(sku, by=client).next("the level at once")
            depot.pick({"sku": sku, "quantity": 1}, by=client).next("an answer to its pick")
            depot.deliver({"sku": sku, "quantity": 100}, end=False, by=client)
        depot.settled()  # all of it has been read
        for left, (ending, client) in zip((1, 0), gone.items(), strict=True):
            getattr(client.connection, ending)()
            carrier.until_cancelled(f"its caller's connection has ended ({ending})", left)
        until_level(watch, 8, "6 of the items are back, and the two that were picked stay picked")
        depot.settled()
    assert depot.stock(sku) == 8, "a delivery whose client vanished adds nothing"
    depot.delivered(sku, 1)
    until_level(watch, 9, "1 was delivered")


@behaviour(
    stage=4,
    points=5,
    alone=True,
    settings={"KEEPALIVE_MS": 25, "KEEPALIVE_TIMEOUT_MS": 110},
    source=document("keepalive.md", "Keepalive", "R11"),
    needs="cancel_reaches_the_carrier",
)
@hints(
    "Your client's machine has lost its power. What do you hear of it?",
    "Nothing, for hours; only a question that needs an answer tells.",
    "Set grpc.keepalive_time_ms, grpc.keepalive_timeout_ms and, in the C core, grpc.http2.ping_timeout_ms.",
)
@incident(
    "Load balancers drop connections that seem idle, some after a minute, and TCP alone finds out after hours: gRPC's "
    "keepalive was made for that (gRFC A8)."
)
def test_keepalive(depot: Depot, carrier: Carrier) -> None:
    """A client that answers no PING is ended and its calls are cancelled; one that answers is kept, however silent."""
    depot.solution.lease = LIBRARY
    if one_goes_silent(depot, carrier):  # on a slow machine an answer may have been late
        depot.solution.kill()
        depot.solution.restart(KEEPALIVE_MS=200, KEEPALIVE_TIMEOUT_MS=PATIENT)
        for client in one_goes_silent(depot, carrier):
            raise Broken(f"{client.name} answered each of {client.http2.pings} PINGs, and was ended all the same")


def one_goes_silent(depot: Depot, carrier: Carrier) -> list[Channel]:
    """One of two clients answers no PING any more, and is ended. Those that were ended though they answered."""
    alive, dead = depot.dial("alive"), depot.dial("dead")

    def wronged() -> list[Channel]:
        return [client for client in (alive, dead) if client.over and client.http2.answers_pings]

    try:
        goes_silent(depot, carrier, alive, dead)
    except (Broken, NotReached):
        if not wronged():
            raise
    return wronged()


def goes_silent(depot: Depot, carrier: Carrier, alive: Channel, dead: Channel) -> None:
    """`dead` has a reservation under way when it falls silent, and is ended, which a watch of `alive` is told."""
    sku = f"sku-{depot.word()}"
    done(depot.deliver({"sku": sku, "quantity": 5}, by=alive))
    live, idle = depot.watch(sku, by=alive), depot.dial("idle")
    with carrier.holding():
        depot.reserve(sku, 5, by=dead)
        carrier.until_held()
        until_level(live, 0, "5 are being booked")
        while depot.solution.turn():  # its PINGs so far are answered
            pass
        if dead.over:
            raise NotReached("the scene could not be set: the connection ended while its client answered")
        dead.http2.answers_pings, dead.http2.pings = False, 0
        silence = f"a PING after KEEPALIVE_MS, {depot.solution.settings['KEEPALIVE_MS']}, of silence"
        depot.solution.until(lambda: dead.http2.pings or dead.over, silence, "dead")
        assert dead.http2.pings, "a PING is owed before anybody is taken for dead"
        carrier.until_cancelled("its caller answers no PING, and has KEEPALIVE_TIMEOUT_MS for that")
        depot.solution.until(lambda: dead.over, "an end of the connection", "dead")
        depot.solution.until(lambda: idle.http2.pings or idle.over, "a PING, though it has no call", "idle")
        seen = alive.http2.pings
        depot.solution.until(lambda: alive.http2.pings > seen or alive.over, "the next PING", "alive")
        until_level(live, 5, "the items of the dead client are back")


@behaviour(
    stage=4,
    points=5,
    alone=True,
    settings={"SHUTDOWN_MS": 20_000},
    source=guide("server-graceful-stop", "Graceful shutdown", "R14"),
    needs="last_item_goes_once",
)
@hints(
    "What becomes of the calls that are under way when a new version is rolled out?",
    "They end as if nothing had happened; only new ones are sent elsewhere.",
    "On SIGTERM stop the server with a grace of SHUTDOWN_MS, and leave the process when it has stopped.",
)
def test_sigterm_drains(depot: Depot, carrier: Carrier) -> None:
    """On SIGTERM calls under way end as if nothing had happened, new ones are not served, and then it exits."""
    sku = depot.stocked(10)
    pick = depot.pick({"sku": sku, "quantity": 1})
    pick.next("an answer to its pick")
    delivery = depot.deliver({"sku": sku, "quantity": 3}, end=False)
    with carrier.holding():
        held = depot.reserve(sku, 4)
        carrier.until_held()
        depot.solution.terminate()
        depot.settled()
        late = [depot.reserve(sku, by=depot.dial("late"))]
        if not depot.channel.http2.going:  # without a GOAWAY a client may try the connection that it has
            late.append(depot.reserve(sku))
        depot.settled()
        assert not held.over, f"a call under way goes on to its own end, and this one ended with {held.status}"
        assert len(carrier.asked) == 1, "a call that came after SIGTERM was served: the carrier was asked for it"
        pick.send(sku=sku, quantity=2, end=True)
        assert pick.next("an answer to its pick")["left"] == 3
        ended(pick, Code.OK)
        delivery.send(sku=sku, quantity=1, last=1, end=True)
        assert done(delivery) == {"lines": 2, "items": 4}
    assert done(held)["tracking"]
    status = depot.solution.until_exit("to end once every call has ended")
    assert status in STOPPED, f"exit status 0, 143 or an end by SIGTERM is owed, and came {status}"
    assert not any(call.replies for call in late), "a call that came after SIGTERM was served"


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings={"SHUTDOWN_MS": 20_000},
    source=document("health-checking.md", "Health Checking Protocol", "R14"),
    needs=("watch", "health_is_watched"),
)
@hints(
    "Which of your calls never end by themselves?",
    "Watches: whoever waits for them waits for ever, so they are told to come back elsewhere.",
    "Wake every watcher on SIGTERM and let it end with UNAVAILABLE; set health to NOT_SERVING before.",
)
def test_sigterm_sends_watchers_away(depot: Depot) -> None:
    """On SIGTERM health says NOT_SERVING, every Watch ends with UNAVAILABLE, and the server exits."""
    sku = depot.stocked(10)
    watches = [depot.watch(sku, by=depot.dial(f"watcher {number}")) for number in range(3)]
    for watch in watches:
        watch.next("the level at once")
    health = depot.channel.call(WATCH_HEALTH, {"service": SERVICE})
    assert health.next("the state at once")["status"] == SERVING
    depot.solution.terminate()
    assert health.next("NOT_SERVING")["status"] == NOT_SERVING, "who stops serving says so first"
    for watch in watches:
        ended(watch, Code.UNAVAILABLE, why="a client whose watch ends so comes back, to another server")
    health.cancel()
    depot.solution.until_exit("to end, since no call is left")


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings={"SHUTDOWN_MS": 20},
    source=brief("R14", "SHUTDOWN_MS"),
    needs="cancel_reaches_the_carrier",
)
def test_sigterm_is_bounded(depot: Depot, carrier: Carrier) -> None:
    """Calls that do not end within SHUTDOWN_MS are cancelled, the carrier's too, and the server exits."""
    sku = depot.stocked(10)
    depot.solution.lease = LIBRARY
    with carrier.holding():
        calls = [depot.reserve(sku), depot.pick(), depot.deliver({"sku": sku, "quantity": 1}, end=False)]
        carrier.until_held()
        depot.solution.terminate()
        carrier.until_cancelled("SHUTDOWN_MS is over")
        depot.solution.until_exit("to end SHUTDOWN_MS after SIGTERM, though three calls have not")
    assert not any(call.replies for call in calls), "a call that was cut off is not answered"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, points=5, source=guide("flow-control", "Flow control", "R10"), needs="slow_watcher_delays_nobody")
@hints(
    "Where do levels wait for a watcher that does not read?",
    "Nowhere: the present level is kept already, and an old one is of no use.",
    "No queue for each watcher: only a mark that something has changed, and the level is read when it can be sent.",
)
def test_slow_watcher_costs_nothing(depot: Depot) -> None:
    """For a watcher that does not read, hardly more is kept than the present level, however many it misses."""
    sku, number, at_once = depot.stocked(1), 66, 11
    slow = depot.watch(sku, by=depot.dial("slow", NARROW), slow=True)
    for _ in range(number // at_once):
        for call in [depot.deliver({"sku": sku, "quantity": 1, "note": "n" * 40_000}) for _ in range(at_once)]:
            done(call)
    slow.read_again()
    until_level(slow, 1 + number, "the present one, once it reads again")
    kept = len(slow.replies)
    assert kept < 60, f"{kept} of {number} levels, of 40 kB each, were kept for a watcher that did not read"


@behaviour(stage=5, points=5, hidden=True, source=guide("flow-control", "Flow control", "R10"), needs="pick")
@hints(
    "Your client sends picks and reads no answers. Where do they wait?",
    "If you read no further than you can answer, HTTP/2 makes the client wait by itself.",
    "Answer each pick before you read the next: no task or thread that reads ahead into a queue.",
)
def test_unread_answers_stop_the_reading(depot: Depot) -> None:
    """A client that sends picks and reads no answers is served no further than buffers go, and delays nobody."""
    sku, number = "😀" * 56 + depot.word(), 680
    done(depot.deliver({"sku": sku, "quantity": 1000}, {"sku": sku, "quantity": 1000}))
    call = depot.pick({"sku": sku, "quantity": 1}, by=depot.dial("greedy", NARROW))
    assert call.next("an answer to its pick")["left"] == 1999
    call.stop_reading()
    call.send_many(PICK.request.encode(sku=sku, quantity=1), number)
    depot.settled()
    served = 1999 - depot.stock(sku)
    assert served < 600, f"{served} of {number} picks were served, though nobody has read an answer"
    call.read_again()
    for each in range(number):
        left = call.next("an answer to each pick, once they are read")["left"]
        assert left == 1998 - each, f"the next pick leaves {1998 - each}, and its answer says {left}"


@behaviour(stage=5, points=4, source=brief("R15", "calls at once"), needs="waiting_calls_block_nobody")
def test_many_calls_at_once(depot: Depot, carrier: Carrier) -> None:
    """A hundred calls are under way at once, on one connection, and each gets what is its own."""
    skus = [f"sku-{depot.word()}" for _ in range(25)]
    done(depot.deliver(*({"sku": sku, "quantity": 100} for sku in skus)))
    watches = [depot.watch(skus[number % 25]) for number in range(50)]
    for watch in watches:
        watch.next("the level at once")
    names = [depot.word() for _ in range(50)]
    with carrier.holding():
        calls = [depot.reserve(skus[number % 25], 1, name) for number, name in enumerate(names)]
        carrier.until_asked(50, "50 bookings at once: none waits for another")
    for call, name in zip(calls, names, strict=True):
        assert done(call)["tracking"] == tracking_of(name), "each call gets its own answer"
    for watch in watches:
        until_level(watch, 98, "2 of each were reserved")
