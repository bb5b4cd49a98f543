"""A TLS server for several sites: each connection begins with the ClientHello, which decides what follows.

hello.py and service.py are given. TLS goes through two memory buffers (ssl.MemoryBIO): what came from the client is
written into `incoming`, TLS is asked to go on, and what it has left in `outgoing` is sent, also when it fails, since
its last word is an alert. TLS that lacks input raises ssl.SSLWantReadError, and is asked again when more has come.
"""

import asyncio
import os
import signal
import ssl
from pathlib import Path

from hello import Hello, read_hello
from service import Conversation

HANDSHAKE = int(os.environ.get("HANDSHAKE_MS", 60_000)) / 1000
SHUTDOWN = int(os.environ.get("SHUTDOWN_MS", 2000)) / 1000

NO_APPLICATION_PROTOCOL = bytes([21, 3, 3, 0, 2, 2, 120])  # a record with a fatal alert
CHUNK = 65_536


class Site:
    """The names of a site, and a context that says how TLS is spoken with them."""

    def __init__(self, entry: dict, folder: Path) -> None:
        """`entry` is one of the list (names, chain, key, maybe client_ca); its files lie in `folder`."""
        raise NotImplementedError("Site in solution.py")


def find(sites: list[Site], name: str) -> Site:
    """The site of a server name in lower case: exact, then by wildcard, then the first one (S1)."""
    raise NotImplementedError("find() in solution.py")


class Server:
    """The sites as they are now, and who is connected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sites: list[Site] = []
        self.connections: set[Connection] = set()
        self.reload()

    def reload(self) -> None:
        """SIGHUP: load the list and all its files, and put them in place if all of it is good (S7)."""
        print("not implemented yet: Server.reload() in solution.py", flush=True)


class Connection(asyncio.Protocol):
    """One client: its hello, its handshake, its requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.hello = bytearray()
        self.conversation: Conversation | None = None  # from the end of the handshake on
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.server.connections.discard(self)
        self.lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Gather the hello until read_hello() has one, choose() by it, and from then on let everything go_on()."""
        self.hello += data
        try:
            if read_hello(bytes(self.hello)) is None:
                return
        except ValueError:
            pass
        self.transport.close()

    def eof_received(self) -> bool:
        """The client has ended TCP. Without close_notify before it that is a truncation."""
        self.transport.close()
        return True

    def choose(self, hello: Hello) -> None:
        """Refuse whoever has no protocol in common; begin TLS with the context of its site: wrap_bio()."""
        raise NotImplementedError("Connection.choose() in solution.py")

    def go_on(self) -> None:
        """Do the handshake, then answer and read, as far as what has come allows, and send what TLS wants to send.

        `Conversation(site, client, answers_for)` takes plaintext by receive(), and gives answers by next_piece(), a
        piece each time, None when there is no more for now. When it is `over` close with close_notify.
        """
        raise NotImplementedError("Connection.go_on() in solution.py")

    def pause_writing(self) -> None:
        """The client does not read: make no more pieces until resume_writing()."""

    def resume_writing(self) -> None:
        """It reads again."""

    def finish(self) -> None:
        """SIGTERM: close as soon as a request that has begun is answered, at once if there is none."""
        self.transport.abort()


async def main() -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    server = Server(Path(os.environ["SITES"]))
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8443))
    listener = await loop.create_server(lambda: Connection(server), host, port, backlog=512)
    await stopping.wait()
    listener.close()
    for connection in list(server.connections):
        connection.finish()
    left = [connection.lost for connection in server.connections]
    if left:
        await asyncio.wait(left, timeout=SHUTDOWN)


if __name__ == "__main__":
    asyncio.run(main())
