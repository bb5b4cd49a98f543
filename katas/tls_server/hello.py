"""Given: reads the ClientHello, the first message of a TLS connection, which goes in clear. Nothing is solved here.

What a client wants stands in it, before any certificate is chosen: the name of the server (SNI, RFC 6066, 3) and the
application protocols that it speaks (ALPN, RFC 7301, 3.1). The message may come in many pieces of TCP, and in several
TLS records (RFC 8446, 5.1).
"""

from dataclasses import dataclass

HANDSHAKE, CLIENT_HELLO = 22, 1
SERVER_NAME, PROTOCOLS = 0, 16
LONGEST = 65_536  # bytes


@dataclass(frozen=True)
class Hello:
    """`server_name` in lower case, "" without one; `protocols` is None where the client offers no choice."""

    server_name: str = ""
    protocols: tuple[bytes, ...] | None = None


def read_hello(data: bytes) -> Hello | None:
    """The ClientHello at the beginning of `data`; None while it is not complete, ValueError if this is none."""
    message, at = b"", 0
    while True:
        if data[at : at + 1] not in (b"", bytes([HANDSHAKE])):
            raise ValueError("this is no TLS handshake")
        if len(message) >= 4:
            if message[0] != CLIENT_HELLO or int.from_bytes(message[1:4]) > LONGEST:
                raise ValueError("this is no ClientHello, or a very long one")
            if len(message) >= 4 + int.from_bytes(message[1:4]):
                return parse(Reader(message[4 : 4 + int.from_bytes(message[1:4])]))
        if len(data) < at + 5:
            return None
        size = int.from_bytes(data[at + 3 : at + 5])
        if not 0 < size <= 16_384:
            raise ValueError("a record has 1 to 16384 bytes")
        if len(data) < at + 5 + size:
            return None
        message += data[at + 5 : at + 5 + size]
        at += 5 + size


class Reader:
    """Takes vectors off the front of a message: a length, and so many bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, number: int) -> bytes:
        if number > len(self.data):
            raise ValueError("a ClientHello ends in the middle")
        taken, self.data = self.data[:number], self.data[number:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> "Reader":
        return Reader(self.take(self.number(size)))


def parse(message: Reader) -> Hello:
    message.take(2 + 32)  # version, random
    message.vector(1)  # session id
    message.vector(2)  # cipher suites
    message.vector(1)  # compression
    server_name, protocols = "", None
    extensions = message.vector(2) if message.data else message
    while extensions.data:
        kind, extension = extensions.number(2), extensions.vector(2)
        if kind == SERVER_NAME and extension.data:
            names = extension.vector(2)
            if names.data and names.number(1) == 0:  # a host name
                server_name = names.vector(2).data.decode("latin-1").lower()
        elif kind == PROTOCOLS:
            listed, protocols = extension.vector(2), ()
            while listed.data:
                protocols += (listed.vector(1).data,)
    return Hello(server_name, protocols)
