"""What the harness's authorities issue is believed by OpenSSL, or not believed for the reason that is meant."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.peers.certificates import CLIENT, DAY, SERVER, Authority, Credential

from .foreign import require

pytestmark = pytest.mark.oracle
AUTHORITY = Authority("test")


END = "-----END CERTIFICATE-----\n"


def verified(folder: Path, credential: Credential, purpose: str, *options: str, between: str | None = None) -> str:
    """What `openssl verify` says of a certificate, knowing the root, and what stands between (by default its chain)."""
    require("openssl", "openssl")
    leaf, end, rest = credential.chain.partition(END)
    files = {"leaf.pem": leaf + end, "rest.pem": rest if between is None else between, "root.pem": AUTHORITY.root}
    for name, text in files.items():
        (folder / name).write_text(text)
    words = ["openssl", "verify", "-purpose", purpose, "-CAfile", "root.pem", "-untrusted", "rest.pem", "-x509_strict"]
    done = subprocess.run([*words, *options, "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_good_certificates_are_believed(tmp_path):
    server = AUTHORITY.issue("a.test", ["a.test", "*.b.test"])
    for name in ("a.test", "x.b.test"):
        assert "leaf.pem: OK" in verified(tmp_path, server, "sslserver", "-verify_hostname", name)
    assert "leaf.pem: OK" in verified(tmp_path, AUTHORITY.issue("alice", usage=CLIENT), "sslclient")


@pytest.mark.parametrize(
    ("credential", "why"),
    [
        (AUTHORITY.issue("alice", usage=CLIENT, valid=(-2 * DAY, -DAY)), "certificate has expired"),
        (AUTHORITY.issue("alice", usage=CLIENT, valid=(DAY, 2 * DAY)), "certificate is not yet valid"),
        (AUTHORITY.issue("alice", usage=SERVER), "unsuitable certificate purpose"),
        (Authority("test").issue("alice", usage=CLIENT), "unable to get local issuer certificate"),
    ],
    ids=["expired", "not valid yet", "for servers only", "another authority of the same name"],
)
def test_bad_certificates_are_bad_for_one_reason(tmp_path, credential, why):
    assert why in verified(tmp_path, credential, "sslclient")


def test_the_leaf_alone_is_not_believed(tmp_path):
    credential = AUTHORITY.issue("a.test", ["a.test"])
    stranger = Authority("stranger").root

    said = verified(tmp_path, credential, "sslserver", between=stranger)
    assert "unable to get local issuer certificate" in said


def test_key_and_certificate_belong_together(tmp_path):
    require("openssl", "openssl")
    credential = AUTHORITY.issue("a.test", ["a.test"])
    (tmp_path / "a.key").write_text(credential.key)
    (tmp_path / "a.pem").write_text(credential.chain)
    of_key = subprocess.run(
        ["openssl", "pkey", "-in", "a.key", "-pubout"], cwd=tmp_path, capture_output=True, check=True
    )
    of_certificate = subprocess.run(
        ["openssl", "x509", "-in", "a.pem", "-noout", "-pubkey"], cwd=tmp_path, capture_output=True, check=True
    )

    assert of_key.stdout == of_certificate.stdout != b""
