"""HTTP/1.1 over TLS, as a client of the harness speaks it: requests that don't wait, judged by h11.

Source: RFC 9112, 9.7 and 9.8 (TLS connections).
"""

from __future__ import annotations

import h11

from harness.verdicts import Broken
from harness.wire.http1 import NO_HEADERS, Headers, Response, described
from harness.wire.tls import Tls


class Https:
    """One TLS connection, and the requests on it, one after the other or pipelined."""

    def __init__(self, channel: Tls, host: str) -> None:
        self.channel, self.host = channel, host
        self.responses: list[Response] = []  # complete ones, in the order of arrival
        self.taken = 0
        self.fault = ""
        self._http = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._pending: list[tuple[str, str]] = []  # requests whose response h11 does not read yet
        channel.on_plaintext = self._parse

    def encode(self, method: str, target: str, body: bytes = b"", headers: Headers = NO_HEADERS) -> bytes:
        """A request as it goes into the connection; the answer to it is expected from now on."""
        fields = [] if any(key.lower() == "host" for key, _ in headers) else [("Host", self.host)]
        fields += headers
        if body or method in {"POST", "PUT", "PATCH"}:
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {target} HTTP/1.1", *(f"{key}: {value}" for key, value in fields), "", ""]
        self._pending.append((method, target))
        record = self.channel.solution.record
        label = described(method, target, headers, body)
        record.add("message", self.channel.name, record.solution, label, body, self.channel.name)
        return "\r\n".join(lines).encode("latin-1") + body

    def send(self, method: str, target: str, body: bytes = b"", headers: Headers = NO_HEADERS) -> None:
        self.channel.send(self.encode(method, target, body, headers))

    def request(self, method: str, target: str, body: bytes = b"", headers: Headers = NO_HEADERS) -> Response:
        """Send a request and wait for its response."""
        self.send(method, target, body, headers)
        return self.response()

    def response(self) -> Response:
        """Wait for the next response. Raises Broken when it will not come."""
        answer = self.response_or_end()
        if answer is None:
            raise Broken(f"{self.channel.name} is owed a response; {self.fault or self.channel.ending}")
        return answer

    def response_or_end(self) -> Response | None:
        """Wait for the next response, None if the connection ends without it."""
        channel = self.channel
        number = self.taken + 1
        channel.solution.until(
            lambda: len(self.responses) >= number or self.fault or channel.ended, "a response", channel.name
        )
        if len(self.responses) < number:
            return None
        self.taken = number
        return self.responses[number - 1]

    @property
    def truncated(self) -> bool:
        """A response has begun and is not complete."""
        return self._head is not None

    def _parse(self, channel: Tls) -> None:
        data = bytes(channel.inbox)
        channel.inbox.clear()
        try:
            if data:
                self._http.receive_data(data)
            if channel.close_notify:  # only this is an end; anything else is a truncation
                self._http.receive_data(b"")
            self._take_events()
        except h11.RemoteProtocolError as error:
            self.fault = f"what came is no HTTP response: {error}"

    def _take_events(self) -> None:
        while True:
            if self._http.our_state is h11.IDLE and self._pending:
                method, target = self._pending.pop(0)
                self._http.send(h11.Request(method=method, target=target, headers=[("Host", self.host)]))
                self._http.send(h11.EndOfMessage())
            match self._http.next_event():
                case h11.InformationalResponse():
                    continue
                case h11.Response() as head:
                    self._head, self._body = head, bytearray()
                case h11.Data() as piece:
                    self._body += piece.data
                case h11.EndOfMessage():
                    self._complete()
                case _:
                    return

    def _complete(self) -> None:
        assert self._head is not None
        headers = [(key.decode(), value.decode("latin-1")) for key, value in self._head.headers]
        response = Response(self._head.status_code, headers, bytes(self._body))
        self.responses.append(response)
        self._head = None
        record = self.channel.solution.record
        record.add("message", record.solution, self.channel.name, repr(response), response.body, self.channel.name)
        if self._http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self._http.start_next_cycle()
