"""Closes every connection as soon as it is there, and leaves datagrams unread."""

import os
import signal
import socket

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

ADDRESS = os.environ["HOST"], int(os.environ["PORT"])
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind(ADDRESS)
listener = socket.create_server(ADDRESS, backlog=128)
while True:
    listener.accept()[0].close()
