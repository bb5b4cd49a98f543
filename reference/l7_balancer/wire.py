"""Given: one connection and what h11 makes of its bytes, and the accept loop. Nothing of balancing is solved here."""

import asyncio
import signal
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h11

LINGER = 3.0  # seconds for which a connection that ends is still read


class Wire:
    """One connection, to a client (`h11.SERVER`) or to an upstream (`h11.CLIENT`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, role: Any) -> None:
        self.reader, self.writer, self.http = reader, writer, h11.Connection(role)
        self.idle = False  # set it while no request is under way: SIGTERM closes idle connections at once
        self.stopping = False  # SIGTERM came: what is under way is the last
        self._watch: asyncio.Task[bytes] | None = None  # reads while the connection lies idle

    @classmethod
    async def to(cls, host: str, port: int) -> "Wire":
        """Connect to an upstream. Raises OSError."""
        return cls(*await asyncio.open_connection(host, port), h11.CLIENT)

    async def event(self) -> Any:
        """The next event. Raises h11.RemoteProtocolError (also for an end in the middle of a message), OSError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(65_536))
        return event

    async def send(self, event: h11.Event) -> None:
        """Write, and wait while the other side reads too slowly to take more. Raises OSError."""
        self.writer.write(self.http.send(event) or b"")
        await self.writer.drain()

    @property
    def begun(self) -> bool:
        """Bytes have come that make no event yet: half a head."""
        return bool(self.http.trailing_data[0])

    def reuse(self) -> bool:
        """Whether both messages are complete, and others may follow; then all is set for them."""
        if self.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self.http.start_next_cycle()
        return True

    def rest(self) -> None:
        """Lie idle, and see whether anything comes: `wake` tells."""
        self._watch = asyncio.create_task(self.reader.read(1))

    async def wake(self) -> bool:
        """Whether nothing has come since `rest`, neither an end nor bytes that nobody asked for."""
        watch, self._watch = self._watch, None
        watch.cancel()
        await asyncio.wait({watch})
        return watch.cancelled()

    def abort(self) -> None:
        """Reset: whoever reads on the other side must not take for whole what it has got."""
        self.writer.transport.abort()

    async def finish(self) -> None:
        """Close in stages (RFC 9112 §9.6): with unread input the kernel would reset, and take the last answer along."""
        with suppress(TimeoutError, OSError):
            self.idle = True
            self.writer.write_eof()
            async with asyncio.timeout(0 if self.stopping else LINGER):
                while await self.reader.read(65_536):
                    pass


async def serve(handle: Callable[[Wire], Awaitable[None]], host: str, port: int, shutdown: float) -> None:
    """Serve until SIGTERM; then accept nobody, close what is idle, and give what is under way `shutdown` seconds.

    When a client's connection is lost its handler is cancelled: CancelledError comes out of the `await` it stands in.
    """
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    wires: dict[Wire, asyncio.Task[None]] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire, task = Wire(reader, writer, h11.SERVER), asyncio.current_task()
        wires[wire] = task
        lost = asyncio.ensure_future(writer.wait_closed())
        lost.add_done_callback(lambda future: (future.cancelled() or future.exception(), task.cancel()))
        try:
            await handle(wire)
        except OSError:
            pass  # the client has gone: nobody is left to be told
        except Exception:
            traceback.print_exc()  # a bug costs its own connection only
        finally:
            writer.close()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({lost})  # until all is sent: the end of the process would cut it off
            del wires[wire]

    server = await asyncio.start_server(accept, host, port, backlog=512)
    await stopping.wait()
    server.close()
    for wire in wires:
        wire.stopping = True
        if wire.idle:
            wire.writer.close()
    if wires:
        await asyncio.wait(list(wires.values()), timeout=shutdown)
