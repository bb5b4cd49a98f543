"""Stock clients against the reference of the kata: openssl s_client, curl and httpx believe it, and are believed."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from harness import waiting
from harness.peers.certificates import CLIENT
from harness.peers.sites import Sites
from harness.solution.program import Solution

from .launch import reference

PATIENCE = 40  # seconds, for a machine under any load
pytestmark = pytest.mark.oracle


@dataclass
class Service:
    """The reference, and files for its clients."""

    solution: Solution
    folder: Path

    @property
    def port(self) -> int:
        return self.solution.address[1]

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    @property
    def alice(self) -> Path:
        return self.folder / "alice.pem"


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    with reference("tls_server", Sites) as solution:
        sites = solution.peer(Sites)
        service = Service(solution, tmp_path)
        service.root.write_text(sites.authorities.servers.root)
        alice = sites.authorities.staff.issue("alice", usage=CLIENT)
        service.alice.write_text(alice.key + alice.chain)
        yield service


def require(command: str) -> None:
    if shutil.which(command):
        return
    why = f"{command} is not installed; on Debian: apt install {command}"
    if os.environ.get("REQUIRE_ORACLES") == "1":
        pytest.fail(why)
    pytest.skip(why)


def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, input=said, capture_output=True, text=True, timeout=PATIENCE, check=False)


# -- openssl s_client -----------------------------------------------------------------------------------------------


def s_client(service: Service, name: str, *options: str, path: str = "/whoami") -> subprocess.CompletedProcess[str]:
    require("openssl")
    request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{service.port}", "-servername", name, "-ign_eof"]
    words += ["-CAfile", str(service.root), "-verify_return_error", "-verify_hostname", name, *options]
    return run(*words, said=request)


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_verifies_the_chain(service, option, version):
    done = s_client(service, "pay.apps.kata.test", option, "-alpn", "h2,http/1.1")

    assert done.returncode == 0, done.stderr
    assert "Verify return code: 0 (ok)" in done.stdout
    assert "ALPN protocol: http/1.1" in done.stdout
    assert version in done.stdout
    assert '{"site": "pay.apps.kata.test", "client": null}' in done.stdout


def test_openssl_shows_a_client_certificate(service):
    done = s_client(service, "admin.kata.test", "-cert", str(service.alice), "-cert_chain", str(service.alice),
                    "-key", str(service.alice))  # fmt: skip

    assert '{"site": "admin.kata.test", "client": "alice"}' in done.stdout, done.stderr


def test_openssl_is_told_what_is_missing(service):
    done = s_client(service, "admin.kata.test", "-tls1_3")

    assert "certificate required" in done.stderr
    assert "HTTP/1.1" not in done.stdout


def test_openssl_is_told_that_there_is_no_protocol(service):
    done = s_client(service, "www.kata.test", "-alpn", "h2")

    assert done.returncode != 0
    assert "no application protocol" in done.stderr


def test_openssl_is_told_that_its_version_is_old(service):
    done = s_client(service, "www.kata.test", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")

    assert done.returncode != 0
    assert "protocol version" in done.stderr


@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
def test_openssl_resumes(service, option):
    session = service.folder / "session"
    first = s_client(service, "www.kata.test", option, "-sess_out", str(session))
    again = s_client(service, "www.kata.test", option, "-sess_in", str(session))

    assert "New, TLSv1" in first.stdout
    assert "Reused, TLSv1" in again.stdout


# -- curl -----------------------------------------------------------------------------------------------------------


def curl(service: Service, name: str, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    require("curl")
    words = ["curl", "--silent", "--show-error", "--noproxy", "*", "--cacert", str(service.root)]
    words += ["--resolve", f"{name}:{service.port}:127.0.0.1", *options, f"https://{name}:{service.port}{path}"]
    return run(*words)


@pytest.mark.parametrize("name", ["www.kata.test", "kata.test", "x.apps.kata.test", "pay.kata.test"])
def test_curl_believes_each_name(service, name):
    done = curl(service, name, "/whoami")

    assert (done.returncode, done.stderr) == (0, "")


def test_curl_shows_a_client_certificate(service):
    known = curl(service, "admin.kata.test", "/whoami", "--cert", str(service.alice))
    unknown = curl(service, "admin.kata.test", "/whoami")

    assert known.stdout == '{"site": "admin.kata.test", "client": "alice"}'
    assert (unknown.returncode != 0, unknown.stdout) == (True, "")


def test_curl_sends_and_gets(service):
    text = service.folder / "text"
    text.write_bytes(b"0123456789" * 20_000)
    assert curl(service, "www.kata.test", "/notes/n-1", "--upload-file", str(text)).returncode == 0

    assert curl(service, "www.kata.test", "/notes/n-1").stdout == text.read_text()


# -- httpx ----------------------------------------------------------------------------------------------------------


def client(service: Service, client_certificate: bool = False) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(service.root))
    if client_certificate:
        context.load_cert_chain(service.alice)
    return httpx.Client(base_url=f"https://127.0.0.1:{service.port}", verify=context, timeout=PATIENCE, trust_env=False)


def ask(httpx_client: httpx.Client, name: str, path: str = "/whoami") -> httpx.Response:
    return httpx_client.get(path, headers={"Host": name}, extensions={"sni_hostname": name})


def test_httpx_keeps_its_connection(service):
    with client(service) as stock:
        answers = [ask(stock, "www.kata.test").json() for _ in range(3)]

    assert answers == [{"site": "www.kata.test", "client": None}] * 3


def test_httpx_shows_a_client_certificate(service):
    with client(service, client_certificate=True) as stock:
        assert ask(stock, "admin.kata.test").json() == {"site": "admin.kata.test", "client": "alice"}
    with client(service) as stock, pytest.raises(httpx.TransportError):
        ask(stock, "admin.kata.test")


def test_httpx_goes_on_through_a_reload(service):
    with client(service) as stock:
        assert ask(stock, "pay.kata.test").status_code == 200
        service.solution.peer(Sites).renew("pay")
        service.solution.signal(signal.SIGHUP, ends=False)
        waiting.settled(service.solution)
        assert ask(stock, "pay.kata.test").status_code == 200
    with client(service) as newcomer:
        assert ask(newcomer, "pay.kata.test").status_code == 200


def test_a_signal_that_does_not_end_a_program_is_no_excuse_for_its_end(service):
    service.solution.signal(signal.SIGUSR1, ends=False)  # nobody handles it

    with pytest.raises(AssertionError, match="was killed by SIGUSR1"):
        waiting.settled(service.solution)
