import os
import socket

with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as server:
    while True:
        server.accept()[0].close()
