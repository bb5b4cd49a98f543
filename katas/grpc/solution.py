"""A depot behind gRPC: all four kinds of calls, and a carrier that is called on behalf of those who call here.

It starts, listens and ends, and answers UNIMPLEMENTED to everything. Fill in what raises NotImplementedError, from top
to bottom, and then what is too simple; the rules R1 to R15 are in README.md beside this file. The stubs that are
imported here are made by build.py, also given. You may change anything: only what is on the wire counts.
"""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # noqa: F401 (for R12: health.aio.HealthServicer)
from grpc_reflection.v1alpha import reflection  # noqa: F401 (for R13: reflection.enable_server_reflection)
from grpc_status import rpc_status

sys.path.insert(0, str(Path(__file__).parent / ".stubs"))

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
MOST, LONGEST = 1000, 64
Code = grpc.StatusCode


# -- errors ---------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """What ends a call with a status; the details are messages of google.rpc."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code, self.details = code, details

    async def abort(self, context: grpc.aio.ServicerContext) -> None:
        """End the call. R3: the details are still to be packed, `status.details.add().Pack(...)`."""
        status = status_pb2.Status(code=self.code.value[0])
        await context.abort_with_status(rpc_status.to_status(status))


def check(request: Message) -> None:
    """R3: Refused with INVALID_ARGUMENT if `request_id`, `sku` or `quantity`, where there is one, breaks a rule.

    `request.DESCRIPTOR.fields_by_name` has the fields of a message, `wrong.field_violations.add(...)` names one.
    """
    wrong = error_details_pb2.BadRequest()  # noqa: F841
    raise NotImplementedError("check() in solution.py")


# -- stock ----------------------------------------------------------------------------------------------------------


@dataclass
class Item:
    """What is in stock of one SKU, and who wants to know when that changes."""

    sku: str
    quantity: int = 0
    note: str = ""

    def change(self, by: int) -> None:
        """R2: more or fewer, and whoever watches is told."""
        raise NotImplementedError("Item.change() in solution.py")


# -- the service ----------------------------------------------------------------------------------------------------


def answering(method):
    """What all four kinds have in common. R4: the trace comes back, `await context.send_initial_metadata(...)`."""

    @wraps(method)
    async def answer(self, request, context):
        try:
            return await method(self, request, context)
        except Refused as why:
            await why.abort(context)
        except NotImplementedError as missing:
            await context.abort(Code.UNIMPLEMENTED, f"not implemented yet: {missing}")

    return answer


class Depot(depot_pb2_grpc.DepotServicer):
    """Handlers are coroutines that may `await context.write(reply)`, and read with `async for`.

    When a caller goes away, its handler is cancelled: the await where it stands raises CancelledError.
    """

    def __init__(self, carrier: carrier_pb2_grpc.CarrierStub) -> None:
        self.carrier = carrier
        self.items: dict[str, Item] = {}

    def find(self, sku: str) -> Item:
        if sku not in self.items:
            raise Refused(Code.NOT_FOUND, f"there is no {sku}")
        return self.items[sku]

    @answering
    async def Deliver(self, deliveries, context):
        """R2: collect the lines, add them when the last one has come, and return a Summary."""
        raise NotImplementedError("Depot.Deliver() in solution.py")

    @answering
    async def Watch(self, request, context) -> None:
        """R2: write a Level at once, and whenever it changes. R10: what waits for a client that does not read?"""
        raise NotImplementedError("Depot.Watch() in solution.py")

    @answering
    async def Reserve(self, request, context):
        """R2: take, book, answer; R6: give back, if it does not come to that. R7: is this request_id known?"""
        raise NotImplementedError("Depot.Reserve() in solution.py")

    async def book(self, request, context) -> carrier_pb2.Booking:
        """R5: `await self.carrier.Book(..., timeout=...)`, with what metadata (R4)? R8: and if it is unavailable?

        `context.time_remaining()` are the seconds that the caller has left, None without a deadline. What fails raises
        grpc.aio.AioRpcError, whose code() says why.
        """
        raise NotImplementedError("Depot.book() in solution.py")

    @answering
    async def Pick(self, requests, context) -> None:
        """R2: answer each pick before the next one is read."""
        raise NotImplementedError("Depot.Pick() in solution.py")


# -- the server -----------------------------------------------------------------------------------------------------


async def main() -> None:
    """R9 and R11 are options, R12 and R13 services, and R14 is what happens after `stopping.wait()`."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    options = (
        ("grpc.http.tarpit", 0),  # else a message that is too big is refused up to a second later
    )
    async with grpc.aio.insecure_channel(CARRIER) as channel:
        server, depot = grpc.aio.server(options=options), Depot(carrier_pb2_grpc.CarrierStub(channel))
        depot_pb2_grpc.add_DepotServicer_to_server(depot, server)
        server.add_insecure_port(f"{HOST}:{PORT}")
        await server.start()
        await stopping.wait()
        await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
