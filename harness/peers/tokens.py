"""Keys and tokens of an issuer, minted from raw bytes: libraries refuse to make most of the bad ones.

Source: RFC 7515 (JWS), 7517 (JWK), 7518 (algorithms), 7519 (JWT), 9068 (access tokens).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Jwk = dict[str, Any]
Sign = Callable[[bytes], bytes]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # DigestInfo of RFC 8017, 9.2


def b64(data: bytes) -> str:
    """base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64_number(number: int, size: int = 0) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8))


class RsaKey:
    """An RSA key under a kid. Making one takes tens of milliseconds, so its numbers are shared: see `rsa_key`."""

    algorithm = "RS256"

    def __init__(self, private: rsa.RSAPrivateKey, kid: str) -> None:
        self.private, self.kid = private, kid
        numbers = private.private_numbers()
        self.n, self._private = numbers.public_numbers.n, numbers
        self.size = (self.n.bit_length() + 7) // 8

    @property
    def jwk(self) -> Jwk:
        return {"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256", "n": b64_number(self.n), "e": "AQAB"}

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def sign_sha512(self, message: bytes) -> bytes:
        """RS512."""
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA512())

    def sign_pss(self, message: bytes) -> bytes:
        """PS256."""
        return self.private.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())

    def sign_block(self, block: Callable[[bytes], bytes]) -> Sign:
        """A signature of any encoded message: `block` makes one of the digest."""
        return lambda message: self._raw(int.from_bytes(block(hashlib.sha256(message).digest()))).to_bytes(self.size)

    def _raw(self, message: int) -> int:
        """message ** d mod n, by the Chinese remainder theorem (RFC 8017, 5.1.2): three times as fast."""
        key = self._private
        first, second = pow(message, key.dmp1, key.p), pow(message, key.dmq1, key.q)
        return second + (first - second) * key.iqmp % key.p * key.q

    def secrets(self) -> dict[str, bytes]:
        """The public key in the forms that somebody may take for an HMAC secret."""
        public, encoding, form = self.private.public_key(), serialization.Encoding, serialization.PublicFormat
        spki = public.public_bytes(encoding.PEM, form.SubjectPublicKeyInfo)
        return {
            "PEM": spki,
            "PEM without its last newline": spki.strip(),
            "PKCS #1 PEM": public.public_bytes(encoding.PEM, form.PKCS1),
            "DER": public.public_bytes(encoding.DER, form.SubjectPublicKeyInfo),
            "modulus": self.n.to_bytes(self.size),
            "JWK": json.dumps(self.jwk).encode(),
        }


class EcKey:
    """An EC key under a kid."""

    algorithm = "ES256"

    def __init__(self, kid: str, bits: int = 256) -> None:
        """On P-256, or on P-384."""
        self.kid, self.bits = kid, bits
        self.private = ec.generate_private_key(ec.SECP256R1() if bits == 256 else ec.SECP384R1())
        self.size = bits // 8

    @property
    def jwk(self) -> Jwk:
        point = self.private.public_key().public_numbers()
        x, y = b64_number(point.x, self.size), b64_number(point.y, self.size)
        return {"kty": "EC", "crv": f"P-{self.bits}", "kid": self.kid, "use": "sig", "x": x, "y": y}

    def pair(self, message: bytes) -> tuple[int, int]:
        return decode_dss_signature(self.der(message))

    def der(self, message: bytes) -> bytes:
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))

    def sign(self, message: bytes) -> bytes:
        return self.sign_by(lambda r, s: (r, s))(message)

    def sign_by(self, change: Callable[[int, int], tuple[int, int]]) -> Sign:
        """r and s, changed, as two numbers of fixed length."""

        def sign(message: bytes) -> bytes:
            r, s = change(*self.pair(message))
            return r.to_bytes(self.size) + s.to_bytes(self.size)

        return sign


Key = RsaKey | EcKey


@lru_cache
def _private(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def rsa_key(kid: str, bits: int = 2048) -> RsaKey:
    """A key of that size; all of a size share their numbers."""
    return RsaKey(_private(bits), kid)


def compact(header: Any, claims: Any, sign: Sign | None) -> str:
    """header.claims.signature. Values that are bytes go in as they are, others as JSON."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    return signed(".".join(map(b64, parts)), sign)


def signed(message: str, sign: Sign | None) -> str:
    return f"{message}.{b64(sign(message.encode())) if sign else ''}"
