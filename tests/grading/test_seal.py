"""Signatures: made by one key, checked by the other half of it, and spoiled by every change."""

import json
import os
import stat
import subprocess

import pytest

from harness.grading import seal
from harness.grading.seal import Forged
from harness.verdicts import Unusable

from .sample import RESULT


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "results.key"
    seal.key_of(path)
    return path


@pytest.fixture
def table(key):
    return json.loads(json.dumps(seal.sign(RESULT.to_json(), seal.key_of(key))))


def test_a_key_is_made_once_and_for_its_owner_alone(key):
    first = seal.key_of(key)

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert seal.key_of(key) == first
    assert seal.public_key(key) == seal.public_key(seal.public_path(key))


def test_what_was_signed_is_believed(key, table):
    seal.check(table, seal.public_key(key))


def changed_score(table):
    table["score"] += 1


def changed_points(table):
    table["behaviours"][1]["earned"] = 2


def another_student(table):
    table["student"]["id"] = "bob"


def another_submission(table):
    table["submission"]["digest"] = f"sha256:{'cd' * 32}"


def another_time(table):
    table["submission"]["submitted_at"] = "2026-02-01T12:00:00Z"


def unsigned(table):
    table["signature"] = {}


def cut_signature(table):
    table["signature"]["value"] = table["signature"]["value"][:-4]


def signed_by_oneself(table):
    table.update(seal.sign(table, b"o" * 32))


@pytest.mark.parametrize(
    "forge",
    [
        changed_score,
        changed_points,
        another_student,
        another_submission,
        another_time,
        unsigned,
        cut_signature,
        signed_by_oneself,
    ],
)
def test_a_change_is_noticed(key, table, forge):
    forge(table)

    with pytest.raises(Forged):
        seal.check(table, seal.public_key(key))


def test_a_key_that_others_can_read_is_refused(key):
    key.chmod(0o640)

    with pytest.raises(Unusable, match="chmod 600"):
        seal.key_of(key)


@pytest.mark.parametrize("text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_a_key_is_one_sentence(tmp_path, text):
    path = tmp_path / "results.key"
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(Unusable, match="holds no Ed25519 key"):
        seal.key_of(path)


def test_signing_needs_the_private_half(key):
    public = seal.public_path(key)
    public.chmod(0o600)

    with pytest.raises(Unusable, match="is a public key"):
        seal.key_of(public)


def test_openssl_takes_the_key_for_what_it_is(key):
    """Another implementation reads both halves, and finds the same public key in them."""
    openssl = ["openssl", "pkey", "-pubout", "-outform", "DER"]
    private = subprocess.run([*openssl, "-in", key], capture_output=True, check=True).stdout
    public = subprocess.run([*openssl, "-pubin", "-in", seal.public_path(key)], capture_output=True, check=True).stdout

    assert private == public
    assert b"\x06\x03\x2b\x65\x70" in public, "the object identifier of Ed25519 (RFC 8410)"


def test_a_link_is_no_place_for_a_key(tmp_path):
    target = tmp_path / "elsewhere"
    (tmp_path / "results.key").symlink_to(target)

    with pytest.raises(Unusable, match="can't be written"):
        seal.key_of(tmp_path / "results.key")
    assert not os.path.lexists(target)
