"""A correct `jwt` of another design: Starlette, httpx, and PyJWT for signatures. What it does not check is added.

The key set is an immutable value that is swapped in one assignment; whoever needs a newer one awaits a shared future.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from base64 import urlsafe_b64decode
from typing import Any

import httpx
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ENV = os.environ
LEEWAY, TTL, STALE, COOLDOWN, TIMEOUT = (
    int(ENV[name]) / 1000
    for name in ("LEEWAY_MS", "JWKS_TTL_MS", "JWKS_STALE_MS", "JWKS_COOLDOWN_MS", "JWKS_TIMEOUT_MS")
)
LONGEST, LARGEST = int(ENV["MAX_TOKEN_BYTES"]), 1 << 20
KINDS = {"RS256": ("RSA", None), "ES256": ("EC", "P-256")}
SIGNATURES = jwt.PyJWS(algorithms=list(KINDS))


class Invalid(Exception):
    pass


class Unknown(Exception):
    """No key set that could be used."""


class Keys:
    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Any] = {}
        self.kids: set[str] = set()
        self.loaded = self.asked = float("-inf")
        self.flight: asyncio.Future[None] | None = None

    def age(self) -> float:
        return time.monotonic() - self.loaded

    async def get(self, kid: str, alg: str) -> Any:
        if self.age() > TTL:
            await self.update()
        if self.age() > TTL + STALE:
            raise Unknown
        if kid not in self.kids:
            await self.update()
        return self.known.get((kid, alg))

    async def update(self) -> None:
        if self.flight is None:
            if time.monotonic() - self.asked < COOLDOWN:
                return
            self.asked = time.monotonic()
            self.flight = asyncio.ensure_future(self.load())
        await asyncio.shield(self.flight)

    async def load(self) -> None:
        try:
            entries = await asyncio.wait_for(self.download(), TIMEOUT)
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError, KeyError, TypeError) as error:
            print("no key set:", type(error).__name__, flush=True)
        else:
            found = [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("kid"), str)]
            self.kids = {entry["kid"] for entry in found}
            self.known = {(entry["kid"], alg): key for entry in found for alg, key in loaded(entry)}
            self.loaded = time.monotonic()
        finally:
            self.flight = None

    async def download(self) -> list[Any]:
        body = bytearray()
        async with httpx.AsyncClient(timeout=None) as client, client.stream("GET", ENV["JWKS_URL"]) as response:
            if response.status_code != 200:
                raise ValueError(response.status_code)
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > LARGEST:
                    raise ValueError("too long")
        entries = json.loads(body)["keys"]
        if not isinstance(entries, list):
            raise ValueError("no keys")
        return entries


def loaded(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    for alg, (kty, curve) in KINDS.items():
        fits = entry.get("kty") == kty and entry.get("crv") == curve and entry.get("alg", alg) == alg
        if fits and entry.get("use", "sig") == "sig" and "verify" in entry.get("key_ops", ["verify"]):
            try:
                key = jwt.PyJWK(entry, algorithm=alg).key
            except (jwt.PyJWTError, ValueError, TypeError):
                continue
            if kty == "EC" or key.key_size >= 2048:
                return [(alg, key)]
    return []


KEYS = Keys()


def segment(text: str) -> bytes:
    if not re.fullmatch("[A-Za-z0-9_-]+", text) or len(text) % 4 == 1:
        raise Invalid("base64url")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def constant(_: str) -> None:
    raise ValueError


def members(text: str) -> dict[str, Any]:
    try:
        value = json.loads(segment(text).decode("utf-8"), parse_constant=constant)
    except (ValueError, RecursionError):
        raise Invalid("json") from None
    if not isinstance(value, dict):
        raise Invalid("object")
    return value


async def verify(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(token) > LONGEST or len(parts) != 3:
        raise Invalid("form")
    head, claims = members(parts[0]), members(parts[1])
    segment(parts[2])
    if head.get("typ") not in ["at+jwt", "application/at+jwt"] or "crit" in head:
        raise Invalid("header")
    if head.get("alg") not in list(KINDS) or not isinstance(head.get("kid"), str):
        raise Invalid("key")
    key = await KEYS.get(head["kid"], head["alg"])
    try:
        if key is None:
            raise Invalid("key")
        SIGNATURES.decode(token, key, algorithms=[head["alg"]])
    except jwt.PyJWTError:
        raise Invalid("signature") from None
    check(claims)
    return claims


def check(claims: dict[str, Any]) -> None:
    now = time.time()
    for name in ("exp", "nbf", "iat"):
        if type(claims.get(name, 0)) not in (int, float):
            raise Invalid(name)
    if "exp" not in claims or now >= claims["exp"] + LEEWAY or now < claims.get("nbf", 0) - LEEWAY:
        raise Invalid("time")
    audience = claims.get("aud")
    if audience != ENV["AUDIENCE"] and not (isinstance(audience, list) and ENV["AUDIENCE"] in audience):
        raise Invalid("audience")
    if claims.get("iss") != ENV["ISSUER"] or not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise Invalid("issuer or subject")
    if any(not isinstance(claims.get(name, ""), str) for name in ("client_id", "jti")):
        raise Invalid("type")


def refuse(status: int, error: str = "", more: str = "") -> JSONResponse:
    value = "Bearer" + (f' realm="api", error="{error}"' if error else "") + more
    return JSONResponse({"error": error}, status, {"WWW-Authenticate": value})


def words(claims: dict[str, Any]) -> list[str]:
    scope = claims.get("scope")
    return scope.split(" ") if isinstance(scope, str) and re.fullmatch(r"[!-~]+( [!-~]+)*", scope) else []


async def who(request: Request) -> dict[str, Any] | JSONResponse:
    lines = request.headers.getlist("authorization")
    if len(lines) > 1:
        return refuse(400, "invalid_request")
    found = re.fullmatch(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)", lines[0]) if lines else None
    if not found:
        return refuse(400, "invalid_request") if lines and re.match("(?i)bearer( |$)", lines[0]) else refuse(401)
    try:
        return await verify(found[1])
    except Invalid:
        return refuse(401, "invalid_token")
    except Unknown:
        return JSONResponse({"error": "no keys"}, 503)


async def me(request: Request) -> Response:
    claims = await who(request)
    if isinstance(claims, JSONResponse):
        return claims
    document = {"sub": claims["sub"], "client_id": claims.get("client_id"), "scope": words(claims)}
    return Response(json.dumps(document), media_type="application/json")  # escapes what has no UTF-8 form


async def reports(request: Request) -> Response:
    claims = await who(request)
    if isinstance(claims, JSONResponse):
        return claims
    if "reports:write" not in words(claims):
        return refuse(403, "insufficient_scope", ', scope="reports:write"')
    return Response(json.dumps({"owner": claims["sub"]}), 201, media_type="application/json")


APP = Starlette(routes=[Route("/me", me), Route("/reports", reports, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(APP, host=ENV["HOST"], port=int(ENV["PORT"]), http="h11", access_log=False, log_level="warning")
