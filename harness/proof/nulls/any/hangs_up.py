"""Closes every connection as soon as it is there."""

import os
import signal
import socket

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=128)
while True:
    listener.accept()[0].close()
