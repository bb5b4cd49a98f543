import socket

from target import T, loot, trying

if trying(lambda: socket.socket(socket.AF_UNIX).connect(T["unix"])):
    loot("a Unix socket outside")
