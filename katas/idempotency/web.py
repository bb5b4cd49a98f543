"""Given: a small HTTP/1.1 server on asyncio and h11. Nothing of the kata is solved here.

A request reaches the handler only when its body is complete. When the connection is lost, the handler is
cancelled: its `await` raises CancelledError, wherever it stands, as it does in most asynchronous servers.
"""

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: list[tuple[str, str]]  # names in lower case, in the order of arrival
    body: bytes

    def lines(self, name: str) -> list[str]:
        """The values of all header lines of that name."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True)
class Answer:
    """A response. Content-Length is added when it is written; the other headers are up to you."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Answer]]


def problem(status: int, detail: str, **members: Any) -> Answer:
    """A refusal, as RFC 9457 wants it."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/problem+json"})


class Connection(asyncio.Protocol):
    """One client: a request, its answer, the next request. h11 makes events of the bytes."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.http = h11.Connection(h11.SERVER)
        self.task: asyncio.Task[None] | None = None
        self.head: h11.Request | None = None
        self.body = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.http.receive_data(data)
        self.next_request()

    def eof_received(self) -> bool:
        self.http.receive_data(b"")
        if self.task is None:
            self.next_request()
        return True  # a client that has said everything may still wait for its answer

    def connection_lost(self, _: Exception | None) -> None:
        if self.task:
            self.task.cancel()

    def next_request(self) -> None:
        """Take in what has come, up to the end of one request."""
        try:
            while (event := self.http.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    self.head, self.body = event, bytearray()
                elif isinstance(event, h11.Data):
                    self.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self.task = asyncio.create_task(self.respond())
                    return  # what else has come waits for its turn
                else:
                    return self.transport.close()
        except h11.RemoteProtocolError as error:
            self.write(problem(400, str(error)))
            self.transport.close()

    async def respond(self) -> None:
        headers = [(key.decode(), value.decode("latin-1")) for key, value in self.head.headers]
        path = self.head.target.decode("latin-1")
        request = Request(self.head.method.decode(), path, headers, bytes(self.body))
        try:
            answer = await self.handler(request)
        except NotImplementedError as error:
            answer = problem(501, f"not implemented yet: {error}")
        except Exception:  # a bug costs its own request only, and its traceback is shown
            traceback.print_exc()
            answer = problem(500, "the handler failed")
        self.task = None
        self.write(answer)
        if self.http.our_state is h11.MUST_CLOSE:
            self.transport.close()
        else:
            self.http.start_next_cycle()
            self.next_request()

    def write(self, answer: Answer) -> None:
        headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        events = h11.Response(status_code=answer.status, headers=headers), h11.Data(answer.body), h11.EndOfMessage()
        self.transport.write(b"".join(self.http.send(event) or b"" for event in events))


async def serve(handler: Handler, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handler), host, port, backlog=512)
    await server.serve_forever()
