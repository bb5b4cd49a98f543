import socket

from target import loot, trying

if trying(lambda: socket.socket(40, socket.SOCK_STREAM)):
    loot("a socket to the host of this virtual machine")
