"""A balancer for HTTP/1.1 that passes messages on while they arrive.

What keeps the promise, and where:

- `pass_on` is the only place that decides about repeats. It knows three facts: was anything sent, has anything of an
  answer reached the client, and does the request mean the same if it is carried out twice.
- An `Exchange` counts for its upstream from its beginning to its end, whatever ends it: the count is in a `finally`.
- A connection goes back on the shelf only if h11 says that both messages on it are complete. Every other one is reset:
  an answer that nobody has read to its end must never meet the next request.
- Each direction is a loop of "read a piece, write a piece, wait until it is taken", so nothing piles up here.
- `Upstream` holds what is known of one server: requests under way, failures in a row, checks in a row.
"""

import asyncio
import os
import secrets
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import h11
from fields import Fields, cookie, elements, end_to_end, for_client, for_upstream, plain
from wire import Wire, serve

T = TypeVar("T")


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
CHECKS = 2  # in a row, that change what is thought of an upstream
SHUTDOWN = milliseconds("SHUTDOWN_MS", 5000)

IDEMPOTENT = {b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"}  # RFC 9110 §9.2.2


class Refused(Exception):
    """The client's request can't be served: it is answered with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Unreached(Exception):
    """Nothing was sent: no connection to the upstream could be had."""


class Failed(Exception):
    """The upstream did not answer, or not with HTTP; nothing of an answer has reached the client."""

    def __init__(self, status: int = 502) -> None:
        super().__init__(status)
        self.status = status


class Broken(Exception):
    """The answer broke off when a part of it had reached the client already."""


async def within(seconds: float, awaited: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(seconds):
        return await awaited


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it no longer reads."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # it was of interest, or it was not: it is nobody's bug


# -- upstreams ------------------------------------------------------------------------------------------------------


class Upstream:
    def __init__(self, host: str, port: str) -> None:
        self.host, self.port = host, int(port)
        self.token = secrets.token_hex(8)  # its name in cookies: of no use to anybody else
        self.active = 0  # requests under way
        self.failures = 0  # in a row
        self.out_until = 0.0
        self.healthy = True
        self.streak = 0  # checks in a row that contradict `healthy`
        self.idle: list[Wire] = []

    @property
    def usable(self) -> bool:
        return self.healthy and asyncio.get_running_loop().time() >= self.out_until

    def failed(self) -> None:
        self.failures += 1
        if MAX_FAILS and self.failures >= MAX_FAILS:
            self.failures = 0
            self.out_until = asyncio.get_running_loop().time() + EJECT

    async def lease(self) -> Wire:
        """A connection on which nothing is under way. Raises Unreached."""
        while self.idle:
            wire = self.idle.pop()
            if await wire.wake():
                return wire
            wire.abort()
        try:
            return await within(CONNECT_TIMEOUT, Wire.to(self.host, self.port))
        except OSError:  # TimeoutError is one
            raise Unreached from None

    def release(self, wire: Wire) -> None:
        if not wire.begun and wire.reuse():
            wire.rest()
            self.idle.append(wire)
        else:
            wire.abort()

    # -- active checks ----------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        while True:
            self.checked(await self.check())
            await asyncio.sleep(CHECK_INTERVAL)

    async def check(self) -> bool:
        try:
            return await within(CHECK_TIMEOUT, self.ask())
        except (OSError, h11.RemoteProtocolError):
            return False

    async def ask(self) -> bool:
        wire = await Wire.to(self.host, self.port)
        try:
            fields = [("Host", f"{self.host}:{self.port}"), ("Connection", "close")]
            await wire.send(h11.Request(method="GET", target="/healthz", headers=fields))
            await wire.send(h11.EndOfMessage())
            answer = await wire.event()
            return isinstance(answer, h11.Response) and 200 <= answer.status_code < 300
        finally:
            wire.abort()

    def checked(self, passed: bool) -> None:
        self.streak = self.streak + 1 if passed != self.healthy else 0
        if self.streak >= CHECKS:
            self.healthy, self.streak = passed, 0


class Balancer:
    def __init__(self, upstreams: list[Upstream]) -> None:
        self.upstreams = upstreams
        self.next = 0  # for round-robin

    def choose(self, tried: Collection[Upstream], token: str) -> Upstream | None:
        """The upstream for a request, None if there is none that was not tried."""
        usable = [each for each in self.upstreams if each.usable and each not in tried]
        for upstream in usable:
            if token == upstream.token:
                return upstream
        if not usable or BALANCE != "round_robin":
            return min(usable, key=lambda each: each.active, default=None)
        while (upstream := self.upstreams[self.next]) not in usable:
            self.next = (self.next + 1) % len(self.upstreams)
        self.next = (self.next + 1) % len(self.upstreams)
        return upstream

    # -- one request ------------------------------------------------------------------------------------------------

    async def pass_on(self, client: Wire, request: h11.Request) -> None:
        """Have one upstream after the other try a request, as long as that can do no harm. Raises Refused, Broken."""
        fields, target = plain(request)
        chunked, length = elements(fields, b"transfer-encoding"), elements(fields, b"content-length")
        if chunked and length:
            raise Refused(400)  # two answers to the question where the next request begins
        bodiless = not chunked and set(length) <= {b"0"}
        if bodiless:
            await client.event()  # its end
        may_repeat = bodiless and request.method in IDEMPOTENT
        token = cookie(fields, STICKY_COOKIE) if STICKY_COOKIE else ""
        tried: list[Upstream] = []
        status = 503
        while upstream := self.choose(tried, token):
            tried.append(upstream)
            stick = STICKY_COOKIE and token != upstream.token
            added = [(b"set-cookie", f"{STICKY_COOKIE}={upstream.token}; Path=/; HttpOnly".encode())] if stick else []
            peer = client.writer.get_extra_info("peername")[0]
            forwarded = h11.Request(method=request.method, target=target, headers=for_upstream(fields, peer))
            try:
                await Exchange(client, upstream, forwarded, bodiless, added).run()
                upstream.failures = 0
                return
            except Unreached:
                upstream.failed()
                status = 502
            except Failed as failed:
                upstream.failed()
                status = failed.status
                if not may_repeat or status == 504:
                    break
        raise Refused(status)


class Exchange:
    """One try of one request at one upstream."""

    def __init__(self, client: Wire, upstream: Upstream, request: h11.Request, bodiless: bool, added: Fields) -> None:
        self.client, self.upstream, self.request = client, upstream, request
        self.bodiless, self.added = bodiless, added

    async def run(self) -> None:
        """Raises Unreached, Failed, Broken; Refused if the client is at fault."""
        self.upstream.active += 1
        upload = None
        line = None
        try:
            line = await self.upstream.lease()
            upload = asyncio.create_task(self.send_request(line))
            await self.send_response(line, await self.response_head(line, upload))
            self.upstream.release(line)
            line = None
        finally:
            self.upstream.active -= 1
            if line:
                line.abort()
            if upload:
                await ended(upload)

    async def send_request(self, line: Wire) -> None:
        """Pass the request on, piece by piece. Raises Refused if the client's part of it is missing or wrong."""
        with suppress(OSError):  # of the upstream, which may have answered before: the response tells
            await line.send(self.request)
            event: Any = h11.EndOfMessage() if self.bodiless else None
            while not isinstance(event, h11.EndOfMessage):
                event = await self.next_piece()
                await line.send(event)
            if self.bodiless:
                await line.send(event)

    async def next_piece(self) -> h11.Event:
        try:
            event = await within(STALL_TIMEOUT, self.client.event())
        except TimeoutError:
            raise Refused(408) from None
        except (h11.RemoteProtocolError, OSError):
            raise Refused(400) from None
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event  # without its trailers

    async def response_head(self, line: Wire, upload: asyncio.Task[None]) -> h11.Response:
        """The final head; interim responses are passed on. The time counts from the end of the request."""
        answer = asyncio.create_task(self.final_head(line))
        try:
            await asyncio.wait({upload, answer}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                upload.result()
                await asyncio.wait({answer}, timeout=RESPONSE_TIMEOUT)
            if not answer.done():
                raise Failed(504)
            return answer.result()
        finally:
            await ended(answer)

    async def final_head(self, line: Wire) -> h11.Response:
        while True:
            try:
                event = await line.event()
            except (h11.RemoteProtocolError, OSError):
                raise Failed from None
            if not isinstance(event, h11.InformationalResponse):
                if not isinstance(event, h11.Response):
                    raise Failed
                return event
            if self.client.http.their_http_version != b"1.0" and event.status_code != 101:
                fields, code = end_to_end(list(event.headers)), event.status_code
                await self.client.send(h11.InformationalResponse(status_code=code, headers=fields))

    async def send_response(self, line: Wire, head: h11.Response) -> None:
        fields = for_client(head, self.added)
        if self.client.stopping:
            fields.append((b"connection", b"close"))
        event: Any = h11.Response(status_code=head.status_code, headers=fields, reason=head.reason)
        while True:
            try:
                await within(STALL_TIMEOUT, self.client.send(event))
                if isinstance(event, h11.EndOfMessage):
                    return
                event = await within(STALL_TIMEOUT, line.event())
            except (h11.RemoteProtocolError, OSError):
                raise Broken from None
            if isinstance(event, h11.EndOfMessage):
                event = h11.EndOfMessage()  # without its trailers


# -- clients --------------------------------------------------------------------------------------------------------


async def next_request(client: Wire) -> h11.Request | None:
    """The head of the next request, None if none comes. Raises Refused."""
    client.idle = not client.begun
    try:
        event = await within(REQUEST_TIMEOUT, client.event())
    except TimeoutError:
        if client.begun:
            raise Refused(408) from None
        return None
    except h11.RemoteProtocolError as error:
        raise Refused(error.error_status_hint) from None
    finally:
        client.idle = False
    if isinstance(event, h11.Request) and event.method == b"CONNECT":
        raise Refused(501)
    return event if isinstance(event, h11.Request) else None


async def refuse(client: Wire, status: int) -> None:
    if client.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
        fields = [("Content-Length", "0"), *([("Retry-After", "1")] if status == 503 else [])]
        if client.http.their_state is not h11.DONE or client.stopping:
            fields.append(("Connection", "close"))
        await client.send(h11.Response(status_code=status, headers=fields))
        await client.send(h11.EndOfMessage())


async def handle(client: Wire) -> None:
    """One client: a request, its response, the next request."""
    try:
        while not client.stopping:
            try:
                request = await next_request(client)
                if request is None:
                    break
                await BALANCER.pass_on(client, request)
            except Refused as refusal:
                await refuse(client, refusal.status)
            if not client.reuse():
                break
    except Broken:
        return client.abort()
    await client.finish()


BALANCER = Balancer([Upstream(host, port) for host, port in UPSTREAMS])


async def main() -> None:
    checks = [asyncio.create_task(each.watch()) for each in BALANCER.upstreams if CHECK_INTERVAL]
    await serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000)), SHUTDOWN)
    for check in checks:
        check.cancel()


if __name__ == "__main__":
    asyncio.run(main())
