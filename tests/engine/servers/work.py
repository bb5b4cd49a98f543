"""What all the sample servers do: a request is a line "MODE N", its answer a line "done MODE N".

quick: at once. work: after N ms of computing. later: after a timer of N ms. big: after N bytes.
deaf: nothing, and this connection is never read again. The rest belongs to one server each.
"""

import os
import socket
import time
from contextlib import suppress

ADDRESS = (os.environ["HOST"], int(os.environ["PORT"]))


def parse(line: bytes) -> tuple[str, int]:
    mode, number = line.decode().split()
    return mode, int(number)


def spin(milliseconds: int) -> None:
    """Use up CPU time, however little of it there is to be had."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass


def done(mode: str, number: int) -> bytes:
    padding = b"." * number if mode == "big" else b""
    return padding + f"done {mode} {number}\n".encode()


def serve_blocking(connection: socket.socket) -> None:
    """One connection by blocking calls, from its first line to its end, or its reset."""
    with suppress(ConnectionError), connection, connection.makefile("rb") as lines:
        for line in lines:
            mode, number = parse(line)
            if mode == "deaf":
                time.sleep(3600)
            if mode == "work":
                spin(number)
            if mode == "later":
                time.sleep(number / 1000)
            connection.sendall(done(mode, number))
