"""Run as the build step: everything that the program itself may not do either."""

import os
import socket

from target import T, loot, trying

trying(lambda: open(T["canary"], "w").write("overwritten by a build"))
if trying(lambda: socket.create_connection(("127.0.0.1", T["tcp"]), 1).sendall(b"built")):
    loot("a server outside")
for path in T["files"]:
    if trying(lambda path=path: open(path).read()):
        loot(path)
if os.fork() == 0:
    os.setsid()
    os.execve("/bin/sleep", [T["mark"], "30"], {})
