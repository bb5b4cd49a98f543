"""The supervisor: starts workers as programs of their own, and hands each its listener and one end of a socket pair.

Over that pair a worker gives signs of life, and is told what to do; its end says that the other side is dead. So
there is no need for SIGCHLD, and none for signals to workers but SIGKILL.
"""

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from time import monotonic

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])
WORKERS, BACKLOG = int(os.environ["WORKERS"]), int(os.environ["BACKLOG"])
STUCK = int(os.environ["STUCK_MS"]) / 1000
SHUTDOWN = int(os.environ["SHUTDOWN_MS"]) / 1000
LEAVE, DRAIN = b"L", b"D"


class Worker:
    def __init__(self, number: int, listener: socket.socket, release: str) -> None:
        self.number = number
        self.control, theirs = socket.socketpair()
        self.control.setblocking(False)
        with theirs:
            words = [sys.executable, "worker.py", str(number), str(listener.fileno()), str(theirs.fileno()), release]
            self.process = subprocess.Popen(words, pass_fds=(listener.fileno(), theirs.fileno()))
        self.seen: float | None = None  # when it last gave a sign of life
        self.dismissed: float | None = None

    def due(self) -> float:
        """When it is to be killed."""
        times = [self.seen + 2 * STUCK if self.seen else None, self.dismissed + SHUTDOWN if self.dismissed else None]
        return min((time for time in times if time), default=float("inf"))

    def dismiss(self, how: bytes) -> None:
        self.dismissed = self.dismissed or monotonic()
        with suppress(OSError):  # it is dead, or does not listen: it will be found to be so
            self.control.send(how)

    def ended(self) -> bool:
        """Take in its signs of life; True when it is dead."""
        try:
            while data := self.control.recv(4096):
                self.seen = monotonic()
            return not data
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def listen() -> socket.socket:
    sock = socket.create_server(ADDRESS, backlog=BACKLOG, reuse_port=True)
    sock.setblocking(False)
    return sock


def read_release() -> str:
    """The release in the file, "" when there is none."""
    try:
        with open(os.environ["RELEASE_FILE"]) as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return text if re.fullmatch(r"[A-Za-z0-9.-]{1,64}", text) else ""


class Supervisor:
    def __init__(self, release: str) -> None:
        self.release, self.stopping = release, False
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.signals, written = os.pipe()
        for end in (self.signals, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.selector.register(self.signals, selectors.EVENT_READ)
        self.listeners = [listen() for _ in range(WORKERS)]

    def run(self) -> None:
        self.start(*range(WORKERS))
        while self.workers or not self.stopping:
            due = min((worker.due() for worker in self.workers), default=float("inf"))
            pause = None if due == float("inf") else max(due - monotonic(), 0) + 0.001
            for key, _ in self.selector.select(pause):
                if key.data is None:
                    self.obey(os.read(self.signals, 512))
                elif key.data.ended():
                    self.bury(key.data)
            for worker in self.workers:
                if worker.due() < monotonic():
                    worker.process.kill()

    def start(self, *numbers: int) -> None:
        for number in numbers:
            worker = Worker(number, self.listeners[number], self.release)
            self.workers.append(worker)
            self.selector.register(worker.control, selectors.EVENT_READ, worker)

    def bury(self, worker: Worker) -> None:
        self.selector.unregister(worker.control)
        worker.control.close()
        worker.process.wait()
        self.workers.remove(worker)
        if not worker.dismissed:
            self.start(worker.number)

    def obey(self, signals: bytes) -> None:
        if signal.SIGHUP in signals and not self.stopping and (release := read_release()):
            self.release = release
            old = self.in_service()
            self.start(*range(WORKERS))
            for worker in old:
                worker.dismiss(LEAVE)
        if not self.stopping and (signal.SIGTERM in signals or signal.SIGINT in signals):
            self.stopping = True
            for listener in self.listeners:
                listener.close()
            for worker in self.in_service():
                worker.dismiss(DRAIN)

    def in_service(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.dismissed]


if __name__ == "__main__":
    if not (release := read_release()):
        sys.exit("there is no release")
    Supervisor(release).run()
