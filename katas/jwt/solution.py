"""An API that decides which access tokens of an identity provider it believes.

web.py and fetch.py are given: one serves HTTP and cancels your handler when its client leaves, the other makes one GET,
told piece by piece, without any limits of its own. `deny()` writes refusals. What is left is the whole of the kata: the
form of a token, its signature, its claims, and the keys.
"""

import asyncio
import json
import os
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from web import Answer, Request, serve


def seconds(name: str, default: int) -> float:
    return int(os.environ.get(name, default)) / 1000


ISSUER, AUDIENCE = os.environ.get("ISSUER", ""), os.environ.get("AUDIENCE", "")
JWKS_URL = os.environ.get("JWKS_URL", "http://127.0.0.1:9000/jwks")
LEEWAY = seconds("LEEWAY_MS", 30_000)
TTL, STALE = seconds("JWKS_TTL_MS", 3_600_000), seconds("JWKS_STALE_MS", 3_600_000)
COOLDOWN, TIMEOUT = seconds("JWKS_COOLDOWN_MS", 10_000), seconds("JWKS_TIMEOUT_MS", 30_000)
MAX_TOKEN_BYTES = int(os.environ.get("MAX_TOKEN_BYTES", 8192))

Claims = dict[str, Any]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Invalid(Exception):
    """The token is not valid, and why. Nothing of the token itself is in the text."""


class Undecidable(Exception):
    """There are no keys to decide with."""


# -- keys ---------------------------------------------------------------------------------------------------------


class KeySet:
    """The keys of the issuer: fetched on first need, and again when they are stale or a kid is not among them.

    One fetch at a time, whoever needs it (K5), and never sooner than COOLDOWN after the last one began.
    """

    async def find(self, kid: str, algorithm: str) -> PublicKey | None:
        """The key for a token (K2), None if there is none. Raises Undecidable."""
        raise NotImplementedError("KeySet.find() in solution.py")

    async def refresh(self) -> None:
        """Fetch JWKS_URL (`async with fetch.get(JWKS_URL) as response`): replace the whole set, or change nothing (K1).

        TIMEOUT is for the fetch as a whole, and a body has an end somewhere.
        """
        raise NotImplementedError("KeySet.refresh() in solution.py")


keys = KeySet()


# -- tokens -------------------------------------------------------------------------------------------------------


def json_object(text: str) -> Claims:
    """A segment of a token: base64url without padding, UTF-8, a JSON object (T1, T2). Raises Invalid."""
    raise NotImplementedError("json_object() in solution.py")


async def verified(token: str) -> Claims:
    """The claims of a token, if it is valid (T1 to T7). Raises Invalid, Undecidable."""
    raise NotImplementedError("verified() in solution.py")


def is_signed(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether the key has signed the message (T4). r and s of ES256 are numbers: 0 < r, s < n."""
    raise NotImplementedError("is_signed() in solution.py")


def check(claims: Claims) -> None:
    """Dates, issuer, audience and subject (T5 to T7). Raises Invalid."""
    raise NotImplementedError("check() in solution.py")


def scopes(claims: Claims) -> list[str]:
    """The scope as a list, in its order; empty if there is none, or it is no text."""
    raise NotImplementedError("scopes() in solution.py")


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
    """The claims of who asks, or the refusal: `request.lines("authorization")` has all lines of that name."""
    raise NotImplementedError("authenticated() in solution.py")


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
