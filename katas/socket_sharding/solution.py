"""One service, several processes, a listening socket for each: a supervisor, and workers that it forks.

web.py is given: it reads one request and answers it. Who listens, who accepts, who lives and who ends is yours.
"""

import asyncio
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

import web

ADDRESS = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
WORKERS = int(os.environ.get("WORKERS", 4))
BACKLOG = int(os.environ.get("BACKLOG", 200))
WORKER_CONNECTIONS = int(os.environ.get("WORKER_CONNECTIONS", 50))
REQUEST = int(os.environ.get("REQUEST_MS", 60_000)) / 1000
STUCK = int(os.environ.get("STUCK_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 60_000)) / 1000
UPSTREAM = os.environ.get("UPSTREAM_URL", "")
RELEASE_FILE = Path(os.environ.get("RELEASE_FILE", "release"))

SIGNALS = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT}


def open_listener() -> socket.socket:
    """One of the sockets that share the port (S1). Who calls it, how often, and who may close what it opened?"""
    raise NotImplementedError("open_listener() in solution.py")


def read_release() -> str:
    """The release in RELEASE_FILE (R1); ValueError, or OSError, when there is none."""
    raise NotImplementedError("read_release() in solution.py")


# -- a worker -------------------------------------------------------------------------------------------------------


class Worker:
    """Serves what comes to one listener. `told` is what its answers tell."""

    def __init__(self, number: int, listener: socket.socket, release: str) -> None:
        self.told = {"worker": number, "pid": os.getpid(), "release": release}
        self.listener = listener
        self.tasks: set[asyncio.Task[None]] = set()  # one for each open connection
        self.over = asyncio.Event()

    async def run(self) -> None:
        """Until it is over. What signals does a worker get, and who notices that it is stuck, or an orphan?"""
        self.loop = asyncio.get_running_loop()
        self.accept()
        await self.over.wait()

    def accept(self) -> None:
        """Take what waits in the queue while there is room (S3), then have the loop call this again.

        `loop.add_reader(listener, self.accept)` does, for as long as there is room; the listener must not block.
        """
        raise NotImplementedError("Worker.accept() in solution.py")

    async def serve(self, connection: socket.socket) -> None:
        """One connection that was accepted."""
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            head = await web.read(reader)
            await web.respond(writer, head, self.told, UPSTREAM)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # nobody is left to be answered
        finally:
            writer.close()

    def leave(self) -> None:
        """Finish what was accepted, and end (W2, R2)."""
        raise NotImplementedError("Worker.leave() in solution.py")

    def drain(self) -> None:
        """The same, but nobody comes after this worker: what of those who wait in its queue (T1)?"""
        raise NotImplementedError("Worker.drain() in solution.py")


# -- the supervisor -------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A worker, as the supervisor knows it."""

    number: int


class Supervisor:
    """Opens the listeners, starts workers, and from then on waits: for signals, and for what it has to look after."""

    def __init__(self) -> None:
        self.release = read_release()
        self.listeners = [open_listener() for _ in range(WORKERS)]
        self.children: dict[int, Child] = {}

    def run(self) -> None:
        """`signal.sigtimedwait(SIGNALS, seconds)` waits for the next signal that is blocked (pthread_sigmask)."""
        for number in range(WORKERS):
            self.spawn(number)
        raise NotImplementedError("Supervisor.run() in solution.py")

    def spawn(self, number: int) -> None:
        """Fork a worker. What has it open that it must not have (S2)? A child leaves by os._exit()."""
        raise NotImplementedError("Supervisor.spawn() in solution.py")

    def reap(self) -> None:
        """Wait for those who have died, and replace whom they leave a gap behind (W1, R4)."""
        raise NotImplementedError("Supervisor.reap() in solution.py")

    def kill_overdue(self) -> None:
        """End who is stuck, or takes too long to finish (W3, R2, T2). `mmap.mmap(-1, 8)` is memory that forks share."""
        raise NotImplementedError("Supervisor.kill_overdue() in solution.py")

    def reload(self) -> None:
        """SIGHUP (R2, R3)."""
        raise NotImplementedError("Supervisor.reload() in solution.py")

    def stop(self) -> None:
        """SIGTERM (T1)."""
        raise NotImplementedError("Supervisor.stop() in solution.py")


async def unfinished() -> None:
    """What runs until `Supervisor().run()` does: one process, which answers 501."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    await (await asyncio.start_server(refuse, *ADDRESS)).serve_forever()


if __name__ == "__main__":
    asyncio.run(unfinished())  # Supervisor().run()
