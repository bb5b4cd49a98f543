"""Ports for solutions: free, outside of the range that the kernel hands out, and no two harnesses want the same.

A port from the kernel's own range could be taken between choosing it and the solution's bind, by any outgoing
connection. So a port below that range is chosen, and reserved among harnesses by an abstract Unix socket, which
the kernel releases with the process that holds it.
"""

from __future__ import annotations

import random
import socket
import sys

LOWEST, HIGHEST = 15000, 32000
_chance = random.Random()


class Port:
    """A port of the loopback address, for TCP and UDP, that is this harness's to give away until `release`."""

    def __init__(self) -> None:
        while True:
            self.number = _chance.randrange(LOWEST, HIGHEST)
            self._claim = _claim(self.number)
            if self._claim and _bindable(self.number):
                return
            self.release()

    def release(self) -> None:
        if self._claim:
            self._claim.close()


def _claim(number: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    if sys.platform == "linux":
        try:
            claim.bind(f"\0backend-katas-port-{number}")
        except OSError:
            claim.close()
            return None
    return claim


def _bindable(number: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                return False
    return True
