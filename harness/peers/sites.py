"""What a TLS server is configured with: a list of sites, their certificates and keys, the CAs of their clients.

The harness owns the authorities of both sides. The files lie in the solution's STATE_DIR, in `tls`; a behaviour that
changes them has a solution of its own, since nobody knows when they are read.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from harness.peers.certificates import CLIENT, Authority, Credential
from harness.solution.program import Solution

LIST = "sites.json"
HTTP = ("http/1.1",)


@dataclass(frozen=True)
class Site:
    """One entry of the list; `client_ca` is the file of the CA (PEM) that its clients have to come from, if they do."""

    file: str
    names: tuple[str, ...]
    credential: Credential
    client_ca: str = ""

    @property
    def name(self) -> str:
        return self.names[0]

    def entry(self) -> dict[str, object]:
        entry: dict[str, object] = {"names": list(self.names), "chain": f"{self.file}.pem", "key": f"{self.file}.key"}
        return entry | ({"client_ca": self.client_ca} if self.client_ca else {})


@dataclass(frozen=True)
class Authorities:
    """Who issues to whom: `servers` to the sites; the clients of two sites come from `staff` and from `machines`."""

    servers: Authority = field(default_factory=lambda: Authority("servers"))
    staff: Authority = field(default_factory=lambda: Authority("staff"))
    machines: Authority = field(default_factory=lambda: Authority("machines"))
    strangers: Authority = field(default_factory=lambda: Authority("staff"))  # another one of the same name

    def site(self, file: str, *names: str, client_ca: str = "") -> Site:
        return Site(file, names, self.servers.issue(names[0], names), client_ca)


@lru_cache(1)
def authorities() -> Authorities:
    """Made once a run: the keys of one run are those of all its programs."""
    return Authorities()


@lru_cache(1)
def shown_first() -> tuple[Site, ...]:
    """The sites that each program starts with; the first is the default."""
    make = authorities().site
    return (
        make("www", "www.kata.test", "kata.test"),
        make("apps", "*.apps.kata.test"),
        make("pay", "pay.apps.kata.test", "pay.kata.test"),
        make("admin", "admin.kata.test", client_ca="staff.pem"),
        make("ops", "ops.kata.test", client_ca="machines.pem"),
    )


class Sites:
    """The files, and the clients' side of them: contexts that trust the sites, with certificates of their own."""

    def __init__(self, solution: Solution) -> None:
        self.authorities = authorities()
        self.folder = solution.folder / "state" / "tls"
        self._clients = solution.folder / "clients"  # certificates of the harness's clients
        for folder in (self.folder, self._clients):
            folder.mkdir()
        self.sites = {site.file: site for site in shown_first()}
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self.write("staff.pem", self.authorities.staff.root)
        self.write("machines.pem", self.authorities.machines.root)
        self.publish()

    def environment(self) -> dict[str, str]:
        return {"SITES": str(self.folder / LIST)}

    def begin(self) -> None:
        """The files stay as they are."""

    def __getitem__(self, file: str) -> Site:
        return self.sites[file]

    @property
    def default(self) -> Site:
        return next(iter(self.sites.values()))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def publish(self) -> None:
        """Write the list, and the certificates and keys of all sites."""
        for site in self.sites.values():
            self.write(f"{site.file}.pem", site.credential.chain)
            self.write(f"{site.file}.key", site.credential.key)
        self.write(LIST, json.dumps([site.entry() for site in self.sites.values()], indent=1))

    def renew(self, file: str) -> Site:
        """A new certificate and a new key for a site, in its files; the program knows nothing of it yet."""
        old = self.sites[file]
        renewed = self.authorities.servers.issue(old.name, old.names)
        self.sites[file] = replace(old, credential=renewed)
        self.publish()
        return self.sites[file]

    def add(self, file: str, *names: str, client_ca: str = "") -> Site:
        self.sites[file] = self.authorities.site(file, *names, client_ca=client_ca)
        self.publish()
        return self.sites[file]

    def remove(self, file: str) -> None:
        del self.sites[file]
        self.publish()

    def context(
        self,
        version: ssl.TLSVersion | None = None,
        protocols: tuple[str, ...] = HTTP,
        client: Credential | None = None,
        names_checked: bool = True,
    ) -> ssl.SSLContext:
        """A client's context; equal ones are the same, since only within one can sessions be resumed."""
        key = (version, protocols, client, names_checked)
        if key not in self._contexts:
            self._contexts[key] = self._make(version, protocols, client, names_checked)
        return self._contexts[key]

    def client(self, common_name: str, authority: Authority | None = None) -> Credential:
        """A certificate of a client; without an authority it is one of the staff."""
        return (authority or self.authorities.staff).issue(common_name, usage=CLIENT)

    def _make(
        self, version: ssl.TLSVersion | None, protocols: tuple[str, ...], client: Credential | None, names_checked: bool
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = names_checked
        context.load_verify_locations(cadata=self.authorities.servers.root)
        if version:
            context.minimum_version = context.maximum_version = version
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if client:
            path = self._file(f"{client.certificate.serial_number:x}.pem", client.key + client.chain)
            context.load_cert_chain(path)
        return context

    def _file(self, name: str, text: str) -> Path:
        path = self._clients / name
        path.write_text(text, encoding="utf-8")
        return path
