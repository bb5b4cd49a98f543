import socket

from target import T, trying

trying(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hidden input", ("127.0.0.1", T["udp"])))
