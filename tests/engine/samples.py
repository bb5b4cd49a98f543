"""Sample servers in the harness's own network, for the tests and benchmarks of quiet."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.solution.kernel import ProcessTree
from harness.solution.port import Port
from harness.solution.quiet import Look, Watch
from harness.story.record import Record
from harness.wire.network import Network
from harness.wire.tcp import Connection
from harness.wire.udp import Endpoint

SERVERS = Path(__file__).parent / "servers"
HTTP = ("asgi.py", "node.mjs")
DATAGRAMS = ("datagrams_loop.py", "datagrams_threads.py", "datagrams_node.mjs")
ALL = ("loop.py", "loop_and_child.py", "threads.py", "prefork.py", *HTTP)
PATIENCE = 30.0  # seconds, for a machine under any load; a test that gets here has failed
PAUSE = 0.0005


class Sample:
    """A running sample server, watched."""

    def __init__(self, name: str, *arguments: str, **environment: str) -> None:
        self.name = name
        self.port = Port()
        self.network = Network(Record(time.monotonic))
        self.address = ("127.0.0.1", self.port.number)
        program = shutil.which("node") if name.endswith("mjs") else sys.executable
        assert program is not None
        told = {"HOST": self.address[0], "PORT": str(self.port.number), **environment}
        self.process = subprocess.Popen(
            [program, name, *arguments],
            cwd=SERVERS,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **told},
            start_new_session=True,
        )
        self.tree = ProcessTree(self.process.pid)
        self.watch = Watch(self.process.pid, *self.address)

    def until(self, happened: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < end, f"{self.name}: did not happen in {PATIENCE} s"
            self.network.turn(PAUSE)

    def until_listening(self) -> None:
        transport = "udp" if self.name in DATAGRAMS else "tcp"
        self.until(lambda: any(port == self.address[1] for _, port in self.tree.listening(transport)))

    def connect(self, receive_buffer: int | None = None) -> Connection:
        return Connection.to(self.network, self.address, "client", "server", receive_buffer)

    def endpoint(self) -> Endpoint:
        return Endpoint(self.network, "client", "server")

    def request(self, mode: str, number: int = 0) -> bytes:
        if self.name in HTTP:
            return f"GET /{mode}/{number} HTTP/1.1\r\nHost: sample\r\n\r\n".encode()
        return f"{mode} {number}\n".encode()

    def look(self) -> Look:
        """Drain the harness's side, then look."""
        while self.network.turn():
            pass
        departed = [end for end in self.network.departed if not self.watch.noticed(end)]
        self.network.departed = departed
        ends = [*self.network.parties(Connection), *departed]
        return self.watch.look(ends, self.network.turn, list(self.network.parties(Endpoint)))

    def looks_until(self, wanted: Callable[[Look], bool]) -> list[Look]:
        """All looks up to the first that is wanted."""
        looks: list[Look] = []

        def enough() -> bool:
            looks.append(self.look())
            return wanted(looks[-1])

        self.until(enough)
        return looks

    def settled(self) -> list[Look]:
        """All looks until the first that is quiet, whatever timers are due."""
        return self.looks_until(lambda look: look.quiet)

    def at_rest(self) -> list[Look]:
        """All looks until the first that is quiet with no timer due."""
        return self.looks_until(lambda look: look.quiet and look.next_timer is None)

    def run_a_little(self) -> None:
        """Wake it up, without anything for it to do, until it sleeps again."""
        os.kill(self.process.pid, signal.SIGSTOP)
        self.until(lambda: "is stopped" in self.tree.snapshot().busy_because)
        os.kill(self.process.pid, signal.SIGCONT)
        self.until(lambda: self.tree.snapshot().asleep)

    def close(self) -> None:
        for pid in self.tree.pids():
            _kill(pid)
        self.process.wait()
        self.network.close()
        self.watch.close()
        self.tree.close()
        self.port.release()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def answered(connection: Connection) -> bool:
    return connection.inbox.endswith(b"\n") and b"done " in connection.inbox[-40:]
