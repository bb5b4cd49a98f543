"""Two processes that accept from one listener, and a parent that waits for them."""

import os
import socket

from work import ADDRESS, serve_blocking

listener = socket.create_server(ADDRESS)
for _ in range(2):
    if not os.fork():
        while True:
            serve_blocking(listener.accept()[0])
while True:
    os.wait()
