"""One service, several processes, a listening socket for each: a supervisor, and workers that it forks.

The supervisor opens all listeners at the start and keeps them open: a listener outlives its workers, and so does the
queue of connections that nobody has accepted yet. It accepts from none of them. Each worker closes all but its own.
"""

import asyncio
import mmap
import os
import re
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
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

BEATS = 4  # signs of life in the time after which a worker counts as stuck
DRAIN = signal.SIGUSR1  # to a worker: leave, but serve the queue before
SIGNALS = {signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT}


def open_listener() -> socket.socket:
    """One of the sockets that share the port; the kernel spreads connections over them."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(ADDRESS)
    listener.listen(BACKLOG)
    listener.setblocking(False)  # two workers may accept from it while one takes over, and one of them is too late
    return listener


def read_release() -> str:
    """Raises ValueError, or OSError, when there is none."""
    text = RELEASE_FILE.read_text().strip()
    if not re.fullmatch("[A-Za-z0-9.-]{1,64}", text):
        raise ValueError(f"{RELEASE_FILE} holds no release")
    return text


# -- a worker -------------------------------------------------------------------------------------------------------


class Worker:
    """Serves what comes to one listener, until it is told to leave, or the service ends."""

    def __init__(self, number: int, listener: socket.socket, release: str, pulse: mmap.mmap) -> None:
        self.told = {"worker": number, "pid": os.getpid(), "release": release}
        self.listener, self.pulse = listener, pulse
        self.tasks: set[asyncio.Task[None]] = set()  # one for each open connection
        self.draining = False
        self.over = asyncio.Event()

    async def run(self, lifeline: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.add_signal_handler(signal.SIGTERM, self.leave)
        self.loop.add_signal_handler(DRAIN, self.drain)
        self.loop.add_reader(lifeline, self.orphaned)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.beat()
        self.accept()
        await self.over.wait()

    def beat(self) -> None:
        """A sign of life: whoever is stuck, wherever, gives none."""
        self.pulse[:] = struct.pack("d", time.monotonic())
        self.loop.call_later(STUCK / BEATS, self.beat)

    def accept(self) -> None:
        """Take what waits in the queue while there is room. What there is no room for goes on waiting in the kernel."""
        self.loop.remove_reader(self.listener)
        while len(self.tasks) < WORKER_CONNECTIONS:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return self.queue_is_empty()
            except ConnectionError:
                continue  # it was reset while it waited
            task = self.loop.create_task(self.serve(connection))
            self.tasks.add(task)
            task.add_done_callback(self.served)

    def queue_is_empty(self) -> None:
        if self.draining:
            self.leave()
        else:
            self.loop.add_reader(self.listener, self.accept)

    async def serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        try:
            async with asyncio.timeout(REQUEST):
                head = await web.read(reader)
            await web.respond(writer, head, self.told, UPSTREAM)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # nobody is left to be answered; TimeoutError is an OSError
        finally:
            writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def served(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if self.accepting:
            self.accept()
        elif not self.tasks:
            self.over.set()

    @property
    def accepting(self) -> bool:
        return self.listener.fileno() >= 0

    def leave(self) -> None:
        """Finish what was accepted, and end. Who waits in the queue is left to whoever comes next."""
        if self.accepting:
            self.loop.remove_reader(self.listener)
            self.listener.close()
        if not self.tasks:
            self.over.set()

    def drain(self) -> None:
        """The same, at the end of the service: nobody comes next, so who waits in the queue is served before."""
        self.draining = True
        if self.accepting:
            self.accept()

    def orphaned(self) -> None:
        """The supervisor is dead: nobody would replace, reload or stop this worker any more."""
        os._exit(1)


# -- the supervisor -------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A worker, as the supervisor knows it."""

    number: int
    pulse: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 8))  # shared: when it last gave a sign of life, or 0
    retired: bool = False  # another has its place, or none is wanted any more
    deadline: float = float("inf")

    def overdue(self, now: float) -> bool:
        (seen,) = struct.unpack("d", self.pulse[:])
        return now > self.deadline or 0 < seen < now - STUCK


class Supervisor:
    def __init__(self) -> None:
        self.release = read_release()
        self.lifeline, self.held = os.pipe()  # nothing is ever written: when its last writer dies, readers notice
        self.listeners = [open_listener() for _ in range(WORKERS)]
        self.children: dict[int, Child] = {}
        self.stopping = False

    def run(self) -> None:
        for number in range(WORKERS):
            self.spawn(number)
        while self.children or not self.stopping:
            told = signal.sigtimedwait(SIGNALS, self.patience())
            if told and told.si_signo == signal.SIGHUP:
                self.reload()
            elif told and told.si_signo != signal.SIGCHLD:
                self.stop()
            self.reap()
            self.kill_overdue()

    def spawn(self, number: int) -> None:
        child = Child(number)
        pid = os.fork()
        if pid:
            self.children[pid] = child
        else:
            self.become_worker(number, child.pulse)

    def become_worker(self, number: int, pulse: mmap.mmap) -> None:
        status = 1
        try:
            os.close(self.held)
            for other in self.listeners:
                if other is not self.listeners[number]:
                    other.close()
            asyncio.run(self.worker(number, pulse))
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)  # what the supervisor would do at its end is not to be done here

    async def worker(self, number: int, pulse: mmap.mmap) -> None:
        await Worker(number, self.listeners[number], self.release, pulse).run(self.lifeline)

    def reap(self) -> None:
        """Bury the dead, all of them: several may have died for one SIGCHLD."""
        while self.children:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self.children.pop(pid)
            if not child.retired:
                self.spawn(child.number)

    def kill_overdue(self) -> None:
        now = time.monotonic()
        for pid, child in self.children.items():
            if child.overdue(now):
                os.kill(pid, signal.SIGKILL)  # it may be stopped, and then no other signal would reach it

    def patience(self) -> float:
        deadline = min((child.deadline for child in self.children.values()), default=float("inf"))
        return min(STUCK / BEATS, max(deadline - time.monotonic(), 0) + 0.001)

    def reload(self) -> None:
        """Replace all workers by those of the release that is in the file now."""
        if self.stopping:
            return
        try:
            self.release = read_release()
        except (OSError, ValueError) as error:
            print(f"release {self.release} stays: {error}", file=sys.stderr, flush=True)
            return
        old = [pid for pid, child in self.children.items() if not child.retired]
        for number in range(WORKERS):
            self.spawn(number)
        self.retire(old, signal.SIGTERM)

    def stop(self) -> None:
        """Let go of the listeners: each is closed for good when its worker has emptied its queue."""
        if self.stopping:
            return
        self.stopping = True
        for listener in self.listeners:
            listener.close()
        self.retire([pid for pid, child in self.children.items() if not child.retired], DRAIN)

    def retire(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            child = self.children[pid]
            child.retired, child.deadline = True, time.monotonic() + SHUTDOWN
            os.kill(pid, number)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they wait for sigtimedwait(), whenever they come
    Supervisor().run()
