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
class Answer:
    """A response. Content-Length is added when it is written; the other headers are up to you."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Stream:
    """A response without a length: its head is on the way, its body goes out piece by piece."""

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client reads too slowly to take more."""
        self.connection.write(h11.Data(data))
        await self.connection.writable.wait()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: list[tuple[str, str]]  # names in lower case, in the order of arrival
    body: bytes
    connection: "Connection" = field(repr=False, compare=False)

    def lines(self, name: str) -> list[str]:
        """The values of all header lines of that name."""
        return [value for key, value in self.headers if key == name]

    def begin(self, status: int, headers: dict[str, str]) -> Stream:
        """Send the head now and stream the body. The response ends when the handler returns; it returns None."""
        self.connection.write(h11.Response(status_code=status, headers=list(headers.items())))
        return Stream(self.connection)


Handler = Callable[[Request], Awaitable[Answer | None]]


def problem(status: int, detail: str, **members: Any) -> Answer:
    """A refusal, as RFC 9457 wants it."""
    document = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/problem+json"})


class Connection(asyncio.Protocol):
    """One client: a request, its answer, the next request. h11 makes events of the bytes."""

    def __init__(self, handler: Handler, open_connections: "set[Connection]") -> None:
        self.handler, self.open_connections = handler, open_connections
        self.http = h11.Connection(h11.SERVER)
        self.writable = asyncio.Event()
        self.writable.set()
        self.task: asyncio.Task[None] | None = None
        self.head: h11.Request | None = None
        self.body = bytearray()
        self.is_last = False  # the answer under way is the last one here
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.open_connections.add(self)

    def data_received(self, data: bytes) -> None:
        self.http.receive_data(data)
        if self.task is None:
            self.next_request()

    def eof_received(self) -> bool:
        self.http.receive_data(b"")
        if self.task is None:
            self.next_request()
        return True  # a client that has said everything may still wait for its answer

    def connection_lost(self, _: Exception | None) -> None:
        self.open_connections.discard(self)
        self.lost.set_result(None)
        if self.task:
            self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def finish(self) -> None:
        """Close as soon as the answer under way is complete."""
        self.is_last = True
        if self.task is None:
            self.transport.close()

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
            self.answer(problem(400, str(error)))
            self.transport.close()

    async def respond(self) -> None:
        headers = [(key.decode(), value.decode("latin-1")) for key, value in self.head.headers]
        path = self.head.target.decode("latin-1")
        request = Request(self.head.method.decode(), path, headers, bytes(self.body), self)
        try:
            answer = await self.handler(request)
        except NotImplementedError as error:
            answer = problem(501, f"not implemented yet: {error}")
        except Exception:  # a bug costs its own request only, and its traceback is shown
            traceback.print_exc()
            answer = problem(500, "the handler failed")
        self.task = None
        if self.http.our_state is not h11.SEND_BODY:
            self.answer(answer)
        elif answer is None:
            self.write(h11.EndOfMessage())
        else:
            return self.transport.abort()  # it failed in the middle of a stream: the client must not take it for whole
        if self.is_last or self.http.our_state is h11.MUST_CLOSE:
            self.transport.close()
        else:
            self.http.start_next_cycle()
            self.next_request()

    def answer(self, answer: Answer) -> None:
        headers = list(answer.headers.items())
        if answer.status != 204:
            headers.append(("Content-Length", str(len(answer.body))))
        if self.is_last:
            headers.append(("Connection", "close"))
        body = [] if self.head and self.head.method == b"HEAD" else [h11.Data(answer.body)]
        self.write(h11.Response(status_code=answer.status, headers=headers), *body, h11.EndOfMessage())

    def write(self, *events: h11.Event) -> None:
        self.transport.write(b"".join(self.http.send(event) or b"" for event in events))


async def serve(handler: Handler, host: str, port: int, stopping: asyncio.Event | None = None) -> None:
    """Serve until `stopping` is set; then accept nobody, bring to its end what is under way, and return."""
    open_connections: set[Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(handler, open_connections), host, port, backlog=512)
    await (stopping or asyncio.Event()).wait()
    server.close()
    for connection in list(open_connections):
        connection.finish()
    await asyncio.gather(*(connection.lost for connection in open_connections))
