"""A thread of a pool for each call, and one condition around all that they share: whoever changes anything wakes all
who wait. What a thread waits for can also be the end of its call, which gRPC tells by a callback on another thread.
"""

import os
import signal
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".stubs"))

import carrier_pb2
import carrier_pb2_grpc
import depot_pb2
import depot_pb2_grpc


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


CARRIER_TIMEOUT, RETRY = setting("CARRIER_TIMEOUT_MS", 10_000) / 1000, setting("RETRY_MS", 100) / 1000
SHUTDOWN = setting("SHUTDOWN_MS", 5000) / 1000
SERVICE = "depot.v1.Depot"
WORKERS = 400
FIELDS = {"sku": "text", "request_id": "text", "quantity": "number"}


class Ended(Exception):
    """The call is over: nobody is left to be answered."""


class Refused(Exception):
    def __init__(self, code, message, *details):
        super().__init__(message)
        self.status = status_pb2.Status(code=code.value[0], message=message)
        for each in details:
            self.status.details.add().Pack(each)


def valid(request):
    violations = []
    for field in request.DESCRIPTOR.fields:
        value = getattr(request, field.name)
        kind = FIELDS.get(field.name)
        if kind == "text" and not 0 < len(value) < 65:
            violations.append((field.name, "has 1 to 64 characters"))
        if kind == "number" and not 0 < value < 1001:
            violations.append((field.name, "is 1 to 1000"))
    if violations:
        bad = error_details_pb2.BadRequest()
        for name, rule in violations:
            bad.field_violations.add(field=name, description=rule)
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{len(violations)} fields are wrong", bad)
    return request


class Call:
    """One call, as its thread sees it."""

    def __init__(self, context, changed):
        self.context, self.changed = context, changed
        self.given = context.invocation_metadata()
        self.trace = next((value for key, value in self.given if key == "x-trace-id"), "") or str(uuid.uuid4())
        context.send_initial_metadata((("x-trace-id", self.trace),))
        if not context.add_callback(self._wake):
            raise Ended

    def _wake(self):
        with self.changed:
            self.changed.notify_all()

    @property
    def over(self):
        return not self.context.is_active()

    def wait_for(self, happened, timeout=None):
        """Wait, with the lock held, until something has happened. Raises Ended."""
        self.changed.wait_for(lambda: self.over or happened(), timeout)
        if self.over:
            raise Ended

    def refuse(self, why):
        self.context.abort_with_status(rpc_status.to_status(why.status))

    @property
    def passed_on(self):
        return [("x-trace-id", self.trace), *((key, value) for key, value in self.given if key == "context-bin")]


class Stock:
    def __init__(self):
        self.quantity, self.note, self.version = 0, "", 0

    def add(self, quantity, note=None):
        self.quantity += quantity
        self.note = self.note if note is None else note
        self.version += 1


class Depot(depot_pb2_grpc.DepotServicer):
    def __init__(self, channel):
        self.carrier = carrier_pb2_grpc.CarrierStub(channel)
        self.changed = threading.Condition()
        self.stocks, self.reservations, self.stopping = {}, {}, False

    def stock(self, sku):
        if sku not in self.stocks:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"{sku} was never delivered")
        return self.stocks[sku]

    def answered(self, context, work):
        """The one answer of a call."""
        try:
            call = Call(context, self.changed)
            try:
                return work(call)
            except Refused as why:
                call.refuse(why)
        except Ended:
            context.abort(grpc.StatusCode.CANCELLED, "")

    def streamed(self, context, work):
        """The answers of a call."""
        try:
            call = Call(context, self.changed)
            try:
                yield from work(call)
            except Refused as why:
                call.refuse(why)
        except Ended:
            return

    def Reserve(self, request, context):
        return self.answered(context, lambda call: self.reserve(call, valid(request)))

    def reserve(self, call, request):
        name, content = request.request_id, (request.sku, request.quantity)
        with self.changed:
            while name in self.reservations:
                known, reservation = self.reservations[name]
                if known != content:
                    raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"{name} stands for something else")
                if reservation:
                    return reservation
                mine = self.reservations[name]
                call.wait_for(lambda: self.reservations.get(name) is not mine)  # noqa: B023
            stock = self.stock(request.sku)
            if stock.quantity < request.quantity:
                metadata = {"sku": request.sku, "available": str(stock.quantity)}
                info = error_details_pb2.ErrorInfo(reason="OUT_OF_STOCK", domain=SERVICE, metadata=metadata)
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "there are not so many", info)
            stock.add(-request.quantity)
            self.reservations[name] = (content, None)
            self.changed.notify_all()
        reservation = None
        try:
            tracking = self.book(call, request)
            reservation = depot_pb2.Reservation(id=str(uuid.uuid4()), tracking=tracking)
            return reservation
        finally:
            with self.changed:
                if reservation:
                    self.reservations[name] = (content, reservation)
                else:
                    del self.reservations[name]
                    stock.add(request.quantity)
                self.changed.notify_all()

    def book(self, call, request):
        remaining = call.context.time_remaining()
        mine = remaining is None or remaining >= CARRIER_TIMEOUT
        end = time.monotonic() + (CARRIER_TIMEOUT if mine else remaining)
        wanted = carrier_pb2.BookRequest(request_id=request.request_id, sku=request.sku, quantity=request.quantity)
        for attempt in (1, 2, 3):
            left = end - time.monotonic()
            booking = self.carrier.Book.future(wanted, timeout=max(left, 0.001), metadata=call.passed_on)
            if not call.context.add_callback(booking.cancel):
                booking.cancel()
            try:
                return booking.result().tracking
            except grpc.FutureCancelledError:
                raise Ended from None
            except grpc.RpcError as error:
                code = error.code()
                if code is grpc.StatusCode.UNAVAILABLE and attempt < 3 and time.monotonic() + RETRY < end:
                    with self.changed:
                        call.wait_for(lambda: False, RETRY)
                    continue
                if code is grpc.StatusCode.DEADLINE_EXCEEDED and not mine:
                    raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "too late") from None
                if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise Refused(grpc.StatusCode.UNAVAILABLE, "the carrier can't be reached") from None
                raise Refused(grpc.StatusCode.INTERNAL, "booking failed") from None

    def Watch(self, request, context):
        return self.streamed(context, lambda call: self.watch(call, valid(request)))

    def watch(self, call, request):
        seen = -1
        while True:
            with self.changed:
                stock = self.stock(request.sku)
                call.wait_for(lambda: self.stopping or stock.version != seen)  # noqa: B023
                if self.stopping:
                    raise Refused(grpc.StatusCode.UNAVAILABLE, "going away")
                seen, level = stock.version, depot_pb2.Level(quantity=stock.quantity, note=stock.note)
            yield level

    def Deliver(self, deliveries, context):
        return self.answered(context, lambda call: self.deliver(call, deliveries))

    def deliver(self, call, deliveries):
        try:
            lines = list(self.complete(deliveries))
        except grpc.RpcError:
            raise Ended from None
        with self.changed:
            for line in lines:
                self.stocks.setdefault(line.sku, Stock()).add(line.quantity, line.note)
            self.changed.notify_all()
        return depot_pb2.Summary(lines=len(lines), items=sum(line.quantity for line in lines))

    def complete(self, deliveries):
        last = False
        for delivery in deliveries:
            if last:
                break
            last = valid(delivery).last
            yield delivery
        else:
            if last:
                return
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field="last", description="is true in the last line, and only there")
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "this is no whole delivery", bad)

    def Pick(self, requests, context):
        return self.streamed(context, lambda call: self.pick(requests))

    def pick(self, requests):
        for request in requests:
            valid(request)
            with self.changed:
                stock = self.stock(request.sku)
                quantity = min(stock.quantity, request.quantity)
                stock.add(-quantity)
                left = stock.quantity
                self.changed.notify_all()
            yield depot_pb2.Picked(sku=request.sku, quantity=quantity, left=left)

    def stop(self):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    options = {
        "grpc.max_receive_message_length": setting("MAX_MESSAGE", 4 << 20),
        "grpc.keepalive_time_ms": setting("KEEPALIVE_MS", 60_000),
        "grpc.keepalive_timeout_ms": setting("KEEPALIVE_TIMEOUT_MS", 20_000),
        "grpc.http2.ping_timeout_ms": setting("KEEPALIVE_TIMEOUT_MS", 20_000),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
    }
    channel = grpc.insecure_channel(os.environ.get("CARRIER", "127.0.0.1:50052"))
    server = grpc.server(ThreadPoolExecutor(WORKERS), options=list(options.items()))
    depot, healthy = Depot(channel), health.HealthServicer()
    depot_pb2_grpc.add_DepotServicer_to_server(depot, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    server.add_insecure_port(f"{os.environ.get('HOST', '127.0.0.1')}:{setting('PORT', 50051)}")
    server.start()
    signal.sigwait({signal.SIGTERM})
    healthy.enter_graceful_shutdown()
    stopped = server.stop(SHUTDOWN)
    depot.stop()
    stopped.wait()


if __name__ == "__main__":
    main()
