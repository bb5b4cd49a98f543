"""TCP as the harness speaks it: connections that never block, hang up by reset, stop reading on purpose.

Sending does not wait: bytes go to the kernel as far as it takes them and the rest with the next turns of the
network. Reading is looking at `inbox`. Who wants to wait for something goes to `harness.waiting`.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from harness.verdicts import LimitReached
from harness.wire.network import Network
from harness.wire.tape import Kind, Transport

Address = tuple[str, int]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
CHUNK = 1 << 18
FLOOD = 64 << 20  # bytes that came and nobody could take
SMALL_BUFFER, SMALL_SEGMENT = 4096, 536  # bytes
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
DELACK_MAX, SHORT_DELAY = 46, 8_000  # TCP_DELACK_MAX_US of <linux/tcp.h>, since Linux 6.15; the least, in µs


class Connection:
    """One TCP connection between a party that the harness plays and the solution.

    `name` is the harness's party, `peer` the other one, as stories call them. `inbox` holds the bytes that
    arrived and were not taken yet; `eof` and `was_reset` say how the other side ended, if it did.
    """

    transport: Transport = "tcp"
    speaks = ""  # the protocol of the harness's server that accepted it

    def __init__(self, network: Network, sock: socket.socket, name: str, peer: str) -> None:
        sock.setblocking(False)
        self.network, self.sock, self.name, self.peer = network, sock, name, peer
        self.inbox = bytearray()
        self.eof = self.was_reset = self.refused = False
        self.reading, self.connecting, self.closed = True, False, False
        self.sent_fin = self.reset = self.opened_by_harness = False
        self._not_reading = 0  # the number of this hold in the record
        self.stays = False  # open beyond its behaviour, for a tripwire
        self.sent = self.received = 0
        self.on_bytes: Callable[[Connection], None] | None = None
        self._outbox: list[memoryview] = []
        self._fin_due = False
        self.local: Address = ("", 0)
        self.remote: Address = ("", 0)

    @classmethod
    def to(cls, network: Network, address: Address, name: str, peer: str, slow_reader: bool = False) -> Connection:
        """Open a connection. The kernel takes little on behalf of a `slow_reader`: soon its peer can't write."""
        sock = socket.socket()
        if slow_reader:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            # The other end's send buffer grows with its segments: megabytes with those of the loopback device.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        connection = cls(network, sock, name, peer)
        connection.connecting = connection.opened_by_harness = True
        connection.remote = address
        network.record.add("open", name, peer, "connects", connection=name)
        code = sock.connect_ex(address)
        network.add(connection)
        if code in (0, errno.EINPROGRESS):
            connection.local = sock.getsockname()[:2]
            network.turn(0)
        else:
            connection._fail(OSError(code, "connect"))
        return connection

    @classmethod
    def accepted(
        cls, network: Network, sock: socket.socket, remote: Address, name: str, peer: str, speaks: str = ""
    ) -> Connection:
        """A connection from `remote`, as accept() tells: who was reset meanwhile has no peer any more."""
        connection = cls(network, sock, name, peer)
        connection.speaks, connection.remote = speaks, remote
        connection._established()
        network.add(connection)
        return connection

    @property
    def ended(self) -> bool:
        """The other side closed or reset, and everything it sent before was received."""
        return self.eof or self.was_reset or self.refused

    @property
    def flushed(self) -> bool:
        """Everything that was sent has left for the kernel."""
        return not self._outbox and not self._fin_due and not self.connecting

    def send(self, data: bytes) -> None:
        """Send without waiting. Bytes for a peer that is gone are dropped, as the kernel would drop them."""
        if self.closed or self.was_reset or self.refused:
            return
        self._outbox.append(memoryview(data))
        if not self.connecting:
            self._flush()
        self._refresh()

    def half_close(self) -> None:
        """FIN after everything that was sent: nothing more will come from here, answers are still read."""
        self.network.record.add("fin", self.name, self.peer, "half-closes (FIN)", connection=self.name)
        self._fin_due = True
        self._flush()
        self._refresh()

    def hang_up(self) -> None:
        """Reset (RST): the other side learns at once that nobody is left, also a server that only writes."""
        if self.closed:
            return
        self.network.record.add("reset", self.name, self.peer, "hangs up (RST)", connection=self.name)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.reset = True
        self.close()

    def stop_reading(self) -> None:
        self._not_reading = self.network.record.hold(self.name, "stops reading")
        self.reading = False
        if QUICKACK is not None:
            # What nobody reads is acknowledged late, 40 ms where that can't be set, and a writer may wait for it.
            with suppress(OSError):
                self.sock.setsockopt(socket.IPPROTO_TCP, DELACK_MAX, SHORT_DELAY)
        self._refresh()

    def read_again(self) -> None:
        self.network.record.release(self.name, "reads again", self._not_reading)
        self.reading = True
        self._refresh()

    def acknowledge(self) -> None:
        """Have the kernel acknowledge what has arrived now, and not a while later."""
        if QUICKACK is not None:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self in self.network:
            self.network.remove(self)
        if self.local[1] and not self.was_reset and not self.refused and (self.reset or not self.sent_fin):
            self._tape("reset" if self.reset else "fin")
        self.sent_fin = not self.reset
        self.sock.close()
        if self.local[1] and not self.ended:
            self.network.departed.append(self)

    def fileno(self) -> int:
        return self.sock.fileno()

    def interest(self) -> int:
        if self.closed or self.was_reset or self.refused:
            return 0
        if self.connecting:
            return WRITE
        read = READ if self.reading and not self.eof else 0
        return read | (WRITE if self._outbox or self._fin_due else 0)

    def on_ready(self, events: int) -> bool:
        moved = False
        if events & WRITE:
            if self.connecting:
                self._connected()
            self._flush()
            moved = True
        if events & READ and not self.closed:
            moved |= self._receive()
        self._refresh()
        return moved

    def _connected(self) -> None:
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, "connect"))
        else:
            self._established()

    def _established(self) -> None:
        self.connecting = False
        self.local = self.sock.getsockname()[:2]
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tape("open")

    def _fail(self, error: OSError) -> None:
        self.connecting = False
        self._outbox.clear()
        self._fin_due = False
        if error.errno == errno.ECONNREFUSED:
            self.refused = True
            label = "refuses the connection"
        else:
            self.was_reset = True
            label = "resets the connection (RST)"
        self.network.record.add("reset", self.peer, self.name, label, connection=self.name)
        self._tape("refused" if self.refused else "was_reset")
        self._tell()

    def _flush(self) -> None:
        if self.connecting or self.closed:
            return
        try:
            while self._outbox:
                taken = self.sock.send(self._outbox[0])
                self.sent += taken
                self._tape("sent", self._outbox[0][:taken])
                self._outbox[0] = self._outbox[0][taken:]
                if not self._outbox[0]:
                    del self._outbox[0]
            if self._fin_due:
                self.sock.shutdown(socket.SHUT_WR)
                self._fin_due, self.sent_fin = False, True
                self._tape("fin")
        except BlockingIOError:
            pass
        except OSError as error:  # EPIPE, ECONNRESET: told as an ending once it is read
            self._outbox.clear()
            self._fin_due = False
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
            if not self.reading or self.eof:  # nothing is read any more: it would never be told
                self._fail(error)

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(error)
            return True
        self.acknowledge()
        if data:
            self.received += len(data)
            self.inbox += data
            self._tape("received", data)
            if len(self.inbox) > FLOOD:
                raise LimitReached(f"output: the solution sent {FLOOD >> 20} MB that no answer needs")
        else:
            self.eof = True
            self._tape("eof")
            self.network.record.add("fin", self.peer, self.name, "closes (EOF)", connection=self.name)
        self._tell()
        return True

    def _tape(self, kind: Kind, data: bytes | memoryview = b"") -> None:
        if self.network.tape:
            self.network.tape.add(self, kind, data)

    def _tell(self) -> None:
        if self.on_bytes:
            self.on_bytes(self)

    def _refresh(self) -> None:
        if self in self.network:
            self.network.refresh(self)


def answers(address: Address) -> bool:
    """Whether anybody accepts connections there; for systems that don't show who listens."""
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


class Listener:
    """A listening socket of the harness, on a free port of the loopback address."""

    def __init__(
        self, network: Network, name: str, peer: str, on_accept: Callable[[Connection], None], speaks: str = ""
    ) -> None:
        self.network, self.name, self.peer, self.on_accept, self.speaks = network, name, peer, on_accept, speaks
        self.address: Address = ("127.0.0.1", 0)
        self.sock: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Listen, on the same port as before if it was shut."""
        if self.sock:
            return
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(self.address)
        self.sock.listen(1024)
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()[:2]
        self.network.ports.add(self.address[1])
        self.network.add(self)

    def fileno(self) -> int:
        return self.sock.fileno() if self.sock else -1

    def interest(self) -> int:
        return READ

    def on_ready(self, events: int) -> bool:
        moved = False
        while self.sock:
            try:
                sock, remote = self.sock.accept()
            except BlockingIOError:
                break
            moved = True
            self.on_accept(Connection.accepted(self.network, sock, remote, self.name, self.peer, self.speaks))
        return moved

    def close(self) -> None:
        """Listen no more: connections are refused from now on."""
        if self.sock:
            self.network.remove(self)
            self.sock.close()
            self.sock = None
