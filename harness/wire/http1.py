"""HTTP/1.1 as the harness speaks it, on recorded connections: requests that don't wait, and a server that may.

Built on h11, so what a solution sends is judged by a parser that nobody here wrote. A request has a connection of
its own: it can be cut, reset or left unfinished without touching another.
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11

from harness.solution.process import Process
from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.network import Network
from harness.wire.tcp import Connection, Listener

Headers = list[tuple[str, str]]
NO_HEADERS: Headers = []
SHOWN_BODY = 200


class Response:
    """A complete response: status, headers and body as they came."""

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def header(self, name: str) -> str | None:
        """The value of the first field of that name (case does not matter), None without one."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def json(self) -> Any:
        """The body as JSON. Raises Broken when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):  # deeply nested brackets are the second
            raise Broken(f"the body of the {self.status} is no JSON: {self.body[:120]!r}") from None

    def __repr__(self) -> str:
        return f"{self.status} {self.body[:SHOWN_BODY].decode(errors='replace')}"


class Reader:
    """Reads one response off a connection: h11, told of a request only to know which response to expect."""

    def __init__(self, connection: Connection, http: h11.Connection) -> None:
        self.connection, self.http = connection, http
        self.raw = bytearray()
        self._head: h11.Response | None = None
        self._body = bytearray()

    def read(self) -> Response | None:
        """Take what has arrived; the response once it is complete. Raises h11.RemoteProtocolError when it is none."""
        data = bytes(self.connection.inbox)
        self.connection.inbox.clear()
        self.raw += data
        if data:
            self.http.receive_data(data)
        if self.connection.eof and self.raw:  # h11 has no words for an end without a byte
            self.http.receive_data(b"")
        while True:
            match self.http.next_event():
                case h11.Response() as head:
                    self._head = head
                case h11.Data() as piece:
                    self._body += piece.data
                case h11.EndOfMessage():
                    return self._whole()
                case h11.InformationalResponse():
                    continue
                case _:
                    return None

    def _whole(self) -> Response:
        assert self._head is not None
        headers = [(key.decode(), value.decode("latin-1")) for key, value in self._head.headers]
        return Response(self._head.status_code, headers, bytes(self._body))


class Request:
    """One request of a client that the harness plays. Creating it sends it; `response()` waits for the answer."""

    def __init__(
        self,
        solution: Solution,
        name: str,
        method: str,
        target: str,
        headers: Headers,
        body: bytes = b"",
        missing: int = 0,
        number: int = 0,
    ) -> None:
        """`missing` bytes at the end of the body are announced but not sent; `number` tells like requests apart."""
        self.solution, self.party = solution, name
        self.tag = f"#{number} " if number else ""
        self.name = f"{name} {self.tag}".strip()
        self.connection = solution.connect(name)
        self.connection.on_bytes = self._parse
        self._reader = Reader(self.connection, h11.Connection(h11.CLIENT))
        self._response: Response | None = None
        self._fault = ""
        self._send(method, target, headers, body, missing)

    @property
    def answered(self) -> bool:
        """A complete response has come, or none can come any more."""
        return self._response is not None or bool(self._fault) or self.connection.ended

    @property
    def complete(self) -> bool:
        """A complete response has come."""
        return self._response is not None

    def response(self) -> Response:
        """Wait for the response. Raises Broken when it will not come, or is no HTTP."""
        self.solution.until(lambda: self.answered, f"{self.tag}a response", self.party)
        if self._response is None:
            raise Broken(f"{self.name} is owed a response; {self._fault or 'the connection was closed instead'}")
        self.connection.close()
        return self._response

    def hang_up(self) -> None:
        self.connection.hang_up()

    def _send(self, method: str, target: str, headers: Headers, body: bytes, missing: int) -> None:
        host, port = self.solution.address
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{port}"]
        lines += [f"{key}: {value}" for key, value in headers]
        if body or method in {"POST", "PUT", "PATCH"}:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        if missing:
            data = data[:-missing]
        self._reader.http.send(h11.Request(method=method, target=target, headers=[("Host", host)]))
        self._reader.http.send(h11.EndOfMessage())
        label = described(method, target, headers, body)
        if missing:
            label += f" (its last {missing} bytes are not sent)" if missing > 1 else " (its last byte is not sent)"
        self._record(self.party, self._peer, label, data)
        self.connection.send(data)

    @property
    def _peer(self) -> str:
        return self.solution.record.solution

    def _record(self, source: str, target: str, label: str, data: bytes) -> None:
        self.solution.record.add("message", source, target, self.tag + label, data, self.name)

    def _parse(self, _: Connection) -> None:
        if self._response is not None:
            return
        try:
            if response := self._reader.read():
                self._complete(response)
        except h11.RemoteProtocolError as error:
            self._fault = f"what came is no HTTP response: {error}"

    def _complete(self, response: Response) -> None:
        self._response = response
        self._record(self._peer, self.party, f"{response.status} {readable(response.body)}", bytes(self._reader.raw))


class Client:
    """One client that sends its requests one after the other, on one connection as long as that stays open."""

    def __init__(self, solution: Solution, name: str) -> None:
        self.solution, self.name = solution, name
        self.connections = 0
        self._connection: Connection | None = None
        self._process: Process | None = None  # whom the connection leads to
        self._http = h11.Connection(h11.CLIENT)

    def request(self, method: str, target: str, headers: Headers = NO_HEADERS, body: bytes = b"") -> Response:
        """Send a request and wait for its response. Raises Broken when none comes, or what comes is no HTTP."""
        host, port = self.solution.address
        connection = self._open()
        fields = [("Host", f"{host}:{port}"), *headers, ("Content-Length", str(len(body)))]
        request = h11.Request(method=method, target=target, headers=fields)
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        record, solution = self.solution.record, self.solution.record.solution
        data = b"".join(self._http.send(event) or b"" for event in events)
        record.add("message", self.name, solution, described(method, target, headers, body), data, self.name)
        connection.send(data)
        reader = Reader(connection, self._http)
        response = self.solution.until(lambda: self._take(reader), "a response", self.name)
        assert response is not None
        record.add("message", solution, self.name, repr(response), response.body, self.name)
        return response

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def _open(self) -> Connection:
        if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._http.start_next_cycle()
        connection = self._connection
        # The end of a connection to a process that was killed may still be on its way.
        if (
            connection is None
            or connection.ended
            or self._process is not self.solution.process
            or self._http.our_state is not h11.IDLE
        ):
            self.close()
            connection = self._connection = self.solution.connect(self.name)
            self._process = self.solution.process
            self._http = h11.Connection(h11.CLIENT)
            self.connections += 1
        return connection

    def _take(self, reader: Reader) -> Response | None:
        try:
            response = reader.read()
        except h11.RemoteProtocolError as error:
            raise Broken(f"{self.name} is owed a response; what came is no HTTP response: {error}") from None
        if response is None and reader.connection.ended:
            raise Broken(f"{self.name} is owed a response; the connection was closed instead")
        return response


SHOWN_HEADERS = ("idempotency-key", "if-none-match")  # told before the body, by their values alone


def described(method: str, target: str, headers: Headers, body: bytes) -> str:
    """A request on one line."""
    told = [value for key, value in headers if key.lower() in SHOWN_HEADERS]
    return " ".join(filter(None, [method, target, *told, readable(body)]))


def readable(body: bytes) -> str:
    """The beginning of a body, as text on one line."""
    return body[:SHOWN_BODY].decode(errors="replace").replace("\r\n", " ").replace("\n", " ")


class Incoming:
    """A request that the solution made of a server that the harness plays. It stays open until it is answered."""

    def __init__(self, server: Server, line: ServerConnection, head: h11.Request, body: bytes) -> None:
        self.server, self.line, self.body = server, line, body
        self.method = head.method.decode()
        self.target = head.target.decode("latin-1")
        self.headers = [(key.decode(), value.decode("latin-1")) for key, value in head.headers]
        self.open = True

    def header_values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def gone(self) -> bool:
        """The solution has given this request up."""
        return self.line.connection.ended or self.line.connection.closed

    def answer(
        self,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        extra: Headers = NO_HEADERS,
    ) -> None:
        self._write(status, body, [("Content-Type", content_type), *extra], cut=0)

    def answer_cut_off(self, status: int, body: bytes) -> None:
        """Announce the whole body, send half of it, and hang up."""
        self._write(status, body, [("Content-Type", "application/json")], cut=len(body) // 2)
        self.drop()

    def drop(self) -> None:
        """Hang up (RST) without an answer."""
        self.open = False
        self.line.connection.hang_up()

    def _write(self, status: int, body: bytes, headers: Headers, cut: int) -> None:
        self.open = False
        if self.gone:
            return
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{key}: {value}" for key, value in headers]
        if self.line.is_last:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        sent = body[: len(body) - cut]
        label = f"{status} {readable(sent)}" + (" (cut off)" if cut else "")
        server = self.server
        data = head.encode() + sent
        server.network.record.add("message", server.name, server.peer, label, data, server.name)
        self.line.connection.send(data)
        if not cut:
            self.line.answered()


class ServerConnection:
    """One connection from the solution: requests one after the other, each answered before the next is read."""

    def __init__(self, server: Server, connection: Connection) -> None:
        self.server, self.connection = server, connection
        self._http = h11.Connection(h11.SERVER)
        self._head: h11.Request | None = None
        self._body, self._raw = bytearray(), bytearray()
        connection.on_bytes = self._parse

    @property
    def is_last(self) -> bool:
        """The connection ends with the request that is read now, as its client wants it."""
        return self._http.their_state is h11.MUST_CLOSE

    def answered(self) -> None:
        """h11 follows what was answered, so that it reads the next request."""
        self._http.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        self._http.send(h11.EndOfMessage())
        if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._http.start_next_cycle()
            self._take_events()
        else:
            self.connection.half_close()

    def _parse(self, connection: Connection) -> None:
        data = bytes(connection.inbox)
        connection.inbox.clear()
        if connection.ended:
            connection.close()
            return
        self._raw += data
        try:
            self._http.receive_data(data)
            self._take_events()
        except h11.RemoteProtocolError as error:
            self.server.faults.append(f"what came is no HTTP request: {error}")
            connection.hang_up()

    def _take_events(self) -> None:
        while True:
            event = self._http.next_event()
            match event:
                case h11.Request():
                    self._head, self._body = event, bytearray()
                    if self._http.they_are_waiting_for_100_continue:
                        go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                        self.connection.send(self._http.send(go_on) or b"")
                case h11.Data():
                    self._body += event.data
                case h11.EndOfMessage():
                    self._complete()
                case _:
                    return

    def _complete(self) -> None:
        assert self._head is not None
        incoming = Incoming(self.server, self, self._head, bytes(self._body))
        end = len(self._raw) - len(self._http.trailing_data[0])
        data = bytes(self._raw[:end])
        del self._raw[:end]
        self.server.arrived(incoming, data)


class Server:
    """An HTTP server that the harness plays; `on_request` is called with each complete request."""

    def __init__(self, network: Network, name: str, peer: str, on_request: Callable[[Incoming], None]) -> None:
        self.network, self.name, self.peer = network, name, peer
        self.on_request = on_request
        self.faults: list[str] = []
        self.listener = Listener(network, name, peer, self._accept, "http")

    @property
    def url(self) -> str:
        host, port = self.listener.address
        return f"http://{host}:{port}"

    def close_connections(self) -> None:
        """Hang up on everybody."""
        for connection in list(self.network.parties(Connection)):
            if isinstance(connection, Connection) and connection.name == self.name:
                connection.hang_up()

    def arrived(self, incoming: Incoming, data: bytes) -> None:
        label = described(incoming.method, incoming.target, incoming.headers, incoming.body)
        self.network.record.add("message", self.peer, self.name, label, data, self.name)
        self.on_request(incoming)

    def _accept(self, connection: Connection) -> None:
        self.network.record.add("open", self.peer, self.name, "connects", connection=self.name)
        ServerConnection(self, connection)
