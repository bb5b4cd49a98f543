"""Foreign TLS servers, with certificates of the harness's authorities, on free ports, for as long as a block lasts."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.peers.sites import authorities

from .foreign import require

PATIENCE = 30.0  # seconds, for a machine under any load
Address = tuple[str, int]


@contextmanager
def listening(words: list[str], address: Address) -> Iterator[subprocess.Popen[bytes]]:
    """A program, once it accepts connections there."""
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, f"{words[0]} ended with status {server.returncode}: {server.stdout.read()!r}"
            with socket.socket() as probe:
                if probe.connect_ex(address) == 0:
                    break
            assert time.monotonic() < end, f"{words[0]} does not listen"
        yield server
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


def free_address() -> Address:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()


def certificate(folder: Path, name: str = "www.kata.test") -> tuple[Path, Path, bytes]:
    """Files of a chain and a key for that name, and the certificate (DER)."""
    credential = authorities().servers.issue(name, [name])
    chain, key = folder / f"{name}.pem", folder / f"{name}.key"
    chain.write_text(credential.chain)
    key.write_text(credential.key)
    return chain, key, credential.der


@contextmanager
def s_server(folder: Path, *options: str) -> Iterator[tuple[Address, bytes]]:
    """`openssl s_server`, which answers HTTP with facts of the connection (-www); its address and certificate."""
    require("openssl", "openssl")
    address = free_address()
    chain, key, der = certificate(folder)
    words = ["openssl", "s_server", "-accept", f"{address[0]}:{address[1]}", "-cert", str(chain), "-key", str(key)]
    words += ["-cert_chain", str(chain), "-www", "-alpn", "http/1.1", *options]
    with listening(words, address):
        yield address, der


@contextmanager
def nginx(folder: Path, *directives: str) -> Iterator[tuple[Address, bytes]]:
    require("nginx", "nginx-light")
    address = free_address()
    chain, key, der = certificate(folder)
    kinds = ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr crit; events {{}}\n"
        f"http {{ {temporary} access_log off; ssl_protocols TLSv1.2 TLSv1.3; {' '.join(directives)}\n"
        f"server {{ listen {address[0]}:{address[1]} ssl; ssl_certificate {chain}; ssl_certificate_key {key};\n"
        'location / { return 200 "$ssl_protocol $ssl_alpn_protocol $ssl_session_reused $ssl_client_s_dn"; } } }\n'
    )
    with listening(["nginx", "-p", str(folder), "-c", str(configuration)], address):
        yield address, der
