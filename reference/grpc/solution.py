"""A depot behind gRPC: all four kinds of calls, and a carrier that is called on behalf of those who call here.

One event loop, so what stands between two awaits is undisturbed. Each handler is a coroutine that reads and writes
through its context: when its caller goes away, the await where it stands raises CancelledError, and `finally` tidies.
"""

import asyncio
import os
import signal
import sys
import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

sys.path.insert(0, str(Path(__file__).parent / ".stubs"))  # build.py makes what is imported from there

import carrier_pb2
import carrier_pb2_grpc
import depot_pb2
import depot_pb2_grpc

HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 50051))
CARRIER = os.environ.get("CARRIER", "127.0.0.1:50052")
MAX_MESSAGE = int(os.environ.get("MAX_MESSAGE", 4 << 20))
CARRIER_TIMEOUT = int(os.environ.get("CARRIER_TIMEOUT_MS", 10_000)) / 1000
RETRY = int(os.environ.get("RETRY_MS", 100)) / 1000
KEEPALIVE, KEEPALIVE_TIMEOUT = (int(os.environ.get(name, 60_000)) for name in ("KEEPALIVE_MS", "KEEPALIVE_TIMEOUT_MS"))
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 5000)) / 1000

NAME = depot_pb2.DESCRIPTOR.services_by_name["Depot"].full_name
MOST, LONGEST, ATTEMPTS = 1000, 64, 3
Code = grpc.StatusCode
trace: ContextVar[str] = ContextVar("trace")  # of the call whose handler runs


# -- errors ---------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """What ends a call with a status; the details are messages of google.rpc."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code, self.details = code, details

    async def abort(self, context: grpc.aio.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=str(self))
        for detail in self.details:
            status.details.add().Pack(detail)
        await context.abort_with_status(rpc_status.to_status(status))


def check(request: Message) -> None:
    """Every field that is wrong is named, not only the first."""
    rules = {
        "request_id": (lambda text: 1 <= len(text) <= LONGEST, f"must have 1 to {LONGEST} characters"),
        "sku": (lambda text: 1 <= len(text) <= LONGEST, f"must have 1 to {LONGEST} characters"),
        "quantity": (lambda number: 1 <= number <= MOST, f"must be 1 to {MOST}"),
    }
    wrong = error_details_pb2.BadRequest()
    for name in request.DESCRIPTOR.fields_by_name.keys() & rules.keys():
        holds, rule = rules[name]
        if not holds(getattr(request, name)):
            wrong.field_violations.add(field=name, description=rule)
    if wrong.field_violations:
        told = ", ".join(f"{each.field} {each.description}" for each in wrong.field_violations)
        raise Refused(Code.INVALID_ARGUMENT, told, wrong)


def incomplete(why: str) -> Refused:
    wrong = error_details_pb2.BadRequest()
    wrong.field_violations.add(field="last", description=why)
    return Refused(Code.INVALID_ARGUMENT, why, wrong)


# -- stock ----------------------------------------------------------------------------------------------------------


@dataclass
class Item:
    """What is in stock of one SKU, and who wants to know when that changes."""

    sku: str
    quantity: int = 0
    note: str = ""
    watchers: set[asyncio.Event] = field(default_factory=set)

    def change(self, by: int) -> None:
        self.quantity += by
        for changed in self.watchers:
            changed.set()

    def take(self, quantity: int) -> None:
        if quantity > self.quantity:
            told = {"sku": self.sku, "available": str(self.quantity)}
            why = error_details_pb2.ErrorInfo(reason="OUT_OF_STOCK", domain=NAME, metadata=told)
            raise Refused(Code.FAILED_PRECONDITION, f"{self.quantity} of {self.sku} are in stock", why)
        self.change(-quantity)


@dataclass
class Attempt:
    """A reservation under way or made: who comes with the same request_id waits for it, and gets what it got."""

    request: depot_pb2.ReserveRequest
    over: asyncio.Event = field(default_factory=asyncio.Event)
    reservation: depot_pb2.Reservation | None = None


# -- the service ----------------------------------------------------------------------------------------------------


def answering(method):
    """What all four kinds have in common: the trace that comes back at once, and errors that become a status."""

    @wraps(method)
    async def answer(self, request, context):
        given = dict(context.invocation_metadata())
        trace.set(given.get("x-trace-id") or uuid.uuid4().hex)
        await context.send_initial_metadata((("x-trace-id", trace.get()),))
        try:
            return await method(self, request, context)
        except Refused as why:
            await why.abort(context)

    return answer


class Depot(depot_pb2_grpc.DepotServicer):
    def __init__(self, carrier: carrier_pb2_grpc.CarrierStub) -> None:
        self.carrier = carrier
        self.items: dict[str, Item] = {}
        self.attempts: dict[str, Attempt] = {}
        self.stopping = False

    def find(self, sku: str) -> Item:
        if sku not in self.items:
            raise Refused(Code.NOT_FOUND, f"there is no {sku}")
        return self.items[sku]

    @answering
    async def Reserve(self, request, context):
        check(request)
        while known := self.attempts.get(request.request_id):
            if known.request != request:
                raise Refused(Code.ALREADY_EXISTS, f"{request.request_id} stands for another reservation")
            if known.reservation:
                return known.reservation
            await known.over.wait()
        attempt = self.attempts[request.request_id] = Attempt(request)
        try:
            attempt.reservation = await self.reserve(request, context)
        finally:
            if not attempt.reservation:
                del self.attempts[request.request_id]
            attempt.over.set()
        return attempt.reservation

    async def reserve(self, request, context) -> depot_pb2.Reservation:
        item = self.find(request.sku)
        item.take(request.quantity)
        booking = None
        try:
            booking = await self.book(request, context)
        finally:
            if not booking:
                item.change(request.quantity)
        return depot_pb2.Reservation(id=uuid.uuid4().hex, tracking=booking.tracking)

    async def book(self, request, context) -> carrier_pb2.Booking:
        """Ask the carrier, within the caller's deadline and our own, and again while it is unavailable."""
        now = asyncio.get_running_loop().time
        left = context.time_remaining()
        timeout = CARRIER_TIMEOUT if left is None else min(left, CARRIER_TIMEOUT)
        deadline = now() + timeout
        booking = carrier_pb2.BookRequest(request_id=request.request_id, sku=request.sku, quantity=request.quantity)
        metadata = passed_on(context)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self.carrier.Book(booking, timeout=deadline - now(), metadata=metadata)
            except grpc.aio.AioRpcError as error:
                again = error.code() is Code.UNAVAILABLE and attempt < ATTEMPTS and now() + RETRY < deadline
                if not again:
                    raise self.refusal(error, timeout) from None
            await asyncio.sleep(RETRY)
        raise AssertionError("the last attempt returns or raises")

    def refusal(self, error: grpc.aio.AioRpcError, timeout: float) -> Refused:
        """What the caller is told of the carrier's failures: nothing of what it said."""
        if error.code() is Code.DEADLINE_EXCEEDED and timeout < CARRIER_TIMEOUT:
            return Refused(Code.DEADLINE_EXCEEDED, "the deadline is over")
        if error.code() in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            return Refused(Code.UNAVAILABLE, "the carrier does not answer")
        print(f"the carrier refuses: {error.code()} {error.details()}", flush=True)
        return Refused(Code.INTERNAL, "the carrier refuses")

    @answering
    async def Watch(self, request, context) -> None:
        check(request)
        item, changed = self.find(request.sku), asyncio.Event()
        item.watchers.add(changed)
        try:
            while not self.stopping:
                changed.clear()
                await context.write(depot_pb2.Level(quantity=item.quantity, note=item.note))
                await changed.wait()
        finally:
            item.watchers.discard(changed)
        raise Refused(Code.UNAVAILABLE, "the server stops")

    @answering
    async def Deliver(self, deliveries, context):
        lines: list[depot_pb2.Delivery] = []
        async for delivery in deliveries:
            check(delivery)
            if lines and lines[-1].last:
                raise incomplete("a line stands behind the last one")
            lines.append(delivery)
        if not lines or not lines[-1].last:  # a stream that is cut off ends here like any other
            raise incomplete("the stream ends without its last line")
        for delivery in lines:
            item = self.items.setdefault(delivery.sku, Item(delivery.sku))
            item.note = delivery.note
            item.change(delivery.quantity)
        return depot_pb2.Summary(lines=len(lines), items=sum(delivery.quantity for delivery in lines))

    @answering
    async def Pick(self, requests, context) -> None:
        async for request in requests:
            check(request)
            item = self.find(request.sku)
            picked = min(request.quantity, item.quantity)
            item.change(-picked)
            await context.write(depot_pb2.Picked(sku=request.sku, quantity=picked, left=item.quantity))

    def stop(self) -> None:
        self.stopping = True
        for item in self.items.values():
            item.change(0)


def passed_on(context) -> tuple:
    """The metadata that the carrier gets: the trace and the context, and nothing else of the caller's."""
    given = [(key, value) for key, value in context.invocation_metadata() if key == "context-bin"]
    return (("x-trace-id", trace.get()), *given)


# -- the server -----------------------------------------------------------------------------------------------------


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    options = (
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.keepalive_time_ms", KEEPALIVE),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT),  # a minute otherwise, whatever stands above
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http.tarpit", 0),  # else a message that is too big is refused up to a second later
    )
    async with grpc.aio.insecure_channel(CARRIER) as channel:
        server, depot = grpc.aio.server(options=options), Depot(carrier_pb2_grpc.CarrierStub(channel))
        depot_pb2_grpc.add_DepotServicer_to_server(depot, server)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        await healthy.set(NAME, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        server.add_insecure_port(f"{HOST}:{PORT}")
        await server.start()
        await stopping.wait()
        await healthy.enter_graceful_shutdown()
        depot.stop()
        await server.stop(SHUTDOWN)


if __name__ == "__main__":
    asyncio.run(main())
