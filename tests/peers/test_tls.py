"""The harness's end of TLS speaks with servers that nobody here wrote, and tells their endings apart."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.peers.certificates import CLIENT
from harness.peers.sites import authorities
from harness.verdicts import Broken
from harness.wire.https import Https
from harness.wire.tcp import Connection
from harness.wire.tls import Tls
from harness.wire.tls_records import fragmented, records

from .stage import Stage
from .tls_servers import nginx, s_server

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
NAME = "www.kata.test"
SERVERS = {"openssl": s_server, "nginx": nginx}
pytestmark = pytest.mark.oracle


class Client(Stage):
    """The harness's side, with an address to connect to."""

    def __init__(self, address: tuple[str, int], certificate: bytes) -> None:
        super().__init__()
        self.address, self.certificate = address, certificate
        self.contexts: dict[object, ssl.SSLContext] = {}

    def connect(self, name: str, slow_reader: bool = False) -> Connection:
        return Connection.to(self.network, self.address, name, "server", slow_reader)

    def context(self, version: ssl.TLSVersion | None = None, protocols: tuple[str, ...] = ("http/1.1",)):
        if (version, protocols) not in self.contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=authorities().servers.root)
            if version:
                context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(list(protocols))
            self.contexts[version, protocols] = context
        return self.contexts[version, protocols]

    def tls(self, version: ssl.TLSVersion | None = None, name: str = NAME, **how) -> Tls:
        protocols = how.pop("protocols", ("http/1.1",))
        return Tls(self, "client", self.context(version, protocols), name, **how)


@contextmanager
def client_of(server, folder: Path, *options: str) -> Iterator[Client]:
    with server(folder, *options) as (address, certificate):
        client = Client(address, certificate)
        yield client
        client.close()


@pytest.fixture(params=SERVERS)
def client(request, tmp_path) -> Iterator[Client]:
    with client_of(SERVERS[request.param], tmp_path) as client:
        yield client


@pytest.mark.parametrize("version", [V12, V13], ids=["TLSv1.2", "TLSv1.3"])
def test_what_was_negotiated_is_known(client, version):
    channel = client.tls(version).handshake()

    assert channel.version == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
    assert channel.protocol == "http/1.1"
    assert channel.certificate == client.certificate
    assert not channel.resumed
    answer = Https(channel, NAME).request("GET", "/")
    assert (answer.status, channel.version.encode() in answer.body) == (200, True)


@pytest.mark.parametrize("version", [V12, V13], ids=["TLSv1.2", "TLSv1.3"])
def test_a_session_is_resumed(client, version):
    first = client.tls(version).handshake()
    Https(first, NAME).request("GET", "/")
    session = first.session
    first.connection.close()  # s_server has one client at a time
    again = client.tls(version, session=session).handshake()

    assert again.resumed
    assert Https(again, NAME).request("GET", "/").status == 200


def test_an_orderly_end_is_told_by_close_notify(client):
    channel = client.tls().handshake()
    Https(channel, NAME).request("GET", "/", headers=[("Connection", "close")])
    channel.until_ended()

    assert channel.close_notify
    assert (channel.alert, channel.fault) == ("", "")


def test_a_reset_may_come_after_the_end(tmp_path):
    with client_of(nginx, tmp_path) as client:
        channel = client.tls().handshake()
        Https(channel, NAME).request("GET", "/", headers=[("Connection", "close")])
        channel.until_closed()
        while not channel.connection.was_reset:  # by what is sent to nobody
            channel.send_raw(b"late", "bytes after the end")
            client.turn(0)

    assert channel.close_notify
    assert (channel.alert, channel.fault) == ("", "")


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_handshake_in_small_records_is_the_same_handshake(client, size):
    channel = client.tls(held=True)
    hello = channel.held
    torn = fragmented(hello, size)
    assert b"".join(record.fragment for record in records(torn)) == records(hello)[0].fragment
    channel.release(torn)

    assert Https(channel.handshake(), NAME).request("GET", "/").status == 200


def test_a_held_handshake_goes_on_byte_by_byte(client):
    channel = client.tls(V12, held=True)
    for _ in range(5):
        channel.release_bytes(1)
    channel.release()
    channel.hold()
    channel.until_held()

    assert not channel.established
    channel.release()
    assert Https(channel.handshake(), NAME).request("GET", "/").status == 200


def test_a_forged_record_is_answered_by_an_alert(client):
    channel = client.tls().handshake()
    data = bytearray(channel.encrypted(b"GET / HTTP/1.1\r\n\r\n"))
    data[-1] ^= 1
    channel.send_raw(bytes(data), "a forged record")
    channel.until_ended()

    assert channel.alert in ("bad_record_mac", "")  # nginx does not tell
    assert not channel.close_notify


def test_an_alert_has_its_name(tmp_path):
    with client_of(nginx, tmp_path) as client:
        channel = client.tls(protocols=("nonsense",)).until_ended()

    assert channel.alert == "no_application_protocol"
    assert not channel.established


def test_a_name_that_does_not_fit_is_the_fault_of_the_server(client):
    client.context().check_hostname = True
    with pytest.raises(Broken, match="not to be trusted"):
        client.tls(name="other.kata.test").handshake()


def test_what_goes_in_clear_is_seen(tmp_path):
    (tmp_path / "ca.pem").write_text(authorities().staff.root)
    with client_of(nginx, tmp_path, f"ssl_verify_client on; ssl_client_certificate {tmp_path}/ca.pem;") as client:
        channel = client.tls(V12).handshake()

    assert channel.seen.messages[:2] == ["ServerHello", "Certificate"]
    assert "CertificateRequest" in channel.seen.messages


def test_a_client_certificate_names_its_bearer(tmp_path):
    (tmp_path / "ca.pem").write_text(authorities().staff.root)
    alice = authorities().staff.issue("alice", usage=CLIENT)
    (tmp_path / "alice.pem").write_text(alice.key + alice.chain)
    with client_of(nginx, tmp_path, f"ssl_verify_client on; ssl_client_certificate {tmp_path}/ca.pem;") as client:
        client.context().load_cert_chain(tmp_path / "alice.pem")
        answer = Https(client.tls().handshake(), NAME).request("GET", "/")

    assert answer.body.endswith(b"CN=alice"), answer


def test_the_story_names_the_flights(client):
    channel = client.tls().handshake()
    Https(channel, NAME).request("GET", "/hello")

    labels = [event.label for event in client.record.events]
    assert f"ClientHello for {NAME}" in labels
    assert any(label.startswith("ServerHello") for label in labels)
    assert "has TLS: TLSv1.3, http/1.1" in labels
    assert "GET /hello" in labels
