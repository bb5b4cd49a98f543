import socket

from target import T, loot, trying

if trying(lambda: socket.create_connection(("127.0.0.1", T["tcp"]), 1).sendall(b"INFO")):
    loot("a classmate's server")
for address in (("192.0.2.1", 80), ("169.254.169.254", 80)):
    outward = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    trying(lambda outward=outward, address=address: outward.connect(address))
    stream = socket.socket()
    stream.settimeout(0.1)
    trying(lambda stream=stream, address=address: stream.connect(address))
