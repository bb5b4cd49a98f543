"""Signing results, so that nobody edits one, swaps two, or hands in an old one unnoticed.

Ed25519 over the canonical JSON. The private key is a file of its own beside the results (mode 0600, PEM), the public
one beside it; whoever has the public one can verify.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from harness.grading.model import canonical
from harness.verdicts import Lacking, Unusable

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ModuleNotFoundError:
    raise Lacking(
        "results are signed by cryptography, which is not installed: pip install 'backend-katas[grade]'"
    ) from None

ALGORITHM = "Ed25519"


class Forged(Exception):
    """A signature does not fit; the message says in which way."""


def key_of(path: Path) -> bytes:
    """The 32 secret bytes of the key in a file; the file is made when it is missing. Raises Unusable."""
    if not path.exists():
        _make(path)
    mode = path.stat().st_mode
    if mode & 0o077:
        raise Unusable(f"{path} can be read by others; `chmod 600 {path}`, or make a new key by removing it")
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise Unusable(f"{path} is a public key; signing needs the private one")
    return key.private_bytes_raw()


def _make(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(pem)
        public_path(path).write_bytes(shown)
    except OSError as error:
        raise Unusable(f"the key {path} can't be written ({error.strerror}); name another by --key") from None


def public_path(path: Path) -> Path:
    return path.with_suffix(".pub")


def public_key(path: Path) -> str:
    """The public key, as results carry it, of a key file of either kind. Raises Unusable."""
    key = _load(path)
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return _text(public.public_bytes_raw())


def _load(path: Path) -> Ed25519PrivateKey | Ed25519PublicKey:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise Unusable(f"the key {path} can't be read: {error.strerror}") from None
    try:
        key = (
            serialization.load_pem_private_key(pem, None)
            if b"PRIVATE" in pem
            else serialization.load_pem_public_key(pem)
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        raise Unusable(f"{path} holds no {ALGORITHM} key in PEM; `kata grade` makes one where none is")
    return key


def sign(table: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """The result with its signature."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    signature = {
        "algorithm": ALGORITHM,
        "key": _text(key.public_key().public_bytes_raw()),
        "value": _text(key.sign(canonical(table))),
    }
    return table | {"signature": signature}


def check(table: dict[str, Any], key: str) -> None:
    """Raises Forged unless the result was signed by the `key`, and not changed since."""
    signature = table.get("signature")
    if not isinstance(signature, dict) or signature.get("algorithm") != ALGORITHM:
        raise Forged("it is not signed")
    if signature.get("key") != key:
        raise Forged("it was signed by another key")
    try:
        value = base64.b64decode(signature["value"], validate=True)
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key)).verify(value, canonical(table))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        raise Forged("it was changed after it was signed") from None


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
