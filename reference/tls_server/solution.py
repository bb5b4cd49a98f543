"""A TLS server for several sites: each connection begins with the ClientHello, which decides what follows.

The bytes of a connection go through two memory buffers: what came is put into `incoming`, TLS is asked to go on, and
what it has left in `outgoing` is sent, also when it fails, since its last word is an alert.
"""

import asyncio
import contextlib
import json
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
    """The names of a site, and how TLS is spoken with them."""

    def __init__(self, entry: dict, folder: Path) -> None:
        """Raises OSError (ssl.SSLError is one), or KeyError and the like, when a file or the entry is not usable."""
        self.names = [name.lower() for name in entry["names"]]
        self.name = self.names[0]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # for TLS 1.2; those of 1.3 are all good
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.load_cert_chain(folder / entry["chain"], folder / entry["key"])
        if "client_ca" in entry:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(folder / entry["client_ca"])


def load(path: Path) -> list[Site]:
    sites = [Site(entry, path.parent) for entry in json.loads(path.read_text())]
    if not sites:
        raise ValueError("there is no site")
    return sites


def find(sites: list[Site], name: str) -> Site:
    """An exact name goes before a wildcard, which stands for one label; without either it is the first site."""
    _, _, parent = name.partition(".")
    for wanted in (name, f"*.{parent}"):
        for site in sites:
            if wanted in site.names:
                return site
    return sites[0]


class Server:
    """The sites as they are now, and who is connected."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sites = load(path)
        self.connections: set[Connection] = set()

    def reload(self) -> None:
        """All or nothing. Who is connected keeps the site that it has; its tickets end with the old contexts."""
        try:
            self.sites = load(self.path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            print(f"the sites stay as they were: {error}", flush=True)


class Connection(asyncio.Protocol):
    """One client: its hello, its handshake, its requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.hello = bytearray()
        self.site: Site | None = None
        self.conversation: Conversation | None = None
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.writable = True
        loop = asyncio.get_running_loop()
        self.lost = loop.create_future()
        self.deadline = loop.call_later(HANDSHAKE, self.give_up)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.deadline.cancel()
        self.server.connections.discard(self)
        self.lost.set_result(None)

    def give_up(self) -> None:
        self.transport.abort()

    def pause_writing(self) -> None:
        self.writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable = True
        self.transport.resume_reading()
        self.go_on()

    # -- what comes ---------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.site is None:
            self.hello += data
            try:
                hello = read_hello(bytes(self.hello))
            except ValueError:
                return self.transport.close()
            if hello is None:
                return
            if not self.choose(hello):
                return
            data = bytes(self.hello)
        self.incoming.write(data)
        self.go_on()

    def eof_received(self) -> bool:
        """Without close_notify before it this is a truncation: nothing of what is incomplete may be done."""
        self.incoming.write_eof()
        self.go_on()
        self.transport.close()
        return True

    def choose(self, hello: Hello) -> bool:
        if hello.protocols is not None and b"http/1.1" not in hello.protocols:
            self.transport.write(NO_APPLICATION_PROTOCOL)
            self.transport.close()
            return False
        self.sites = self.server.sites  # as they are now: a reload changes nothing for who is here
        self.site = find(self.sites, hello.server_name)
        self.tls = self.site.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        return True

    # -- TLS ----------------------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """Let TLS and HTTP do what they can with what has come."""
        if self.site is None or self.transport.is_closing():
            return
        try:
            if self.conversation is None:
                self.tls.do_handshake()
                self.begin()
            self.converse()
        except ssl.SSLWantReadError:
            self.flush()
        except ssl.SSLError:
            self.flush()  # the alert
            self.transport.close()

    def begin(self) -> None:
        self.deadline.cancel()
        certificate = self.tls.getpeercert() or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        self.conversation = Conversation(self.site.name, names[0] if names else None, self.answers_for)

    def answers_for(self, host: str) -> bool:
        """Who came in by the door of one site may not ask for another one, which may want a client certificate."""
        return find(self.sites, host) is self.site

    def converse(self) -> None:
        """Answer, then read, until there is nothing to read, or nobody to take the answers."""
        while True:
            while self.writable and (piece := self.conversation.next_piece()) is not None:
                self.tls.write(piece)
                self.flush()
            if not self.writable:
                return
            if self.conversation.over:
                return self.close()
            data = self.tls.read(CHUNK)
            if not data:  # the client's close_notify
                return self.close()
            self.conversation.receive(data)

    def flush(self) -> None:
        if data := self.outgoing.read():
            self.transport.write(data)

    def close(self) -> None:
        """Say close_notify behind everything that was said, and close; the client's own is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()
        self.transport.close()

    def finish(self) -> None:
        """Close as soon as the request that has begun is answered."""
        if self.conversation is None:
            self.transport.abort()
        elif self.conversation.idle:
            self.close()
        else:
            self.conversation.finish()


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
