"""Given: the accept loop, and the bytes of one connection. Nothing of HTTP is solved here."""

import asyncio
import signal
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress


class TooLong(Exception):
    """A line goes on beyond what is allowed."""


class Wire:
    """One connection. Bytes that came and were not taken yet stand in `buffer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.buffer = bytearray()
        self.idle = False  # set it while no request is under way: SIGTERM closes idle connections at once
        self.stopping = False  # SIGTERM came: what is under way is the last

    async def more(self) -> None:
        """Wait for at least one more byte. Raises EOFError when the client sends no more, also after a half-close."""
        data = await self.reader.read(65_536)
        if not data:
            raise EOFError
        self.buffer += data

    def take(self, number: int) -> bytes:
        """The first `number` bytes of the buffer."""
        data = bytes(self.buffer[:number])
        del self.buffer[:number]
        return data

    async def line(self, most: int) -> bytes:
        """Everything up to the next LF, and the LF itself. Raises TooLong as soon as that is more than `most` bytes."""
        searched = 0
        while (end := self.buffer.find(b"\n", searched, most)) < 0:
            searched = len(self.buffer)
            if searched >= most:
                raise TooLong
            await self.more()
        return self.take(end + 1)

    async def some(self, most: int) -> bytes:
        """At least one byte, at most `most`."""
        if not self.buffer:
            await self.more()
        return self.take(most)

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client reads too slowly to take more."""
        self.writer.write(data)
        await self.writer.drain()


async def serve(handle: Callable[[Wire], Awaitable[None]], host: str, port: int, shutdown: float) -> None:
    """Serve until SIGTERM; then accept nobody, and give what is under way `shutdown` seconds."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    wires: dict[Wire, asyncio.Task[None] | None] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        wires[wire] = asyncio.current_task()
        try:
            await handle(wire)
        except (EOFError, OSError):
            pass  # the client has gone: nobody is left to be told
        except Exception:
            traceback.print_exc()  # a bug costs its own connection only
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()  # until all is sent: the end of the process would cut it off
            del wires[wire]

    server = await asyncio.start_server(accept, host, port, backlog=512)
    await stopping.wait()
    server.close()
    for wire in wires:
        wire.stopping = True
        if wire.idle:
            wire.writer.close()
    if wires:
        await asyncio.wait([task for task in wires.values() if task], timeout=shutdown)
