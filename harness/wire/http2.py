"""One HTTP/2 connection as the harness speaks it, either end, on a recorded connection; judged by h2.

Frames are cut out here and handed to h2 one by one, but for two that h2 would decide on: after a GOAWAY it would read
nothing more, though the streams that are open go on (RFC 9113, 6.8), and it answers every PING, also where a peer is
to look dead. Flow control is the caller's to have: a stream whose window is not renewed is a reader that does not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded, StreamReset
from h2.exceptions import ProtocolError, StreamClosedError, TooManyStreamsError
from h2.settings import SettingCodes, Settings

from harness.verdicts import Broken
from harness.wire.tcp import Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = 9  # bytes before the payload of a frame
PING, GOAWAY = 6, 7
ACK = 1
LARGEST_FRAME = 16_384  # bytes of payload; nobody here allows more
WINDOW = 65_535  # bytes, as it is where nobody says otherwise

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class GoAway:
    """The other side takes no streams beyond `last`."""

    last: int
    code: int
    why: bytes


@dataclass
class Outgoing:
    """What a stream has to send and may not yet."""

    data: memoryview
    end: bool


class Http2:
    """One connection. Sending does not wait; `on_event` is told the events of h2 about streams, in order."""

    def __init__(
        self, connection: Connection, client: bool, on_event: Callable[[Event], None], window: int = WINDOW
    ) -> None:
        """`window` is how many bytes the other side may send on a stream before they are read."""
        self.connection, self.on_event = connection, on_event
        self._h2 = H2Connection(H2Configuration(client_side=client, header_encoding="latin-1"))
        self._h2.local_settings = Settings(
            client, {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: window} if client else {}
        )
        self._buffer = bytearray()
        self._preface_due = not client
        self._outgoing: dict[int, deque[Outgoing]] = {}
        self._closed: set[int] = set()  # streams on which nothing is sent any more
        self._slow: dict[int, int] = {}  # streams that are not read, and the bytes that wait there
        self.answers_pings = True
        self.pings = 0  # that the other side has sent
        self.going: GoAway | None = None
        self.fault = ""
        self._h2.initiate_connection()
        self._flush()
        connection.on_bytes = self._feed

    @property
    def ended(self) -> bool:
        return self.connection.ended or self.connection.closed

    # -- out ----------------------------------------------------------------------------------------------------

    def open(self, headers: Headers, end: bool = False) -> int:
        """Open a stream with these headers; its number. Raises Broken where the other side allows no more streams."""
        stream = self._h2.get_next_available_stream_id()
        if self.ended or self.fault:
            self._closed.add(stream)
            return stream
        try:
            self._h2.send_headers(stream, headers, end_stream=end)
        except TooManyStreamsError:
            most = self._h2.remote_settings.max_concurrent_streams
            raise Broken(f"another call is owed a stream, and the server allows no more than {most} at once") from None
        self._flush()
        return stream

    def headers(self, stream: int, headers: Headers, end: bool = False) -> None:
        if stream not in self._closed and not self.fault:
            self._h2.send_headers(stream, headers, end_stream=end)
            self._close_if(stream, end)
            self._flush()

    def data(self, stream: int, data: bytes, end: bool = False) -> None:
        """Send as much as the window allows, and the rest when it opens."""
        if stream not in self._closed:
            self._outgoing.setdefault(stream, deque()).append(Outgoing(memoryview(data), end))
            self._go_on()

    def reset(self, stream: int, code: int = ErrorCodes.CANCEL) -> None:
        """RST_STREAM, unless the stream has ended on both sides."""
        if not self.fault and not self.ended:
            with suppress(StreamClosedError):
                self._h2.reset_stream(stream, code)
            self._forget(stream)
            self._flush()

    def waiting(self, stream: int) -> int:
        """Bytes that a stream has to send, and the other side does not take."""
        return sum(len(piece.data) for piece in self._outgoing.get(stream, ()))

    def stop_reading(self, stream: int) -> None:
        """Renew the window of the connection, and that of this stream no more."""
        self._slow.setdefault(stream, 0)

    def read_again(self, stream: int) -> None:
        if size := self._slow.pop(stream, 0):
            self._h2.increment_flow_control_window(size, stream)
            self._flush()

    def _close_if(self, stream: int, end: bool) -> None:
        if end:
            self._closed.add(stream)

    def _forget(self, stream: int) -> None:
        self._closed.add(stream)
        self._outgoing.pop(stream, None)
        self._slow.pop(stream, None)

    def _go_on(self) -> None:
        for stream in list(self._outgoing):
            self._send_from(stream, self._outgoing[stream])
            if not self._outgoing[stream]:
                del self._outgoing[stream]
        self._flush()

    def _send_from(self, stream: int, queue: deque[Outgoing]) -> None:
        while queue and not self.fault and not self.ended:
            piece = queue[0]
            most = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if piece.data and most <= 0:
                return
            part, piece.data = piece.data[:most], piece.data[most:]
            end = piece.end and not piece.data
            self._h2.send_data(stream, bytes(part), end_stream=end)
            self._close_if(stream, end)
            if not piece.data:
                queue.popleft()

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self.connection.send(data)

    # -- in -----------------------------------------------------------------------------------------------------

    def _feed(self, connection: Connection) -> None:
        self._buffer += connection.inbox
        connection.inbox.clear()
        try:
            while not self.fault and (frame := self._next_frame()):
                self._frame(frame)
            if not self.fault and not self.ended:
                self._go_on()
        except ProtocolError as error:
            self.fault = f"what came is no HTTP/2: {error}"
            self._flush()
        if connection.eof:
            connection.close()  # as clients and servers do: the other side has closed, and may wait for it

    def _next_frame(self) -> bytes:
        """The bytes of the next frame, or those that a client begins with; nothing if they are not complete."""
        if self._preface_due:
            size = len(PREFACE)
            self._preface_due = len(self._buffer) < size
        elif len(self._buffer) < HEAD:
            return b""
        else:
            size = HEAD + int.from_bytes(self._buffer[:3], "big")
            if size > HEAD + LARGEST_FRAME:
                self.fault = (
                    f"what came is no HTTP/2: it begins with {bytes(self._buffer[:HEAD])!r}, no head of a frame"
                )
                return b""
        if len(self._buffer) < size:
            return b""
        frame = bytes(self._buffer[:size])
        del self._buffer[:size]
        return frame

    def _frame(self, frame: bytes) -> None:
        kind, flags, payload = frame[3], frame[4], frame[HEAD:]
        if kind == GOAWAY and len(payload) >= 8:
            last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            self.going = GoAway(last, int.from_bytes(payload[4:8], "big"), payload[8:])
            self._told(f"GOAWAY {self.going.why.decode(errors='replace')}".rstrip())
            return
        if kind == PING and not flags & ACK:
            self.pings += 1
            if not self.answers_pings:
                self._told("PING")
                return
        for event in self._h2.receive_data(frame):
            self._event(event)

    def _event(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id=int(stream), flow_controlled_length=int(size)) if size:
                if stream in self._slow:
                    self._slow[stream] += size
                    self._h2.increment_flow_control_window(size)
                else:
                    self._h2.acknowledge_received_data(size, stream)
            case StreamReset(stream_id=int(stream)):
                self._forget(stream)
            case StreamEnded(stream_id=int(stream)):
                self._slow.pop(stream, None)
        self.on_event(event)

    def _told(self, label: str) -> None:
        name, peer = self.connection.name, self.connection.peer
        self.connection.network.record.add("message", peer, name, label, b"", name)
