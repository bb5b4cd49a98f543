"""An API that believes the right tokens: form, signature and claims are checked, by keys that come from outside.

What keeps the promise, and where:

- Nothing of a token is used before it is checked. `decode` takes only the one form that is allowed, and the algorithm
  is one of two names; what a header says of keys (jwk, jku, x5u, x5c) is never looked at.
- A key fits a token or it does not: kid, kty, curve, use, key_ops, alg and size are compared when the set is parsed.
- `KeySet.refresh` is the only place that fetches. A fetch is a task of its own: whoever needs it waits for that task,
  so there is one at a time, it survives the request that began it, and nobody holds a lock meanwhile.
- The cooldown counts from the start of a fetch, whatever came of it. A set is replaced as a whole, or not at all.
- A verdict is never remembered.
"""

import asyncio
import base64
import json
import math
import os
import re
import time
from dataclasses import dataclass
from typing import Any

import h11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from fetch import get
from web import Answer, Request, serve


def seconds(name: str, default: int) -> float:
    return int(os.environ.get(name, default)) / 1000


ISSUER, AUDIENCE = os.environ.get("ISSUER", ""), os.environ.get("AUDIENCE", "")
JWKS_URL = os.environ.get("JWKS_URL", "http://127.0.0.1:9000/jwks")
LEEWAY = seconds("LEEWAY_MS", 30_000)
TTL, STALE = seconds("JWKS_TTL_MS", 3_600_000), seconds("JWKS_STALE_MS", 3_600_000)
COOLDOWN, TIMEOUT = seconds("JWKS_COOLDOWN_MS", 10_000), seconds("JWKS_TIMEOUT_MS", 30_000)
MAX_TOKEN_BYTES = int(os.environ.get("MAX_TOKEN_BYTES", 8192))

LARGEST_SET = 1 << 20
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE64URL = re.compile("[A-Za-z0-9_-]+")
B64TOKEN = re.compile("[A-Za-z0-9._~+/-]+=*")
SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")
TYPES = ("at+jwt", "application/at+jwt")

Claims = dict[str, Any]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Invalid(Exception):
    """The token is not valid, and why. Nothing of the token itself is in the text."""


class Undecidable(Exception):
    """There are no keys to decide with."""


# -- keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    kid: str
    algorithm: str
    public: PublicKey


class KeySet:
    """The keys of the issuer: fetched on first need, and again when they are stale or a kid is not among them."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.kids: set[str] = set()  # of all entries, usable or not
        self.fetched_at = self.started_at = -math.inf
        self.running: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> Key | None:
        """The key for a token, None if there is none. Raises Undecidable."""
        age = time.monotonic() - self.fetched_at
        if age > TTL + STALE:
            await self.refreshed()
            if time.monotonic() - self.fetched_at > TTL + STALE:
                raise Undecidable("there is no usable key set")
        elif age > TTL:
            self.refresh()  # the old set serves meanwhile
        if kid not in self.kids:
            await self.refreshed()
        return next((key for key in self.keys if (key.kid, key.algorithm) == (kid, algorithm)), None)

    async def refreshed(self) -> None:
        """Wait for the fetch that is running, or for a new one; not at all if none may begin."""
        if task := self.refresh():
            await asyncio.shield(task)  # whoever leaves takes only itself away

    def refresh(self) -> asyncio.Task[None] | None:
        if self.running is None or self.running.done():
            if time.monotonic() - self.started_at < COOLDOWN:
                return None
            self.started_at = time.monotonic()
            self.running = asyncio.create_task(self._fetch())
        return self.running

    async def _fetch(self) -> None:
        """Replace the whole set, or change nothing."""
        try:
            async with asyncio.timeout(TIMEOUT):
                entries = parse_set(await download())
        except (OSError, ValueError, RecursionError, h11.RemoteProtocolError) as error:
            print(f"the key set could not be fetched: {error}", flush=True)
            return
        self.keys = [key for entry in entries for key in usable(entry)]
        self.kids = {entry["kid"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("kid"), str)}
        self.fetched_at = time.monotonic()


async def download() -> bytes:
    async with get(JWKS_URL) as response:
        if response.status != 200:
            raise ValueError(f"it was answered with {response.status}")
        body = bytearray()
        async for piece in response.pieces():
            body += piece
            if len(body) > LARGEST_SET:
                raise ValueError("it is too long")
        return bytes(body)


def parse_set(body: bytes) -> list[Any]:
    document = json.loads(body)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("it is no JWK Set")
    entries: list[Any] = document["keys"]
    return entries


def usable(entry: Any) -> list[Key]:
    """The key of an entry, if it can be used to verify. Others are skipped one by one."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return []
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return []
    try:
        algorithm, public = public_key(entry)
    except (ValueError, TypeError, KeyError):
        return []
    return [Key(entry["kid"], algorithm, public)] if entry.get("alg", algorithm) == algorithm else []


def public_key(entry: dict[str, Any]) -> tuple[str, PublicKey]:
    if entry.get("kty") == "RSA":
        modulus = number(entry["n"])
        if modulus.bit_length() < 2048:
            raise ValueError("an RSA key has 2048 bits or more")
        return "RS256", rsa.RSAPublicNumbers(number(entry["e"]), modulus).public_key()
    if entry.get("kty") == "EC" and entry.get("crv") == "P-256":
        curve = ec.SECP256R1()
        return "ES256", ec.EllipticCurvePublicNumbers(number(entry["x"]), number(entry["y"]), curve).public_key()
    raise ValueError("this is no kind of key that is used here")


def number(text: Any) -> int:
    if not isinstance(text, str):
        raise ValueError("a number is written in base64url")
    return int.from_bytes(unpadded(text))


keys = KeySet()


# -- tokens -------------------------------------------------------------------------------------------------------


def unpadded(text: str) -> bytes:
    """base64url as RFC 7515 has it: no padding, no other alphabet."""
    if not BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("this is no base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def json_object(text: str) -> Claims:
    """An object, as UTF-8 and nothing else. Raises Invalid."""
    try:
        value = json.loads(unpadded(text).decode(), parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise Invalid("a segment is no JSON in base64url") from None
    if not isinstance(value, dict):
        raise Invalid("a segment is no JSON object")
    return value


async def verified(token: str) -> Claims:
    """The claims of a valid token. Raises Invalid, Undecidable."""
    if len(token) > MAX_TOKEN_BYTES:
        raise Invalid("the token is too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise Invalid("a signed JWT has three segments")
    header, claims = json_object(parts[0]), json_object(parts[1])
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ("RS256", "ES256") or not isinstance(kid, str):
        raise Invalid("alg is RS256 or ES256, and kid names a key")
    if header.get("typ") not in TYPES or "crit" in header:
        raise Invalid("this is no plain access token")
    try:
        signature = unpadded(parts[2])
    except ValueError:
        raise Invalid("the signature is no base64url") from None
    key = await keys.find(kid, algorithm)
    if key is None or not is_signed(key, f"{parts[0]}.{parts[1]}".encode(), signature):
        raise Invalid("no key of the issuer has signed this")
    check(claims)
    return claims


def is_signed(key: Key, message: bytes, signature: bytes) -> bool:
    try:
        if isinstance(key.public, rsa.RSAPublicKey):
            key.public.verify(signature, message, padding.PKCS1v15(), SHA256())
            return True
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        if len(signature) != 64 or not (0 < r < P256_ORDER and 0 < s < P256_ORDER):
            return False
        key.public.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))
        return True
    except InvalidSignature:
        return False


def check(claims: Claims) -> None:
    """Raises Invalid."""
    now = time.time()
    dates = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    if "exp" not in dates or not all(type(date) in (int, float) for date in dates.values()):
        raise Invalid("exp is needed, and dates are numbers")
    if now >= dates["exp"] + LEEWAY or now < dates.get("nbf", now) - LEEWAY:
        raise Invalid("the token is expired, or not valid yet")
    audience = claims.get("aud")
    meant = audience == AUDIENCE or (isinstance(audience, list) and AUDIENCE in audience)
    if claims.get("iss") != ISSUER or not meant:
        raise Invalid("the token is somebody else's, or meant for somebody else")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise Invalid("a token has a subject")
    if not all(isinstance(claims.get(name, ""), str) for name in ("client_id", "jti")):
        raise Invalid("client_id and jti are strings")


def scopes(claims: Claims) -> list[str]:
    scope = claims.get("scope")
    return scope.split(" ") if isinstance(scope, str) and SCOPE.fullmatch(scope) else []


# -- answers ------------------------------------------------------------------------------------------------------


def deny(status: int, error: str = "", **more: str) -> Answer:
    """A refusal with one challenge (RFC 6750, 3)."""
    parameters = ", ".join(f'{name}="{value}"' for name, value in ({"error": error} | more).items() if value)
    return Answer(
        status, b"{}", {"Content-Type": "application/json", "WWW-Authenticate": f"Bearer {parameters}".strip()}
    )


def reply(status: int, document: dict[str, Any]) -> Answer:
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


async def authenticated(request: Request) -> Claims | Answer:
    """The claims of who asks, or the refusal."""
    lines = request.lines("authorization")
    if len(lines) > 1:
        return deny(400, "invalid_request")
    scheme, _, token = (lines or [""])[0].partition(" ")
    if scheme.lower() != "bearer":
        return deny(401)
    token = token.strip(" ")
    if not B64TOKEN.fullmatch(token):
        return deny(400, "invalid_request")
    try:
        return await verified(token)
    except Invalid as why:
        return deny(401, "invalid_token", error_description=str(why))
    except Undecidable as why:
        return reply(503, {"title": str(why)})


async def handle(request: Request) -> Answer:
    path = request.path.partition("?")[0]
    if (request.method, path) not in (("GET", "/me"), ("POST", "/reports")):
        return reply(404, {"title": "there is no such endpoint"})
    claims = await authenticated(request)
    if isinstance(claims, Answer):
        return claims
    if path == "/me":
        known = {"sub": claims["sub"], "client_id": claims.get("client_id"), "scope": scopes(claims)}
        return reply(200, known)
    if "reports:write" not in scopes(claims):
        return deny(403, "insufficient_scope", scope="reports:write")
    return reply(201, {"owner": claims["sub"]})


if __name__ == "__main__":
    asyncio.run(serve(handle, os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))))
