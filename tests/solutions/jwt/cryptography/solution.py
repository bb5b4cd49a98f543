"""A correct `jwt` of another design: threads, the standard library's HTTP on both sides, and `cryptography` alone.

The keys are guarded by one condition. It is never held during a fetch: who needs one, begins it in a thread of its own
or waits for the one that runs, and looks again when that has ended.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import threading
import time
from base64 import urlsafe_b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

ENV = os.environ
ISSUER, AUDIENCE, URL = ENV["ISSUER"], ENV["AUDIENCE"], urlsplit(ENV["JWKS_URL"])
LEEWAY, TTL, STALE, COOLDOWN, TIMEOUT = (
    int(ENV[name]) / 1000
    for name in ("LEEWAY_MS", "JWKS_TTL_MS", "JWKS_STALE_MS", "JWKS_COOLDOWN_MS", "JWKS_TIMEOUT_MS")
)
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ANSWERS = {"invalid": 401, "unknown": 503}


class Refused(Exception):
    """By its word: invalid or unknown."""


# -- keys -------------------------------------------------------------------------------------------------------------


def fetch() -> bytes:
    """The body of the key set, within TIMEOUT as a whole and 1 MiB. Raises OSError, ValueError, HTTPException."""
    end = time.monotonic() + TIMEOUT
    connection = http.client.HTTPConnection(URL.hostname or "", URL.port, timeout=TIMEOUT)
    try:
        connection.connect()
        line = connection.sock
        cut = threading.Timer(end - time.monotonic(), lambda: shut(line))
        cut.daemon = True
        cut.start()
        try:
            connection.request("GET", URL.path)
            response = connection.getresponse()
            body = response.read((1 << 20) + 1)
            whole = response.isclosed() or not response.read(1)
        finally:
            cut.cancel()
    finally:
        connection.close()
    if response.status != 200 or not whole or len(body) > 1 << 20 or time.monotonic() > end:
        raise ValueError("no complete 200 in time")
    return body


def shut(line: socket.socket) -> None:
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def load(entry: dict[str, Any]) -> tuple[str, Any]:
    """Algorithm and key. Raises ValueError, TypeError, KeyError for what can't be used."""
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError
    if entry["kty"] == "RSA":
        alg, modulus = "RS256", whole_number(entry["n"])
        if modulus.bit_length() < 2048:
            raise ValueError
        key: Any = rsa.RSAPublicNumbers(whole_number(entry["e"]), modulus).public_key()
    elif (entry["kty"], entry["crv"]) == ("EC", "P-256"):
        alg, curve = "ES256", ec.SECP256R1()
        key = ec.EllipticCurvePublicNumbers(whole_number(entry["x"]), whole_number(entry["y"]), curve).public_key()
    else:
        raise ValueError
    if entry.get("alg", alg) != alg:
        raise ValueError
    return alg, key


def whole_number(text: str) -> int:
    return int.from_bytes(decoded(text))


class Keys:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.known: dict[tuple[str, str], Any] = {}
        self.kids: frozenset[str] = frozenset()
        self.loaded = self.begun = float("-inf")
        self.running = False

    def get(self, kid: str, alg: str) -> Any:
        with self.changed:
            age = time.monotonic() - self.loaded
            if age > TTL + STALE:
                self.update(wait=True)
                if time.monotonic() - self.loaded > TTL + STALE:
                    raise Refused("unknown")
            elif age > TTL:
                self.update(wait=False)
            if kid not in self.kids:
                self.update(wait=True)
            return self.known.get((kid, alg))

    def update(self, wait: bool) -> None:
        """Called with the condition held; it is let go while waiting."""
        if not self.running:
            if time.monotonic() - self.begun < COOLDOWN:
                return
            self.running, self.begun = True, time.monotonic()
            threading.Thread(target=self.run, daemon=True).start()
        began = self.begun
        while wait and self.running and self.begun == began:
            self.changed.wait()

    def run(self) -> None:
        found = None
        try:
            document = json.loads(fetch())
            if isinstance(document, dict) and isinstance(document.get("keys"), list):
                found = document["keys"]
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            print("no key set:", type(error).__name__, flush=True)
        with self.changed:
            if found is not None:
                self.replace(
                    [entry for entry in found if isinstance(entry, dict) and isinstance(entry.get("kid"), str)]
                )
            self.running = False
            self.changed.notify_all()

    def replace(self, entries: list[dict[str, Any]]) -> None:
        known = {}
        for entry in entries:
            try:
                alg, key = load(entry)
            except (ValueError, TypeError, KeyError):
                continue
            known[entry["kid"], alg] = key
        self.known, self.kids = known, frozenset(entry["kid"] for entry in entries)
        self.loaded = time.monotonic()


KEYS = Keys()


# -- tokens -----------------------------------------------------------------------------------------------------------


def decoded(text: str) -> bytes:
    if not isinstance(text, str) or not re.fullmatch("[A-Za-z0-9_-]+", text) or len(text) % 4 == 1:
        raise ValueError("this is no base64url")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def constant(_: str) -> None:
    raise ValueError("this is no JSON")


def valid(token: str) -> dict[str, Any]:
    """The claims. Raises Refused."""
    try:
        head, body, signature = token.split(".")
        header, claims = (json.loads(decoded(part).decode(), parse_constant=constant) for part in (head, body))
        mark = decoded(signature)
    except (ValueError, RecursionError):
        raise Refused("invalid") from None
    if len(token) > int(ENV["MAX_TOKEN_BYTES"]) or not isinstance(header, dict) or not isinstance(claims, dict):
        raise Refused("invalid")
    kid, alg = header.get("kid"), header.get("alg")
    plain = header.get("typ") in ["at+jwt", "application/at+jwt"] and "crit" not in header
    if not plain or alg not in ["RS256", "ES256"] or not isinstance(kid, str):
        raise Refused("invalid")
    key = KEYS.get(kid, alg)
    if key is None or not signed(key, f"{head}.{body}".encode(), mark) or not good(claims):
        raise Refused("invalid")
    return claims


def signed(key: Any, message: bytes, mark: bytes) -> bool:
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(mark, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = int.from_bytes(mark[:32]), int.from_bytes(mark[32:])
            if len(mark) != 64 or not (0 < r < N and 0 < s < N):
                return False
            key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def good(claims: dict[str, Any]) -> bool:
    now, audience = time.time(), claims.get("aud")
    dates = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
    if "exp" not in claims or any(isinstance(date, bool) or not isinstance(date, int | float) for date in dates):
        return False
    texts = all(isinstance(claims.get(name, ""), str) for name in ("client_id", "jti", "sub", "iss"))
    in_time = claims.get("nbf", now) - LEEWAY <= now < claims["exp"] + LEEWAY
    meant = audience == AUDIENCE or (isinstance(audience, list) and AUDIENCE in audience)
    return texts and in_time and meant and claims.get("iss") == ISSUER and bool(claims.get("sub"))


def scope(claims: dict[str, Any]) -> list[str]:
    text = claims.get("scope")
    return text.split(" ") if isinstance(text, str) and re.fullmatch("[!-~]+( [!-~]+)*", text) else []


# -- HTTP -------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing: a request line may carry what nobody should read."""

    def do_GET(self) -> None:
        self.handle_if(self.path.partition("?")[0] == "/me")

    def do_POST(self) -> None:
        self.handle_if(self.path == "/reports")

    def handle_if(self, known: bool) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not known:
            return self.answer(404, {})
        lines = self.headers.get_all("Authorization") or []
        if len(lines) > 1:
            return self.refuse(400, "invalid_request")
        found = re.fullmatch(r"(\S+) *(.*)", lines[0]) if lines else None
        if not found or found[1].lower() != "bearer":
            return self.refuse(401)
        if not re.fullmatch("[A-Za-z0-9._~+/-]+=*", found[2]):
            return self.refuse(400, "invalid_request")
        try:
            claims = valid(found[2])
        except Refused as word:
            status = ANSWERS[str(word)]
            return self.refuse(401, "invalid_token") if status == 401 else self.answer(status, {})
        return self.welcome(claims)

    def welcome(self, claims: dict[str, Any]) -> None:
        granted = scope(claims)
        if self.command == "GET":
            self.answer(200, {"sub": claims["sub"], "client_id": claims.get("client_id"), "scope": granted})
        elif "reports:write" in granted:
            self.answer(201, {"owner": claims["sub"]})
        else:
            self.refuse(403, "insufficient_scope", ', scope="reports:write"')

    def refuse(self, status: int, error: str = "", more: str = "") -> None:
        self.answer(status, {"error": error}, "Bearer" + (f' error="{error}"' if error else "") + more)

    def answer(self, status: int, document: dict[str, Any], challenge: str = "") -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    Server((ENV["HOST"], int(ENV["PORT"])), Handler).serve_forever()
