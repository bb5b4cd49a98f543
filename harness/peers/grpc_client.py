"""A gRPC client that the harness plays: a connection with many calls, that says what it wants, and reads when it wants.

What comes is judged by h2 and by the readers of `harness.wire.grpc`. What no client could take ends up in `fault`, and
every wait tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from harness.solution.program import Solution
from harness.verdicts import Broken
from harness.wire.grpc import Messages, Metadata, Status, framed, status_of, status_of_reset, values
from harness.wire.http2 import WINDOW, Http2
from harness.wire.protobuf import Message, Values

NO_METADATA: Metadata = []


class Method:
    """A method: where it is, what it takes and what it gives."""

    def __init__(self, service: str, name: str, request: Message, reply: Message) -> None:
        self.service, self.name, self.request, self.reply = service, name, request, reply

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


class Channel:
    """One client with one connection."""

    def __init__(self, solution: Solution, name: str = "client", window: int = WINDOW) -> None:
        """`window` is how many bytes of a call's replies may come before they are read."""
        self.solution, self.name = solution, name
        self.calls: dict[int, Call] = {}
        self.fault = ""
        self.connection = solution.connect(name)
        self.http2 = Http2(self.connection, True, self._event, window)

    def call(
        self,
        method: Method,
        *requests: Values,
        metadata: Metadata = NO_METADATA,
        timeout: str = "",
        end: bool = True,
        slow: bool = False,
    ) -> Call:
        """Begin a call with these requests, and `end` the client's side of it. A `slow` one is not read from."""
        call = Call(self, method, metadata, timeout)
        if slow:
            call.stop_reading()
        for request in requests:
            call.send(end=end and request is requests[-1], **request)
        if end and not requests:
            call.half_close()
        return call

    def hang_up(self) -> None:
        self.connection.hang_up()

    @property
    def problem(self) -> str:
        return self.fault or self.http2.fault

    @property
    def over(self) -> bool:
        return bool(self.problem) or self.http2.ended

    def _event(self, event: Event) -> None:
        call = self.calls.get(getattr(event, "stream_id", None) or 0)
        if call:
            try:
                call.happened(event)
            except ValueError as error:
                self.fault = self.fault or f"what came to {call.name} is no gRPC: {error}"


class Call:
    """One call. What came stands in `replies`, `headers`, `trailers` and `status`."""

    def __init__(self, channel: Channel, method: Method, metadata: Metadata, timeout: str) -> None:
        self.channel, self.method, self.solution = channel, method, channel.solution
        self.headers: Metadata = []
        self.trailers: Metadata = []
        self.replies: list[Values] = []
        self.status: Status | None = None
        self.taken = 0  # replies that were waited for
        self._messages = Messages()
        host, port = self.solution.address
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method.path),
            (":authority", f"{host}:{port}"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-harness/1"),
        ]
        fields += [("grpc-timeout", timeout)] if timeout else []
        self.stream = channel.http2.open([*fields, *metadata])
        channel.calls[self.stream] = self
        self.name = channel.name
        told = [f"{key}={value}" for key, value in [*([("timeout", timeout)] if timeout else []), *metadata]]
        self._told_out(" ".join([f"begins {method.name}", *told]))

    @property
    def tag(self) -> str:
        """Calls are numbered as their streams are: 1, 3, 5 are the first three."""
        return f"#{self.stream // 2 + 1}"

    # -- saying -------------------------------------------------------------------------------------------------

    def send(self, end: bool = False, **fields: Any) -> None:
        """Send a request message, and `end` the client's side behind it."""
        self.send_bytes(self.method.request.encode(**fields), end)

    def send_bytes(self, message: bytes, end: bool = False) -> None:
        data = framed(message)
        self._told_out(f"{self.method.name} {self.method.request.told(message)}", data)
        self.channel.http2.data(self.stream, data, end)

    def send_many(self, message: bytes, number: int) -> None:
        """Send the same message so many times, as far as the other side takes it."""
        self._told_out(f"{self.method.name} {self.method.request.told(message)}, {number} times")
        self.channel.http2.data(self.stream, framed(message) * number)

    def half_close(self) -> None:
        self._told_out("that is all (END_STREAM)")
        self.channel.http2.data(self.stream, b"", True)

    def cancel(self) -> None:
        self._told_out("cancels (RST_STREAM)")
        self.channel.http2.reset(self.stream)

    def stop_reading(self) -> None:
        self.solution.record.note(self.name, f"{self.tag} reads no more")
        self.channel.http2.stop_reading(self.stream)

    def read_again(self) -> None:
        self.solution.record.note(self.name, f"{self.tag} reads again")
        self.channel.http2.read_again(self.stream)

    # -- waiting ------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        return self.status is not None or self.channel.over

    def result(self, owed: str = "a status") -> Status:
        """Wait for the end of the call. Raises Broken when the connection broke off without one."""
        self.solution.until(lambda: self.over, f"{owed} for {self._which}", self.name)
        self._check(owed)
        assert self.status is not None
        return self.status

    def next(self, owed: str = "a reply") -> Values:
        """Wait for the reply after those that were waited for. Raises Broken."""
        number = self.taken + 1
        self.solution.until(lambda: len(self.replies) >= number or self.over, f"{owed} from {self._which}", self.name)
        if len(self.replies) < number:
            self._check(owed)
            raise Broken(f"{self.name} is owed {owed} from {self._which}, and it ended with {self.status}")
        self.taken = number
        return self.replies[number - 1]

    def _check(self, owed: str) -> None:
        if self.channel.problem:
            raise Broken(self.channel.problem)
        if self.status is None:
            raise Broken(f"{self.name} is owed {owed} for {self._which}; the connection was closed instead")

    def metadata(self, name: str) -> list[str]:
        """What the server said under that name, before the first reply or behind the last."""
        return values([*self.headers, *self.trailers], name)

    @property
    def _which(self) -> str:
        return f"{self.tag} {self.method.name}"

    # -- reading ------------------------------------------------------------------------------------------------

    def happened(self, event: Event) -> None:
        """Raises ValueError for what no client of gRPC can take."""
        match event:
            case ResponseReceived():
                self._began(_pairs(event.headers))
            case DataReceived():
                for message in self._messages.feed(event.data or b""):
                    self._replied(message)
            case TrailersReceived():
                self.trailers = _pairs(event.headers)
            case StreamReset() if self.status is None:
                self._ended(status_of_reset(int(event.error_code or 0)))
            case StreamEnded() if self.status is None:
                if not self._messages.at_boundary:
                    raise ValueError("the call ended in the middle of a message")
                self._ended(status_of(self.trailers or self.headers))

    def _began(self, headers: Metadata) -> None:
        fields = dict(headers)
        self.headers = [pair for pair in headers if not pair[0].startswith(":")]
        if fields.get(":status") != "200":
            raise ValueError(f"the status of HTTP is 200 in every response, and came {fields.get(':status')}")
        if not fields.get("content-type", "").startswith("application/grpc"):
            raise ValueError(f"the content-type is application/grpc, and came {fields.get('content-type')}")

    def _replied(self, message: bytes) -> None:
        reply = self.method.reply
        self._told_in(f"{reply.name} {reply.told(message)}".rstrip(), message)
        self.replies.append(reply.decode(message))

    def _ended(self, status: Status) -> None:
        self.status = status
        self._told_in(str(status))

    def _told_out(self, label: str, data: bytes = b"") -> None:
        record = self.solution.record
        record.add("message", self.name, record.solution, f"{self.tag} {label}", data, self.name)

    def _told_in(self, label: str, data: bytes = b"") -> None:
        record = self.solution.record
        record.add("message", record.solution, self.name, f"{self.tag} {label}", data, self.name)


def _pairs(headers: Sequence[Any] | None) -> Metadata:
    return [(str(name), str(value)) for name, value in headers or ()]
