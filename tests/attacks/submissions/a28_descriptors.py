import socket

HELD = []
try:
    while True:
        HELD.append(socket.socket())
except OSError:
    del HELD[:64]
