"""A real redis-server with a password, on a free port, for as long as a block lasts."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.peers.redis import PASSWORD

from .foreign import require

PATIENCE = 30.0  # seconds, for a machine under any load


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, int]]:
    require("redis-server", "redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    words = ["redis-server", "--bind", "127.0.0.1", "--port", str(address[1]), "--requirepass", PASSWORD]
    words += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        until_listening(server, address)
        yield address
    finally:
        server.kill()
        server.wait()


def until_listening(server: subprocess.Popen[bytes], address: tuple[str, int]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert server.poll() is None, f"redis-server ended with status {server.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
    raise AssertionError("redis-server does not listen")
