"""Run as the build step: everything that the program itself may not do either."""

import os
import socket

from target import T, loot, read, trying, write

trying(lambda: write(T["canary"], "overwritten by a build"))
if trying(lambda: socket.create_connection(("127.0.0.1", T["tcp"]), 1).sendall(b"built")):
    loot("a server outside")
for path in T["files"]:
    if trying(lambda path=path: read(path)):
        loot(path)
if os.fork() == 0:
    os.setsid()
    os.execve("/bin/sleep", [T["mark"], "30"], {})
