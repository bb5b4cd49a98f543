import socket

from target import T, loot, trying

if trying(lambda: socket.create_connection(("127.0.0.1", T["tcp"]), 1).sendall(b"hidden input")):
    loot("a server outside")
