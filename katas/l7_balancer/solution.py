"""A balancer for HTTP/1.1 that passes messages on while they arrive.

wire.py holds one connection: `await wire.event()` is the next h11 event (a head, a piece of a body, its end), and
`await wire.send(event)` writes one and waits until it is taken. When a client's connection is lost its handler is
cancelled: CancelledError comes out of the `await` where it stands. What must happen then, too, belongs in a `finally`.
"""

import asyncio
import os
from collections.abc import Collection

import h11
from wire import Wire, serve


def milliseconds(name: str, default: int) -> float:
    return int(os.environ.get(name, default)) / 1000


UPSTREAMS = [name.rsplit(":", 1) for name in os.environ.get("UPSTREAMS", "127.0.0.1:9000").split(",")]
BALANCE = os.environ.get("BALANCE", "least_connections")
STICKY_COOKIE = os.environ.get("STICKY_COOKIE", "")
REQUEST_TIMEOUT = milliseconds("REQUEST_TIMEOUT_MS", 20_000)
CONNECT_TIMEOUT = milliseconds("CONNECT_TIMEOUT_MS", 20_000)
RESPONSE_TIMEOUT = milliseconds("RESPONSE_TIMEOUT_MS", 20_000)
STALL_TIMEOUT = milliseconds("STALL_TIMEOUT_MS", 20_000)
MAX_FAILS = int(os.environ.get("MAX_FAILS", 0))
EJECT = milliseconds("EJECT_MS", 20_000)
CHECK_INTERVAL = milliseconds("CHECK_INTERVAL_MS", 0)
CHECK_TIMEOUT = milliseconds("CHECK_TIMEOUT_MS", 60_000)
SHUTDOWN = milliseconds("SHUTDOWN_MS", 5000)


class Refused(Exception):
    """The client's request can't be served: it is answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Upstream:
    """One server, and what is known of it."""

    def __init__(self, host: str, port: str) -> None:
        self.host, self.port = host, int(port)
        self.active = 0  # requests under way
        self.idle: list[Wire] = []  # connections that may be used again

    @property
    def usable(self) -> bool:
        """Neither out by failures (H1) nor by checks (H2)."""
        return True

    async def lease(self) -> Wire:
        """A connection on which nothing is under way: an idle one that is still silent, or a new one (C1, C2, T2).

        Begin with `Wire.to(self.host, self.port)` for each request.
        """
        raise NotImplementedError("Upstream.lease() in solution.py")

    def release(self, wire: Wire) -> None:
        """A request has ended: keep its connection if both messages are complete (`wire.reuse()`), or abort it."""
        raise NotImplementedError("Upstream.release() in solution.py")


class Exchange:
    """One try of one request at one upstream."""

    def __init__(self, client: Wire, upstream: Upstream, request: h11.Request) -> None:
        self.client, self.upstream, self.request = client, upstream, request

    async def run(self) -> None:
        """Pass the request on and the response back, piece by piece, both at the same time (S1).

        Tell three kinds of failure apart, by an exception each: nothing was sent (R1); something was, and no response
        came (R2); a part of the response has reached the client already (R4).
        """
        raise NotImplementedError("Exchange.run() in solution.py")


class Balancer:
    def __init__(self, upstreams: list[Upstream]) -> None:
        self.upstreams = upstreams

    def choose(self, tried: Collection[Upstream]) -> Upstream | None:
        """The upstream for a request, None if there is none that was not tried (B1 to B4)."""
        raise NotImplementedError("Balancer.choose() in solution.py")

    async def pass_on(self, client: Wire, request: h11.Request) -> None:
        """Have one upstream after the other try a request, as long as that can do no harm (R1 to R4)."""
        raise Refused(501)  # unfinished


BALANCER = Balancer([Upstream(host, port) for host, port in UPSTREAMS])


async def refuse(client: Wire, status: int) -> None:
    """Answer with an error, and say close if it is not known where the next request begins."""
    if client.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        fields = [("Content-Length", "0")]
        if client.http.their_state is not h11.DONE:
            fields.append(("Connection", "close"))
        await client.send(h11.Response(status_code=status, headers=fields))
        await client.send(h11.EndOfMessage())


async def handle(client: Wire) -> None:
    """One client: a request, its response, the next request. T1 and D1 (`idle`, `stopping` of a Wire) are missing."""
    while True:
        try:
            request = await client.event()
            if not isinstance(request, h11.Request):
                break
            await BALANCER.pass_on(client, request)
        except Refused as refusal:
            await refuse(client, refusal.status)
        except h11.RemoteProtocolError as error:
            await refuse(client, error.error_status_hint)
        if not client.reuse():
            break
    await client.finish()


async def main() -> None:
    """Start the checks (H2) here, one task for each upstream."""
    await serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), SHUTDOWN)


if __name__ == "__main__":
    asyncio.run(main())
