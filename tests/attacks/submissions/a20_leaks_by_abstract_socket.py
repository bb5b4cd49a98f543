import socket

from target import T, loot, trying

if trying(lambda: socket.socket(socket.AF_UNIX).connect("\0" + T["abstract"])):
    loot("an abstract socket outside")
