"""Runs the real stunnel in front of the HTTP service of the kata: `--subject=tests/oracles/stunnel_tls.py`.

stunnel does all of TLS and knows nothing of HTTP: each site has a backend of its own, which learns nothing of the
client.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

KATA = "tls_server"
NEEDS = "stunnel"
PACKAGE = "stunnel4"
DEVIATIONS = {
    "http_is_negotiated": "stunnel does not know ALPN in front of a plain service",
    "no_common_protocol": "stunnel does not know ALPN in front of a plain service",
    "client_is_named": "stunnel tells the service behind it nothing of the client",
    "handshakes_side_by_side": "stunnel tells the service behind it nothing of the client",
    "wildcard_is_one_label": "a wildcard of stunnel stands for any number of labels",
    "tickets_open_one_site": "tickets are shared by all names of a port: the weakness that is asked for here",
    "silent_clients_are_cut": "the time-outs of stunnel are whole seconds",
    "dripping_clients_are_cut": "the time-outs of stunnel are whole seconds",
    "stops_gracefully": "stunnel ends at SIGTERM, whatever is under way",
}

sys.path.insert(0, str(Path(__file__).parents[2] / "reference" / "tls_server"))

from service import Conversation  # noqa: E402

STATE = Path(os.environ["STATE_DIR"])
SITES = Path(os.environ["SITES"])
CONFIGURATION = STATE / "stunnel.conf"


def _parent(host: str) -> str:
    return "." + host.partition(".")[2]


class Backend(asyncio.Protocol):
    """The service of one site, behind stunnel."""

    def __init__(self, entry: dict) -> None:
        names = [name.lower() for name in entry["names"]]
        wildcards = [name[1:] for name in names if name.startswith("*.")]
        self.conversation = Conversation(names[0], None, lambda host: host in names or _parent(host) in wildcards)
        self.writable = True

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.conversation.receive(data)
        self.answer()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.answer()

    def answer(self) -> None:
        while self.writable and (piece := self.conversation.next_piece()) is not None:
            self.transport.write(piece)
        if self.conversation.over:
            self.transport.close()


def socket_of(entry: dict) -> Path:
    return STATE / f"{Path(entry['chain']).stem}.sock"


def service(entry: dict, name: str) -> str:
    """A service of stunnel: the first one listens, each other one is for one server name."""
    folder = SITES.parent
    lines = [f"[{name or 'first'}]"]
    if not name:
        lines.append(f"accept = {os.environ['HOST']}:{os.environ['PORT']}")
    else:
        lines.append(f"sni = first:{name}")
    lines += [f"connect = {socket_of(entry)}", f"cert = {folder / entry['chain']}", f"key = {folder / entry['key']}"]
    lines += ["sslVersionMin = TLSv1.2", "ciphers = ECDHE+AESGCM:ECDHE+CHACHA20", "sessionResume = yes"]
    if "client_ca" in entry:
        lines += ["verifyChain = yes", "requireCert = yes", f"CAfile = {folder / entry['client_ca']}"]
    return "\n".join(lines)


async def configure(backends: dict[Path, asyncio.Server]) -> None:
    """Wildcards stand last: of the patterns that match the first one is taken."""
    loop = asyncio.get_running_loop()
    first, *others = json.loads(SITES.read_text())
    others.sort(key=lambda entry: entry["names"][0].startswith("*"))
    for entry in [first, *others]:
        path = socket_of(entry)
        if path not in backends:
            backends[path] = await loop.create_unix_server(lambda entry=entry: Backend(entry), path)
    general = ["foreground = yes", "pid =", "syslog = no", "debug = err"]
    services = [service(first, "")]
    services += [service(entry, name) for entry in others for name in entry["names"]]
    CONFIGURATION.write_text("\n".join([*general, *services, ""]))


async def main() -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    backends: dict[Path, asyncio.Server] = {}
    await configure(backends)
    stunnel = await asyncio.create_subprocess_exec("stunnel", str(CONFIGURATION))

    async def reload() -> None:
        try:
            await configure(backends)
        except ValueError as error:
            return print(f"the configuration stays as it was: {error}", flush=True)
        stunnel.send_signal(signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(reload()))
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    ended = asyncio.create_task(stunnel.wait())
    await asyncio.wait([ended, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        stunnel.terminate()
    await ended


if __name__ == "__main__":
    asyncio.run(main())
