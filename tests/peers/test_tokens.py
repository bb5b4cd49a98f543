"""Tokens and key sets that the harness mints, as libraries see them that nobody here wrote."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jwk as jose_keys
from joserfc import jwt as jose

from harness.peers.tokens import P256_ORDER, SHA256_INFO, EcKey, b64, compact, rsa_key

CLAIMS = {"sub": "somebody", "exp": int(time.time()) + 86_400}


@pytest.fixture(params=["RSA", "EC"])
def key(request):
    return rsa_key("rsa") if request.param == "RSA" else EcKey("ec")


@pytest.fixture
def token(key) -> str:
    return compact({"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}, CLAIMS, key.sign)


def test_pyjwt_verifies_what_was_minted(key, token):
    found = jwt.PyJWKSet.from_dict({"keys": [key.jwk]})[key.kid]
    assert jwt.decode(token, found.key, algorithms=[key.algorithm]) == CLAIMS
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token[:-20] + "AAAAAAAAAAAAAAAAAAAA", found.key, algorithms=[key.algorithm])


def test_joserfc_verifies_what_was_minted(key, token):
    keys = jose_keys.KeySet.import_key_set({"keys": [key.jwk]})
    assert jose.decode(token, keys, algorithms=[key.algorithm]).claims == CLAIMS


def test_a_block_that_is_made_by_hand_is_the_signature_of_the_library():
    key, message = rsa_key("rsa"), b"some message"
    block = key.sign_block(lambda digest: b"\0\1" + b"\xff" * (key.size - 54) + b"\0" + SHA256_INFO + digest)
    assert block(message) == key.sign(message)
    other = key.sign_block(lambda digest: b"\0\1" + b"\xaa" * (key.size - 54) + b"\0" + SHA256_INFO + digest)
    with pytest.raises(InvalidSignature):
        key.private.public_key().verify(other(message), message, padding.PKCS1v15(), hashes.SHA256())


def test_a_mirrored_signature_is_as_good():
    key = EcKey("ec")
    token = compact({"alg": "ES256"}, CLAIMS, key.sign_by(lambda r, s: (r, P256_ORDER - s)))
    assert jwt.decode(token, jwt.PyJWK(key.jwk, algorithm="ES256").key, algorithms=["ES256"]) == CLAIMS


def test_values_that_are_bytes_go_in_as_they_are():
    head, body, signature = compact(b"\xff", b"no json", None).split(".")
    assert (head, body, signature) == (b64(b"\xff"), b64(b"no json"), "")
    assert json.loads(jwt.utils.base64url_decode(compact({"a": 1}, b"", None).split(".")[0])) == {"a": 1}
