"""What an API owes the tokens that it is handed: the behaviours of the kata `jwt`.

The harness is every client and the identity provider: it mints all tokens, holds all private keys, and counts and holds
the fetches of the key set. A token is refused "for a reason" only where its undamaged twin is accepted beside it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.identity_provider import IdentityProvider
from harness.peers.tokens import P256_ORDER, SHA256_INFO, EcKey, Key, Sign, b64, compact, rsa_key, signed
from harness.solution.program import Solution
from harness.verdicts import NotReached
from harness.wire.http1 import Client, Headers, Incoming, Request, Response

PEERS = [IdentityProvider]
ISSUER, AUDIENCE = "https://issuer.test/tenant-7", "https://api.test/v1"  # as kata.toml has them
LEEWAY = 30  # seconds
TTL = 30  # ms
EXACT = {"LEEWAY_MS": 0}
STALE_SOON = {"JWKS_TTL_MS": TTL}
MORTAL = {"JWKS_TTL_MS": TTL, "JWKS_STALE_MS": 20}
TIMEOUT, LONGER = 50, (400, 1600)  # ms; the longer ones are for a slow machine
HASTY = {"JWKS_TIMEOUT_MS": TIMEOUT}
CALM = {"JWKS_COOLDOWN_MS": 3_600_000}
RECOVERING = {"JWKS_COOLDOWN_MS": 10}
MIB = 1 << 20
LONG_KID, ROUND, ROUNDS = 5000, 40, 22  # characters of a kid, kids in a round, rounds
AUTH_PARAM = r'[\w-]+ *= *(?:"(?:[^"\\]|\\.)*"|[^\s",]+)'  # RFC 9110, 11.2
CHALLENGE = re.compile(f"Bearer(?: +(?P<parameters>{AUTH_PARAM}(?: *, *{AUTH_PARAM})*))?")
PARAMETER = re.compile(r'([\w-]+) *= *(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')
ACCESS_TOKENS = rfc(9068, "4", "Validating JWT Access Tokens")
PRACTICE = "https://www.rfc-editor.org/rfc/rfc8725"


def practice(section: str, title: str, more: str = "") -> Source:
    """A section of JSON Web Token Best Current Practices."""
    return Source(f"{more}RFC 8725 §{section} {title}", f"{PRACTICE}#section-{section}")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Api:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, issuer: IdentityProvider, chance: random.Random) -> None:
        self.solution, self.issuer, self.chance = solution, issuer, chance
        self.sub, self.client = f"user-{self.word()}", f"app-{self.word()}"
        self.signatures: list[str] = []
        self._requests = 0

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))

    # -- tokens -------------------------------------------------------------------------------------------------

    def header(self, key: Key, **changed: Any) -> dict[str, Any]:
        return without_none({"typ": "at+jwt", "alg": key.algorithm, "kid": key.kid} | changed)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims, some of them changed; those that are None are left out."""
        now = int(waiting.unix_time())
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": self.sub, "client_id": self.client, "iat": now, "exp": now + 600}
        return without_none(good | changed)

    def token(self, key: Key | None = None, head: dict[str, Any] | None = None, **changed: Any) -> str:
        """A token of the issuer, good but for what was `changed` in its claims or in its `head`."""
        key = key or self.issuer.ec
        return compact(self.header(key, **(head or {})), self.claims(**changed), key.sign)

    # -- requests -----------------------------------------------------------------------------------------------

    def send(self, told: str, headers: Headers, method: str = "GET", target: str = "/me") -> Request:
        """A request without waiting for its answer; `told` is what the story says of it."""
        self._requests += 1
        self.solution.record.note("client", f"#{self._requests}: {told}")
        for _, value in headers:
            self.signatures += [part for part in value.split(".")[2:3] if len(part) > 20]
        return Request(self.solution, "client", method, target, headers, number=self._requests)

    def ask(self, told: str, token: str, target: str = "/me") -> Request:
        return self.send(told, bearer(token), "POST" if target == "/reports" else "GET", target)

    def get(self, told: str, token: str, target: str = "/me") -> Response:
        return self.ask(told, token, target).response()

    def accepted(self, told: str, token: str) -> dict[str, Any]:
        """What /me says to a token that is valid."""
        reply = self.get(told, token)
        assert reply.status == 200, f"{told}: this token is valid, 200 is owed, and came {reply}"
        document = reply.json()
        assert isinstance(document, dict), "the body of a 200 is an object"
        assert document.get("sub") == self.sub, f"/me tells the subject of the token, {self.sub}, and came {reply}"
        return document

    def works(self) -> None:
        """A good token is accepted: the API lives, and a refusal had a reason."""
        self.accepted("a good token", self.token())

    def refused(self, told: str, token: str) -> None:
        """401 with error="invalid_token"."""
        self.assert_refused(told, self.get(told, token))

    def assert_refused(self, told: str, reply: Response) -> None:
        assert reply.status == 401, f"{told}: this token is not valid, 401 is owed, and came {reply}"
        assert challenge(reply).get("error") == "invalid_token", f'{told}: error="invalid_token" is owed with the 401'

    def all_refused(self, tokens: Iterable[tuple[str, str]]) -> None:
        """Each of these, with its name, is refused; and a good one is not."""
        for told, token in tokens:
            self.refused(told, token)
        self.works()

    def unfetched(self, before: int) -> None:
        """No fetch has begun since."""
        self.solution.settled()
        more = len(self.issuer.fetches) - before
        assert not more, f"nothing here is worth a fetch of the key set, and there were {more}"


def without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


def challenge(reply: Response) -> dict[str, str]:
    """The parameters of the one challenge that a refusal carries (RFC 6750, 3)."""
    lines = [value for name, value in reply.headers if name == "www-authenticate"]
    assert len(lines) == 1, f"a {reply.status} carries one WWW-Authenticate, and came {lines}"
    found = CHALLENGE.fullmatch(lines[0].strip())
    assert found, f"this is no challenge with the scheme Bearer: {lines[0]!r}"
    return {name: quoted or plain for name, quoted, plain in PARAMETER.findall(found["parameters"] or "")}


@pytest.fixture
def issuer(solution: Solution) -> IdentityProvider:
    return solution.peer(IdentityProvider)


@pytest.fixture
def api(solution: Solution, issuer: IdentityProvider, chance: random.Random) -> Iterator[Api]:
    api = Api(solution, issuer, chance)
    yield api
    lured = issuer.lured
    solution.leave_tripwire(lambda: issuer.lured > lured, "an address out of a token was called after all was over")


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=rfc(9068, "2.2", "Data Structure"))
def test_valid_token_accepted(api: Api, issuer: IdentityProvider) -> None:
    """A good RS256 and a good ES256 token open /me, and their claims come back."""
    for key in (issuer.rsa, issuer.ec):
        scope = [api.word(), api.word(), "reports:read"]
        document = api.accepted(f"a good {key.algorithm} token", api.token(key, scope=" ".join(scope)))
        assert document.get("client_id") == api.client, f"client_id is {api.client}, and came {document}"
        assert document.get("scope") == scope, f"scope is {scope}, in this order, and came {document}"
    bare = api.accepted("a token without scope and client_id", api.token(client_id=None))
    assert (bare.get("client_id"), bare.get("scope")) == (None, []), f"null and [] are owed, and came {bare}"
    api.accepted("typ application/at+jwt", api.token(head={"typ": "application/at+jwt"}))


@behaviour(stage=1, source=rfc(6750, "3", "The WWW-Authenticate Response Header Field"), needs="valid_token_accepted")
def test_no_credentials_plain_401(api: Api) -> None:
    """Without a token the challenge says Bearer, and no error."""
    for told, headers in [("no Authorization", []), ("scheme Basic", [("Authorization", "Basic dTpw")])]:
        reply = api.send(told, headers).response()
        assert reply.status == 401, f"{told}: 401 is owed, and came {reply}"
        assert "error" not in challenge(reply), f"{told}: nobody has tried a token yet, so there is no error to tell"
    api.works()


@behaviour(stage=1, source=rfc(7515, "5.2", "Message Signature or MAC Validation"), needs="valid_token_accepted")
def test_tampered_token_refused(api: Api, issuer: IdentityProvider) -> None:
    """Changed claims, a changed signature, a stranger's signature, none, and 1, 2 or 4 segments are refused."""
    good = api.token(issuer.rsa)
    head, body, signature = good.split(".")
    other = b64(json.dumps(api.claims(sub="admin")).encode())
    stranger = EcKey("ec-1")
    flipped = ("B" if signature[9] == "A" else "A").join([signature[:9], signature[10:]])
    api.all_refused(
        [
            ("changed claims", f"{head}.{other}.{signature}"),
            ("a changed signature", f"{head}.{body}.{flipped}"),
            ("a stranger's signature", api.token(stranger)),
            ("an empty signature", f"{head}.{body}."),
            ("one segment", head),
            ("two segments", f"{head}.{body}"),
            ("four segments", f"{good}.{signature}"),
        ]
    )
    api.accepted("the token as it was", good)


@behaviour(stage=1, source=rfc(7519, "4.1.4", '"exp" (Expiration Time) Claim'), needs="valid_token_accepted")
def test_time_window(api: Api) -> None:
    """Tokens that are expired, not valid yet, or without an end are refused."""
    now = int(waiting.unix_time())
    api.all_refused(
        [
            ("expired 100 s ago", api.token(exp=now - 100)),
            ("without exp", api.token(exp=None)),
            ("valid in 100 s", api.token(nbf=now + 100)),
        ]
    )
    api.accepted("valid for 100 s already", api.token(nbf=now - 100))


@behaviour(stage=1, source=rfc(7519, "4.1.1", '"iss" (Issuer) Claim'), needs="valid_token_accepted")
@incident(
    "PyJWT 2.10.0 looked whether the issuer was contained in the one that was expected, so a part of it was "
    "enough (CVE-2024-53861, jpadilla/pyjwt#1020)."
)
def test_issuer_exact(api: Api) -> None:
    """The issuer is compared byte for byte."""
    near = [ISSUER + "/", ISSUER[:-1], ISSUER[8:], ISSUER + "0", ISSUER.upper(), "https://ISSUER.test/tenant-7", ""]
    api.all_refused([(f"iss {iss!r}", api.token(iss=iss)) for iss in near] + [("without iss", api.token(iss=None))])


@behaviour(stage=1, source=rfc(7519, "4.1.3", '"aud" (Audience) Claim'), needs="valid_token_accepted")
def test_audience_member(api: Api) -> None:
    """The audience alone, or anywhere in an array, is accepted; anything near it is refused."""
    for aud in ([AUDIENCE], ["x", AUDIENCE], [AUDIENCE, "https://other.test"]):
        api.accepted(f"aud {aud}", api.token(aud=aud))
    wrong = [[], "", AUDIENCE + "/admin", AUDIENCE[:-1], "https://other.test", ["https://other.test"], [AUDIENCE + "0"]]
    api.all_refused([(f"aud {aud!r}", api.token(aud=aud)) for aud in wrong] + [("without aud", api.token(aud=None))])


@behaviour(stage=1, source=rfc(6750, "3.1", "Error Codes"), needs="valid_token_accepted")
def test_scope_gate(api: Api) -> None:
    """/reports is 201 with the scope, 403 naming it without, and 401 for a bad token; similar names do not count."""
    for scope in ("reports:write", "a reports:write b"):
        reply = api.get(f"scope {scope!r}", api.token(scope=scope), "/reports")
        assert reply.status == 201, f"scope {scope!r} is enough: 201 is owed, and came {reply}"
        assert reply.json().get("owner") == api.sub, f"the owner is {api.sub}, and came {reply}"
    for lacking in (None, "", "reports:write-all", "xreports:write", "Reports:Write", "reports"):
        reply = api.get(f"scope {lacking!r}", api.token(scope=lacking), "/reports")
        assert reply.status == 403, f"scope {lacking!r} is not enough: 403 is owed, and came {reply}"
        told = challenge(reply)
        assert told.get("error") == "insufficient_scope", f"the 403 says insufficient_scope, and came {told}"
        assert told.get("scope") == "reports:write", f"the 403 names the scope that it takes, and came {told}"
    expired = api.token(exp=int(waiting.unix_time()) - 100)
    api.assert_refused("an expired token without the scope", api.get("expired, no scope", expired, "/reports"))


@behaviour(stage=1, points=3, source=practice("3.1", "Perform Algorithm Verification"), needs="valid_token_accepted")
@hints(
    "Who decides how a token is verified: you, or the token?",
    "A list of what is forbidden is never complete.",
    "Compare `alg` with the two names that you allow, exactly, before you look at anything else.",
)
@incident("In 2015 many JWT libraries were found to believe a token that said of itself that it was not signed.")
def test_alg_none_refused(api: Api, issuer: IdentityProvider) -> None:
    """A token without a signature is refused, however it spells `none`."""
    spellings: list[Any] = ["none", "None", "NONE", "nOnE", "", None, ["RS256"], "rs256", "ES256 "]
    tokens = []
    for alg in spellings:
        header = api.header(issuer.rsa) | {"alg": alg}
        tokens += [(f"alg {alg!r}, no signature", compact(header, api.claims(), None))]
        tokens += [(f"alg {alg!r}, some signature", compact(header, api.claims(), lambda _: b"signed"))]
    header = api.header(issuer.rsa)
    del header["alg"]
    api.all_refused([*tokens, ("no alg at all", compact(header, api.claims(), None))])


# -- stage 2: attacks -----------------------------------------------------------------------------------------------


@behaviour(
    stage=2,
    hidden=True,
    points=3,
    source=practice("3.1", "Perform Algorithm Verification", "CVE-2022-29217; "),
    needs="valid_token_accepted",
)
@incident(
    "PyJWT believed tokens whose HMAC was keyed with the public key, which everybody has (CVE-2022-29217), and "
    "years later the same class of mistake was back (CVE-2026-48526)."
)
def test_hmac_confusion_refused(api: Api, issuer: IdentityProvider) -> None:
    """HS256 keyed with the public key in any of its forms, or with an oct key out of the set, is refused."""

    def by(secret: bytes) -> Sign:
        return lambda message: hmac.new(secret, message, hashlib.sha256).digest()

    header, secret = api.header(issuer.rsa, alg="HS256"), b"sixteen or more bytes of secret"
    oct_key = {"kty": "oct", "kid": "oct-1", "alg": "HS256", "k": b64(secret)}
    issuer.publish(oct_key, issuer.rsa, issuer.ec, EcKey(api.word()))
    tokens = [
        (f"HS256 by the {form}", compact(header, api.claims(), by(key))) for form, key in issuer.rsa.secrets().items()
    ]
    tokens += [("HS256 by an oct key of the set", compact(header | {"kid": "oct-1"}, api.claims(), by(secret)))]
    api.all_refused(tokens)


@behaviour(
    stage=2,
    hidden=True,
    points=3,
    source=rfc(7515, "4.1.3", '"jwk" (JSON Web Key) Header Parameter'),
    needs="tampered_token_refused",
)
@incident("node-jose verified a token with the key that the token itself brought along (CVE-2018-0114).")
def test_header_keys_ignored(api: Api, issuer: IdentityProvider) -> None:
    """A stranger who brings the key along in the header is refused, and nobody calls the addresses in it."""
    tokens = []
    for kid in ("ec-1", api.word()):
        stranger = EcKey(kid)
        for name, value in {
            "jwk": stranger.jwk,
            "jku": issuer.decoy_url,
            "x5u": issuer.decoy_url,
            "x5c": [base64.b64encode(stranger.der(b"x")).decode()],
        }.items():
            tokens += [(f"a stranger's key as {name}", api.token(stranger, head={name: value}))]
    api.all_refused(tokens)
    api.solution.settled()
    assert not issuer.lured, "an address out of a token's header was called"
    api.accepted("a good token with a jku", api.token(head={"jku": issuer.decoy_url}))


def damaged_es256(key: EcKey) -> dict[str, Sign]:
    """Ways to damage an ES256 signature."""
    n = P256_ORDER
    fixed: dict[str, Callable[[int, int], tuple[int, int]]] = {
        "r = 0": lambda r, s: (0, s),
        "s = 0": lambda r, s: (r, 0),
        "r = s = 0": lambda r, s: (0, 0),
        "r = n": lambda r, s: (n, s),
        "s = n": lambda r, s: (r, n),
        "r = 1, s = 1": lambda r, s: (1, 1),
        "r and s swapped": lambda r, s: (s, r),
    }
    ways = {name: key.sign_by(change) for name, change in fixed.items()}
    return ways | {
        "DER": key.der,
        "63 bytes": lambda message: key.sign(message)[:63],
        "65 bytes": lambda message: key.sign(message) + b"\0",
        "a zero before": lambda message: b"\0" + key.sign(message),
        "twice": lambda message: key.sign(message) * 2,
        "64 zero bytes": lambda message: bytes(64),
    }


@behaviour(
    stage=2,
    hidden=True,
    points=5,
    source=Source("RFC 7518 §3.3, §3.4; CVE-2022-21449", "https://www.rfc-editor.org/rfc/rfc7518#section-3.4"),
    needs="tampered_token_refused",
)
@incident("Java 15 to 18 took an ECDSA signature made of zeros for a good one (CVE-2022-21449).")
def test_signature_vectors(api: Api, issuer: IdentityProvider) -> None:
    """Damaged signatures of both algorithms are refused, and their undamaged twins accepted."""
    key, rsa = issuer.ec, issuer.rsa
    tokens = [
        (f"ES256, {way}", compact(api.header(key), api.claims(), sign)) for way, sign in damaged_es256(key).items()
    ]
    size = rsa.size

    def block(info: bytes, fill: bytes = b"\xff", start: bytes = b"\0\1") -> Callable[[bytes], bytes]:
        return lambda digest: start + fill * (size - 3 - len(info) - len(digest)) + b"\0" + info + digest

    def short(digest: bytes) -> bytes:
        """Bleichenbacher's form of 2006: short padding, and garbage behind the digest."""
        return (b"\0\1" + b"\xff" * 8 + b"\0" + SHA256_INFO + digest).ljust(size, b"\0")

    without_null = bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20"
    ways: dict[str, Sign] = {
        "block type 2": rsa.sign_block(block(SHA256_INFO, start=b"\0\2")),
        "padded with other bytes": rsa.sign_block(block(SHA256_INFO, b"\xaa")),
        "short padding": rsa.sign_block(short),
        "DigestInfo without NULL": rsa.sign_block(block(without_null)),
        "no DigestInfo": rsa.sign_block(block(b"")),
        "SHA-512": rsa.sign_sha512,
        "PSS": rsa.sign_pss,
        "a byte too few": lambda message: rsa.sign(message)[:-1],
        "a byte too many": lambda message: b"\0" + rsa.sign(message),
        "empty": lambda message: b"",
        "zero": lambda message: bytes(size),
    }
    tokens += [(f"RS256, {way}", compact(api.header(rsa), api.claims(), sign)) for way, sign in ways.items()]
    crossed = [
        ("ES256 said, RS256 signed", compact(api.header(key), api.claims(), rsa.sign)),
        ("RS256 said, ES256 signed", compact(api.header(rsa), api.claims(), key.sign)),
        ("ES256 with the kid of an RSA key", api.token(EcKey("rsa-1"))),
        ("PS256", compact(api.header(rsa, alg="PS256"), api.claims(), ways["PSS"])),
    ]
    api.all_refused([*tokens, *crossed])
    mirrored = key.sign_by(lambda r, s: (r, P256_ORDER - s))
    api.accepted("ES256, s mirrored at n, which is as good", compact(api.header(key), api.claims(), mirrored))
    whole = rsa.sign_block(block(SHA256_INFO))
    api.accepted("RS256, made by hand", compact(api.header(rsa), api.claims(), whole))


@behaviour(stage=2, hidden=True, points=3, source=rfc(9068, "2.1", "Header"), needs="valid_token_accepted")
@hints(
    "Who else gets tokens of this issuer, signed with the same key?",
    "An ID token carries the same issuer and a valid signature.",
    "Require the header's `typ` to be at+jwt or application/at+jwt before anything else.",
)
@incident(
    "Put in this kata's place, PyJWT takes an ID token for an access token unless the program checks `typ` "
    "itself; in Authlib 1.9 a token without `typ` passes."
)
def test_typ_checked(api: Api) -> None:
    """Only access tokens pass: an ID token, a token without a type, and other types are refused."""
    types = ["JWT", None, "id+jwt", "dpop+jwt", "at", 7, ["at+jwt"], "application/jwt", ""]
    api.all_refused([(f"typ {typ!r}", api.token(head={"typ": typ})) for typ in types])


@behaviour(stage=2, hidden=True, source=rfc(7515, "4.1.11", '"crit" (Critical) Header Parameter'), needs="typ_checked")
@incident(
    "PyJWT before 2.12.0 ignored `crit`: it accepted tokens that demand what it did not understand "
    "(GHSA-752w-5fwx-jx9f)."
)
def test_only_plain_signed_jwt(api: Api, issuer: IdentityProvider) -> None:
    """Unknown critical extensions, encrypted and nested tokens, and the JSON serialization are refused."""
    good = api.token()
    head, body, signature = good.split(".")
    key = issuer.ec
    nested = compact(api.header(key, cty="JWT"), good.encode(), key.sign)
    api.all_refused(
        [
            ("crit with a name", api.token(head={"crit": ["exp"], "exp": 1})),
            ("crit with an unknown name", api.token(head={"crit": ["urn:x"], "urn:x": True})),
            ("crit that is a text", api.token(head={"crit": "b64"})),
            ("five segments", f"{head}.{body}.{signature}.{body}.{signature}"),
            ("a token in a token", nested),
        ]
    )
    flattened = json.dumps({"protected": head, "payload": body, "signature": signature}, separators=(",", ":"))
    reply = api.get("the JSON serialization", flattened)
    assert reply.status in (400, 401), (
        f"the JSON serialization is no bearer token: 400 or 401 is owed, and came {reply}"
    )


@behaviour(stage=2, hidden=True, source=rfc(7515, "2", "Terminology"), needs="tampered_token_refused")
@incident("Put in this kata's place, PyJWT and jose for Node accept segments with padding, which RFC 7515 rules out.")
def test_base64url_strict(api: Api, issuer: IdentityProvider) -> None:
    """Padding, the other alphabet, blanks and impossible lengths are refused in every segment."""
    key = issuer.ec
    claims = api.claims(note="~~~???>>>")  # its base64 has + or /
    head, body = (b64(json.dumps(part).encode()) for part in (api.header(key, note="??>"), claims))

    def padded(text: str) -> str:
        return text + "=" * (-len(text) % 4 or 4)

    def other(text: str) -> str:
        return text.replace("-", "+").replace("_", "/")

    tokens = [
        ("padding behind the header", signed(f"{padded(head)}.{body}", key.sign)),
        ("padding behind the claims", signed(f"{head}.{padded(body)}", key.sign)),
        ("padding behind the signature", signed(f"{head}.{body}", key.sign) + "=="),
        ("one character too many", signed(f"{head}.{body}", key.sign) + "AAA"),
    ]
    if other(body) != body:
        tokens += [("the alphabet of base64 in the claims", signed(f"{head}.{other(body)}", key.sign))]
    for told, token in tokens:
        reply = api.get(told, token)
        assert reply.status in (400, 401), f"{told}: 400 or 401 is owed, and came {reply}"
    while not {"-", "_"} & set((good := signed(f"{head}.{body}", key.sign)).split(".")[2]):
        continue
    main, signature = good.rsplit(".", 1)
    told = "the alphabet of base64 in the signature"
    reply = api.get(told, f"{main}.{other(signature)}")
    assert reply.status in (400, 401), f"{told}: 400 or 401 is owed, and came {reply}"
    api.accepted("the same in base64url", good)


@behaviour(stage=2, hidden=True, points=3, source=practice("3.7", "Use UTF-8"), needs="tampered_token_refused")
@hints(
    "Which encodings does your JSON parser guess?",
    "`json.loads` on bytes finds UTF-16 and UTF-32 by itself, and fails with more than ValueError.",
    "Decode as UTF-8 yourself, catch ValueError and RecursionError, and require an object.",
)
def test_json_traps(api: Api, issuer: IdentityProvider) -> None:
    """UTF-16, what is no object, and NaN are refused; of two members the first never wins; nothing is a 5xx."""
    key, claims = issuer.ec, api.claims()
    text = json.dumps(claims)

    def token(body: bytes, head: bytes | None = None) -> str:
        return compact(head or api.header(key), body, key.sign)

    evil_first = text[:-1].replace(f'"sub": "{api.sub}"', '"sub": "admin"') + f', "sub": "{api.sub}"}}'
    api.all_refused(
        [
            ("claims in UTF-16", token(text.encode("utf-16"))),
            ("claims in UTF-16 without a mark", token(text.encode("utf-16-le"))),
            ("claims in UTF-32", token(text.encode("utf-32"))),
            ("claims that are no UTF-8", token(text.replace(api.client, "x\udcff").encode(errors="surrogateescape"))),
            ("claims that are an array", token(f"[{text}]".encode())),
            ("claims that are a text", token(json.dumps(text).encode())),
            ("claims that are null", token(b"null")),
            ("NaN among the claims", token(text.replace(str(claims["iat"]), "NaN").encode())),
            ("exp NaN", token(text.replace(str(claims["exp"]), "NaN").encode())),
            ("a header that is an array", token(text.encode(), json.dumps([api.header(key)]).encode())),
            ("no JSON", token(b"{")),
        ]
    )
    reply = api.get("sub twice, an evil one first", token(evil_first.encode()))
    assert reply.status == 401 or reply.json().get("sub") == api.sub, f"the first member never wins, and came {reply}"
    for told, more in [
        ("nested 5000 deep", '"x": ' + "[" * 2500 + "]" * 2500),
        ("a lone surrogate", '"x": "\\ud800", "client_id": "\\udfff"'),
        ("a number of 400 digits", '"x": ' + "9" * 400),
        ("iat of 400 digits", '"iat": ' + "9" * 400),
        ("exp 1e999", '"exp": 1e999'),
    ]:
        reply = api.get(told, token((text[:-1] + f", {more}}}").encode()))
        assert reply.status < 500, f"{told}: no token makes a server fail, and came {reply}"
    api.works()


@behaviour(stage=2, hidden=True, points=3, source=rfc(7519, "2", "Terminology"), needs="time_window")
@hints(
    'Is `"exp": "9999999999"` a date?',
    "`int()` accepts texts, and `True` is an `int` in Python.",
    "Check `type(x) in (int, float)` before you compare, and `isinstance(x, str)` before any `in`.",
)
@incident(
    "Put in this kata's place, PyJWT takes `exp` as a string and `nbf` as true, and jose for Node a number as `sub`."
)
def test_claim_types(api: Api) -> None:
    """A claim of the wrong type never counts; a date with a fraction does."""
    later, earlier = int(waiting.unix_time()) + 600, int(waiting.unix_time()) - 600
    wrong: list[dict[str, Any]] = [
        *({"exp": exp} for exp in (str(later), True, [later], {"at": later})),
        *({"nbf": nbf} for nbf in (str(earlier), True, False, [earlier])),
        *({"iat": iat} for iat in (str(earlier), [earlier])),
        *({"sub": sub} for sub in (7, "", ["user"], True)),
        *({"iss": iss} for iss in ([ISSUER], {ISSUER: 1}, 7)),
        *({"aud": aud} for aud in ({AUDIENCE: 1}, 7, True, [[AUDIENCE]])),
    ]
    tokens = [(json.dumps(change)[1:-1], api.token(**change)) for change in wrong]
    nulls = [
        (f"{name} null", compact(api.header(api.issuer.ec), api.claims() | {name: None}, api.issuer.ec.sign))
        for name in ("exp", "nbf", "sub", "aud", "iss")
    ]
    api.all_refused([*tokens, *nulls])
    api.accepted("exp with a fraction", api.token(exp=later + 0.5))
    for scope in (["reports:write"], {"reports:write": 1}, "reports:write\treports:read"):
        reply = api.get(f"scope {scope!r}", api.token(scope=scope), "/reports")
        assert reply.status in (401, 403), f"scope {scope!r} grants nothing: 403 or 401 is owed, and came {reply}"


@behaviour(stage=2, hidden=True, source=rfc(7519, "4.1.4", '"exp" (Expiration Time) Claim'), needs="time_window")
def test_leeway_direction(api: Api) -> None:
    """The leeway counts in the right direction and unit, for exp, nbf and iat."""
    now = int(waiting.unix_time())
    for told, token in [
        ("expired 15 s ago", api.token(exp=now - 15)),
        ("valid in 15 s", api.token(nbf=now + 15)),
        ("made in 15 s", api.token(iat=now + 15)),
    ]:
        api.accepted(f"{told}, with a leeway of {LEEWAY} s", token)
    api.all_refused([("expired 45 s ago", api.token(exp=now - 45)), ("valid in 60 s", api.token(nbf=now + 60))])


def until_not_accepted(api: Api, token: str, reply: Response) -> Response:
    """Ask again with a token that was accepted until it is not, or was for 3 s; the last answer."""
    deadline = waiting.now() + 3
    while reply.status == 200 and waiting.now() < deadline:
        waiting.elapse(api.solution, 10)
        reply = api.get("the same token again", token)
    return reply


@behaviour(
    stage=2,
    hidden=True,
    settings=EXACT,
    source=rfc(7519, "4.1.4", '"exp" (Expiration Time) Claim'),
    needs="time_window",
)
def test_dies_at_exp(api: Api) -> None:
    """A token dies at exp, and not after it; a verdict is never remembered beyond."""
    for life in (60, 150):  # ms; on a slow machine the first may be over before it is seen
        token = api.token(exp=waiting.unix_time() + life / 1000)
        reply = api.get(f"a token with {life} ms to live", token)
        if reply.status == 200:
            api.assert_refused("a token whose time is over", until_not_accepted(api, token, reply))
            break
        api.assert_refused("a token whose time was over on a slow machine", reply)
    api.refused("exp is this very second, and gone", api.token(exp=int(waiting.unix_time())))
    api.works()


@behaviour(stage=2, hidden=True, source=rfc(9110, "11.1", "Authentication Scheme"), needs="no_credentials_plain_401")
def test_scheme_and_spacing(api: Api) -> None:
    """The scheme is compared without regard to case, several blanks may follow; other schemes are no credentials."""
    for scheme in ("bearer ", "BEARER ", "Bearer   "):
        reply = api.send(f"{scheme!r} and a good token", [("Authorization", f"{scheme}{api.token()}")]).response()
        assert reply.status == 200, f"{scheme!r} and a good token: 200 is owed, and came {reply}"
    for scheme in ("Basic", "Bearerx", "Token"):
        reply = api.send(f"{scheme} and a good token", [("Authorization", f"{scheme} {api.token()}")]).response()
        assert reply.status == 401, f"{scheme} is no credential here: 401 is owed, and came {reply}"
        assert "error" not in challenge(reply), f"{scheme} is no bearer token, so there is no error to tell"


@behaviour(stage=2, hidden=True, source=rfc(6750, "2", "Authenticated Requests"), needs="no_credentials_plain_401")
def test_one_token_one_place(api: Api) -> None:
    """Two Authorization lines are 400; tokens in the query or in a cookie authenticate nobody."""
    good, bad = api.token(), api.token(sub="")
    for told, pair in [("good and bad", (good, bad)), ("bad and good", (bad, good)), ("the same twice", (good, good))]:
        reply = api.send(f"two lines, {told}", [*bearer(pair[0]), *bearer(pair[1])]).response()
        assert reply.status == 400, f"two Authorization lines, {told}: 400 is owed, and came {reply}"
        assert challenge(reply).get("error") == "invalid_request", 'error="invalid_request" is owed with the 400'
    for told, headers, target in [
        ("a token in the query", [], f"/me?access_token={good}"),
        ("a token in a cookie", [("Cookie", f"access_token={good}; Authorization=Bearer {good}")], "/me"),
    ]:
        reply = api.send(told, headers, target=target).response()
        assert reply.status == 401, f"{told} authenticates nobody: 401 is owed, and came {reply}"
    api.works()


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(6750, "5.3", "Summary of Recommendations"),
    needs="tampered_token_refused",
)
def test_token_not_echoed(api: Api, issuer: IdentityProvider) -> None:
    """No part of a token is in a body, in a header, or in what the program prints."""
    tokens = [
        api.token(),
        api.token(issuer.rsa),
        api.token(sub=""),
        api.token(EcKey("ec-1")),
        api.token(EcKey(api.word())),
    ]
    statuses = []
    for number, token in enumerate(tokens):
        reply = api.get(f"token {number}", token)
        statuses.append(reply.status)
        told = reply.body.decode(errors="replace") + str(reply.headers)
        for part in token.split("."):
            assert part not in told, "the answer repeats a part of the token: whoever sees the answer has it"
    assert statuses[:4] == [200, 200, 401, 401], f"two good tokens, then bad ones, and the answers were {statuses}"
    api.solution.settled()
    printed = api.solution.output()
    shown = [number for number, token in enumerate(tokens) if any(part in printed for part in token.split(".")[1:])]
    assert not shown, "a token stands in the program's output: whoever reads the logs has it"


@behaviour(
    stage=2,
    hidden=True,
    source=rfc(6750, "3", "The WWW-Authenticate Response Header Field"),
    needs="tampered_token_refused",
)
def test_challenge_wellformed(api: Api) -> None:
    """Whatever a token says, the answer has one challenge that can be parsed, and no header of the token's making."""
    for evil in ('a"b', "a\\", "x\r\nSet-Cookie: a=b", "é😀", '", error="none', "a\0b"):
        for told, token in [
            (f"kid {evil!r}", api.token(EcKey(evil))),
            (f"iss {evil!r}", api.token(iss=evil)),
            (f"alg {evil!r}", api.token(head={"alg": evil})),
        ]:
            reply = api.get(told, token)
            api.assert_refused(told, reply)
            assert reply.header("set-cookie") is None, f"{told}: a header came out of the token"
    api.works()


@behaviour(
    stage=2,
    hidden=True,
    points=3,
    source=rfc(7517, "4.2", '"use" (Public Key Use) Parameter'),
    needs="valid_token_accepted",
)
@hints(
    "The entry of a key says more than its numbers.",
    "Libraries load a key without asking what it is for.",
    "Filter by use, key_ops, alg, kty, crv and the length of the modulus when you parse the set.",
)
def test_key_marks_respected(api: Api, issuer: IdentityProvider) -> None:
    """Good signatures by keys that are not for this are refused, without a fetch."""
    enc, wrap, other, case = (EcKey(f"{name}-{api.word()}") for name in ("enc", "wrap", "other", "Case"))
    short, curve = rsa_key(f"short-{api.word()}", 1024), EcKey(f"p384-{api.word()}", 384)
    issuer.publish(
        issuer.ec,
        enc.jwk | {"use": "enc"},
        without_none(wrap.jwk | {"use": None, "key_ops": ["wrapKey", "encrypt"]}),
        other.jwk | {"alg": "ES512"},
        case,
        short,
        curve,
    )
    api.accepted("a key of the new set", api.token(case))
    before = len(issuer.fetches)
    marked: list[tuple[str, Key]] = [
        ("use enc", enc),
        ("key_ops encrypt", wrap),
        ("alg ES512", other),
        ("1024 bits", short),
        ("P-384", curve),
    ]
    for told, key in marked:
        api.refused(f"signed by a key with {told}", api.token(key))
    api.unfetched(before)
    case.kid = case.kid.lower()
    api.refused("a kid in another case", api.token(case))
    api.works()


@behaviour(stage=2, hidden=True, source=rfc(7517, "5", "JWK Set Format"), needs="valid_token_accepted")
def test_strange_keys_skipped(api: Api, issuer: IdentityProvider) -> None:
    """One odd entry does not spoil the set, and an RSA and an EC key may share a kid."""
    twin_rsa, twin_ec = rsa_key(f"twin-{api.word()}"), EcKey("")
    twin_ec.kid = twin_rsa.kid
    point = EcKey("off").jwk
    odd: list[Any] = [
        {"kty": "PQC", "kid": "future", "pub": "AAAA"},
        {"kty": "RSA", "kid": "no-n", "e": "AQAB"},
        point | {"y": point["x"]},
        7,
        None,
        {"kty": "EC"},
        point | {"kid": 7},
        {"kty": "RSA", "kid": "bad", "n": "no base64!", "e": "AQAB"},
        point | {"kid": "none", "x": None},
        {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "AAAA"},
    ]
    issuer.publish(*odd[:5], twin_rsa, *odd[5:], twin_ec, issuer.ec)
    api.accepted("an RSA key among odd entries", api.token(twin_rsa))
    api.accepted("an EC key with the same kid", api.token(twin_ec))
    api.accepted("and the RSA key again", api.token(twin_rsa))
    api.works()


@behaviour(stage=2, hidden=True, source=rfc(9110, "5.4", "Field Limits"), needs="valid_token_accepted")
def test_oversize_token_refused(api: Api) -> None:
    """A valid token of 7 KiB is accepted, one of 12 KiB refused, a header of 256 KiB survived."""
    api.accepted("7 KiB", api.token(padding="x" * 5000))
    reply = api.ask("12 KiB", api.token(padding="x" * 9000))
    api.solution.until(lambda: reply.answered, "an answer, or a closed connection", "client")
    if reply.complete:
        assert 400 <= reply.response().status < 500, (
            f"12 KiB are too much: any 4xx is owed, and came {reply.response()}"
        )
    huge = api.send("256 KiB", bearer("x" * 262_144))
    api.solution.until(lambda: huge.answered, "an answer, or a closed connection", "client")
    if huge.complete:
        assert 400 <= huge.response().status < 500, f"any 4xx is owed, and came {huge.response()}"
    api.works()


# -- the key set ----------------------------------------------------------------------------------------------------


@behaviour(
    stage=2,
    points=3,
    source=Source(
        "README K3; OpenID Connect Core §10.1.1", "https://openid.net/specs/openid-connect-core-1_0.html#RotateSigKeys"
    ),
    needs="valid_token_accepted",
)
def test_rotation_refetches_once(api: Api, issuer: IdentityProvider) -> None:
    """A token with a new kid is accepted after exactly one fetch; one whose kid is nowhere is refused after one."""
    api.works()
    new = EcKey(f"new-{api.word()}")
    issuer.publish(issuer.ec, new)
    before = len(issuer.fetches)
    api.accepted("signed by a new key", api.token(new))
    api.solution.settled()
    assert len(issuer.fetches) == before + 1, (
        f"one fetch finds a new key, and there were {len(issuer.fetches) - before}"
    )
    api.accepted("and again", api.token(new))
    api.unfetched(before + 1)
    api.refused("a kid that is nowhere", api.token(EcKey(f"nowhere-{api.word()}")))
    api.solution.settled()
    more = len(issuer.fetches) - before - 1
    assert more == 1, f"one fetch shows that a kid is nowhere, and there were {more}"


@behaviour(stage=2, hidden=True, points=3, source=rfc(7517, "5", "JWK Set Format"), needs="rotation_refetches_once")
def test_withdrawn_key_dropped(api: Api, issuer: IdentityProvider) -> None:
    """A key that left the set stops working with the next fetch, also for tokens that were accepted before."""
    old, new = EcKey(f"old-{api.word()}"), EcKey(f"new-{api.word()}")
    issuer.publish(issuer.ec, old)
    token = api.token(old)
    api.accepted("signed by a key of the set", token)
    issuer.publish(issuer.ec, new)
    api.accepted("signed by its successor", api.token(new))
    api.refused("the first token again: its key was withdrawn", token)
    api.works()


@behaviour(
    stage=2, hidden=True, source=practice("3.10", "Do Not Trust Received Claims"), needs="rotation_refetches_once"
)
def test_bad_tokens_cost_no_fetch(api: Api, issuer: IdentityProvider) -> None:
    """Garbage, other algorithms, other types, and bad signatures under a known kid cause no fetch."""
    api.works()
    before = len(issuer.fetches)
    fresh = lambda: EcKey(f"fresh-{api.word()}")  # noqa: E731
    for told, token in [
        ("garbage", "abc.def.ghi"),
        ("alg none", compact(api.header(fresh(), alg="none"), api.claims(), None)),
        ("alg HS256", compact(api.header(fresh(), alg="HS256"), api.claims(), lambda _: b"x" * 32)),
        ("typ JWT", api.token(fresh(), head={"typ": "JWT"})),
        ("crit", api.token(fresh(), head={"crit": ["x"]})),
        ("a stranger's signature under a known kid", api.token(EcKey("ec-1"))),
        ("an expired token of a known key", api.token(exp=5)),
    ]:
        reply = api.get(told, token)
        assert reply.status in (400, 401), f"{told}: 401 is owed, and came {reply}"
    api.unfetched(before)
    api.works()


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(
    stage=3,
    hidden=True,
    points=5,
    alone=True,
    source=brief("K5", "one fetch at a time"),
    needs="rotation_refetches_once",
)
def test_stampede_one_fetch(api: Api, issuer: IdentityProvider) -> None:
    """Many tokens that need a fetch at once cause one, and all are accepted: at the start, and for a new kid."""
    new = EcKey(f"new-{api.word()}")
    for told, key in [("at the start", issuer.ec), ("for a new kid", new)]:
        before = len(issuer.fetches)
        with issuer.holding():
            requests = [api.ask(told, api.token(key)) for _ in range(20)]
            issuer.is_asked(before + 1)
            api.solution.settled()
            fetches = len(issuer.fetches) - before
            assert fetches == 1, f"20 requests wait for the same keys: one fetch is enough, and there were {fetches}"
        statuses = [request.response().status for request in requests]
        assert statuses == [200] * 20, f"{told}: all 20 tokens are valid, and the answers were {statuses}"
        issuer.publish(issuer.ec, new)


@behaviour(stage=3, hidden=True, points=5, source=brief("K3, K5", "a final verdict"), needs="rotation_refetches_once")
@hints(
    "Twenty wait for one download; what does the second one do when its turn comes?",
    "To wait for a lock is not the same as to share a result.",
    "Keep the running fetch as a task, let everyone await that task, then look once, and decide.",
)
def test_unknown_kid_herd_one_fetch(api: Api, issuer: IdentityProvider) -> None:
    """Waiters whose shared fetch did not bring their kid are refused without fetching again one by one."""
    api.works()
    nowhere, before = EcKey(f"nowhere-{api.word()}"), len(issuer.fetches)
    with issuer.holding():
        requests = [api.ask("a kid that is nowhere", api.token(nowhere)) for _ in range(12)]
        issuer.until_fetched(before + 1)
        api.solution.settled()
    for request in requests:
        api.assert_refused("a kid that is nowhere", request.response())
    api.solution.settled()
    fetches = len(issuer.fetches) - before
    assert fetches == 1, f"12 waiters share one fetch, and there were {fetches}"
    api.works()


@behaviour(stage=3, hidden=True, points=5, source=brief("K5", "known keys never wait"), needs="rotation_refetches_once")
@hints(
    "What does a request that needs nothing new do while another one waits for the network?",
    "A lock may protect the dictionary, but not the download.",
    "Look the kid up first, without the lock; replace the dictionary in one assignment when the download is complete.",
)
@incident(
    "In fastapi-zitadel-auth a token with an unknown `kid` emptied the cache of keys "
    "(cleanenergyexchange/fastapi-zitadel-auth#156)."
)
def test_cached_keys_not_blocked(api: Api, issuer: IdentityProvider) -> None:
    """While a fetch hangs, tokens of known keys are answered, and accepted."""
    api.works()
    before = len(issuer.fetches)
    with issuer.holding():
        waiter = api.ask("a kid that is nowhere", api.token(EcKey(f"nowhere-{api.word()}")))
        issuer.until_fetched(before + 1)
        for _ in range(3):
            api.works()
    assert waiter.response().status == 401, "and the other one gets its verdict in the end"


@behaviour(
    stage=3, hidden=True, points=5, source=brief("K5", "a fetch belongs to nobody"), needs="rotation_refetches_once"
)
def test_leader_disconnect(api: Api, issuer: IdentityProvider) -> None:
    """The client that caused the fetch goes away; the others who wait for it still get their answer."""
    new = EcKey(f"new-{api.word()}")
    api.works()
    issuer.publish(issuer.ec, new)
    before = len(issuer.fetches)
    with issuer.holding():
        leader = api.ask("a new kid", api.token(new))
        issuer.until_fetched(before + 1)
        followers = [api.ask("the same kid", api.token(new)) for _ in range(4)]
        api.solution.settled()
        leader.hang_up()
        api.solution.settled()
    statuses = [request.response().status for request in followers]
    assert statuses == [200] * 4, f"the four who stayed are owed their answer, and the answers were {statuses}"
    fetches = len(issuer.fetches) - before
    assert fetches <= 2, f"one fetch, or two if it ended with its client; and there were {fetches}"


@behaviour(stage=3, hidden=True, source=brief("K1", "failure changes nothing"), needs="rotation_refetches_once")
def test_failed_fetch_not_sticky(api: Api, issuer: IdentityProvider) -> None:
    """A failed fetch fails those who waited for it, and nobody after them."""
    new = EcKey(f"new-{api.word()}")
    api.works()
    issuer.publish(issuer.ec, new)
    before = len(issuer.fetches)
    with issuer.answering(lambda incoming, body: incoming.answer(500, b"oops")), issuer.holding():
        requests = [api.ask("a new kid, and the issuer fails", api.token(new)) for _ in range(6)]
        issuer.until_fetched(before + 1)
        api.solution.settled()
        issuer.release()
        statuses = {request.response().status for request in requests}
    assert statuses <= {401, 503}, f"nobody knows the key: 401 or 503 is owed, and came {statuses}"
    api.accepted("the same key, once the issuer works", api.token(new))


@behaviour(
    stage=3, hidden=True, settings=STALE_SOON, source=brief("K4, K5", "a stale set"), needs="rotation_refetches_once"
)
def test_ttl_refresh_single(api: Api, issuer: IdentityProvider) -> None:
    """When the set goes stale there is one refresh at a time, and nobody is refused."""
    api.works()
    before = len(issuer.fetches)
    with issuer.holding():
        waiting.elapse(api.solution, TTL + 30)  # ms more, for a program that is slow to take the set in
        requests = [api.ask("a known key, and a stale set", api.token()) for _ in range(12)]
        api.solution.until(lambda: len(issuer.fetches) > before, "a refresh of the stale set", "issuer")
        api.solution.settled()
        fetches = len(issuer.fetches) - before
        assert fetches == 1, f"one refresh at a time, and there are {fetches}"
    statuses = [request.response().status for request in requests]
    assert statuses == [200] * 12, f"the key is still known: 200 for everybody, and the answers were {statuses}"


# -- stage 4: faults ------------------------------------------------------------------------------------------------


def until_accepted(api: Api, refusals: set[int]) -> None:
    """Ask again until a good token is accepted; until then only `refusals` are fine."""
    deadline = waiting.now() + 5
    while (reply := api.get("a good token", api.token())).status != 200 and waiting.now() < deadline:
        assert reply.status in refusals, f"{sorted(refusals)} is owed meanwhile, and came {reply}"
        waiting.elapse(api.solution, 10)
    assert reply.status == 200, f"the issuer works again: 200 is owed, and came {reply}"


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings=RECOVERING,
    source=rfc(9110, "15.6.4", "503 Service Unavailable"),
    needs="valid_token_accepted",
)
def test_cold_start_outage(api: Api, issuer: IdentityProvider) -> None:
    """With the issuer down from the start the answer is 503, and the API recovers by itself."""
    with issuer.down():
        for _ in range(3):
            reply = api.get("a good token", api.token())
            assert reply.status == 503, f"there are no keys to decide with: 503 is owed, and came {reply}"
        reply = api.send("no token", []).response()
        assert reply.status == 401, f"no token needs no key: 401 is owed, and came {reply}"
    until_accepted(api, {503})


def until_fetched_in_time(api: Api) -> None:
    """A fetch that works; where none is over within JWKS_TIMEOUT_MS, on a slow machine, the API is given more."""
    for timeout in LONGER:
        for _ in range(3):
            reply = api.get("a good token", api.token())
            if reply.status == 200:
                return
            assert reply.status == 503, f"200, or 503 as long as no fetch is over in time, is owed, and came {reply}"
        api.solution.kill()
        api.solution.restart(JWKS_TIMEOUT_MS=timeout)
    api.works()


def until_fetching(api: Api, fetches: list[Incoming], told: str) -> tuple[Request, Incoming]:
    """A request with an unknown kid, and its fetch, which on a slow machine may be over before it has begun."""
    for _ in range(20):
        before = len(fetches)
        request = api.ask(told, api.token(EcKey(f"new-{api.word()}")))
        waiting.until_reached(api.solution, lambda: len(fetches) > before or request.answered, "a fetch")  # noqa: B023
        if len(fetches) > before:
            return request, fetches[-1]
        reply = request.response()
        assert reply.status in (401, 503), f"there was no fetch: 401 or 503 is owed, and came {reply}"
    raise NotReached("the scene could not be set: 20 unknown kids in a row, and none of them was worth a fetch")


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
FAULTS: dict[str, Callable[[Incoming, bytes], None]] = {
    "500": lambda incoming, body: incoming.answer(500, body),
    "404 and an empty set": lambda incoming, body: incoming.answer(404, b'{"keys": []}'),
    "a reset": lambda incoming, body: incoming.drop(),
    "half a body": lambda incoming, body: incoming.answer_cut_off(200, body),
    "HTML": lambda incoming, body: incoming.answer(200, b"<html>maintenance</html>", "text/html"),
    "{}": lambda incoming, body: incoming.answer(200, b"{}"),
    "[]": lambda incoming, body: incoming.answer(200, b"[]"),
    "keys: 5": lambda incoming, body: incoming.answer(200, b'{"keys": 5}'),
    "nothing": lambda incoming, body: incoming.answer(200, b""),
}


@behaviour(
    stage=4, hidden=True, points=5, source=brief("K1", "failure changes nothing"), needs="rotation_refetches_once"
)
def test_outage_keeps_keys(api: Api, issuer: IdentityProvider) -> None:
    """Whatever the issuer answers wrongly, the keys that are known stay in use."""
    api.works()
    for told, fault in FAULTS.items():
        before = len(issuer.fetches)
        with issuer.answering(fault):
            reply = api.get(f"an unknown kid, and the issuer answers {told}", api.token(EcKey(f"new-{api.word()}")))
            assert reply.status in (401, 503), f"the issuer answers {told}: 401 or 503 is owed, and came {reply}"
            assert len(issuer.fetches) > before, "an unknown kid is worth a fetch"
            api.works()
    with issuer.down():
        reply = api.get("an unknown kid, and nobody listens", api.token(EcKey(f"new-{api.word()}")))
        assert reply.status in (401, 503), f"the issuer is gone: 401 or 503 is owed, and came {reply}"
        api.works()
    api.works()


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    alone=True,
    settings=MORTAL,
    source=brief("K4", "JWKS_STALE_MS"),
    needs="outage_keeps_keys",
)
def test_stale_limit(api: Api, issuer: IdentityProvider) -> None:
    """Old keys are not used for ever: past TTL and STALE the answer is 503, until a fetch works."""
    until_accepted(api, {503})  # on a slow machine a set may be too old before it is used
    with issuer.answering(FAULTS["500"]):
        deadline = waiting.now() + 3
        while (reply := api.get("a good token", api.token())).status == 200 and waiting.now() < deadline:
            waiting.elapse(api.solution, 10)
        assert reply.status == 503, f"no key can be trusted any more: 503 is owed, and came {reply}"
    until_accepted(api, {503})


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    alone=True,
    settings=HASTY,
    source=brief("K1", "JWKS_TIMEOUT_MS and 1 MiB"),
    needs="outage_keeps_keys",
)
@hints(
    "Your time-out: does it begin anew with every byte?",
    "HTTP clients limit one read, and not the whole transfer.",
    "Wrap the whole fetch in one time-out, and count the bytes while they come.",
)
def test_jwks_slow(api: Api, issuer: IdentityProvider) -> None:
    """A fetch that hangs, or comes a byte at a time, is given up after JWKS_TIMEOUT_MS as a whole."""
    until_fetched_in_time(api)
    stuck: list[Incoming] = []
    with issuer.answering(lambda incoming, body: stuck.append(incoming)):
        hanging, _ = until_fetching(api, stuck, "an unknown kid, and no answer")
        reply = hanging.response()
        assert reply.status in (401, 503), f"JWKS_TIMEOUT_MS is over: 401 or 503 is owed, and came {reply}"
        dripping, fetch = until_fetching(api, stuck, "an unknown kid, and a byte at a time")
        drip = fetch.line.connection
        drip.send(CHUNKED)
        deadline = waiting.now() + 3 + int(api.solution.settings["JWKS_TIMEOUT_MS"]) / 1000
        while not dripping.answered and waiting.now() < deadline:
            drip.send(b"1\r\n \r\n")
            waiting.elapse(api.solution, 10)
        assert dripping.answered, "the fetch as a whole has JWKS_TIMEOUT_MS, and bytes that trickle in don't prolong it"
        assert dripping.response().status in (401, 503), "401 or 503 is owed"
        api.works()
    api.works()


@behaviour(stage=4, hidden=True, source=brief("K1", "at most 1 MiB"), needs="outage_keeps_keys")
def test_jwks_endless(api: Api, issuer: IdentityProvider) -> None:
    """A key set that never ends is given up after 1 MiB, and the known keys go on."""
    api.works()
    fetching: list[Incoming] = []
    with issuer.answering(lambda incoming, body: fetching.append(incoming)):
        request = api.ask("an unknown kid, and a body without an end", api.token(EcKey(f"new-{api.word()}")))
        waiting.until_reached(api.solution, lambda: fetching, "a fetch")
        line, piece = fetching[0].line.connection, b"10000\r\n" + b" " * 65536 + b"\r\n"
        line.send(CHUNKED)
        while line.sent < 24 * MIB and not (line.ended or request.answered):
            line.send(piece)
            taken = lambda: line.flushed or line.ended or request.answered  # noqa: E731
            api.solution.until(taken, "an end of the fetch, or an answer", "issuer")
        given_up = line.ended or request.answered
        assert given_up, f"a set has at most 1 MiB, and {line.sent >> 20} MiB of one were read"
        reply = request.response()
        assert reply.status in (401, 503), f"the set is too long: 401 or 503 is owed, and came {reply}"
    api.works()


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    alone=True,
    settings=CALM,
    source=brief("JWKS_COOLDOWN_MS", "no hammering"),
    needs="cold_start_outage",
)
@hints(
    "Count your fetches while every one of them fails.",
    "The moment that matters for the cooldown is the attempt, not the success.",
    "Store the time before you connect, and look at it also when you have no keys yet.",
)
def test_outage_not_hammered(api: Api, issuer: IdentityProvider) -> None:
    """While the issuer is down requests do not become fetches, from the start on."""
    with issuer.answering(FAULTS["500"]):
        statuses = {api.get("a good token", api.token()).status for _ in range(20)}
        assert statuses == {503}, f"there are no keys to decide with: 503 is owed, and came {statuses}"
        api.solution.settled()
        fetches = len(issuer.fetches)
        assert 1 <= fetches <= 2, f"JWKS_COOLDOWN_MS is an hour: one fetch, or two, and there were {fetches}"


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, source=brief("K5", "tokens of known keys"), needs="valid_token_accepted")
def test_load_no_refetch(api: Api, issuer: IdentityProvider) -> None:
    """Many requests over a few connections, with different good tokens, cause no fetch."""
    api.works()
    before = len(issuer.fetches)
    tokens = [api.token(jti=api.word()) for _ in range(16)]
    clients = [Client(api.solution, f"client {number}") for number in range(5)]
    for number in range(48):
        reply = clients[number % 5].request("GET", "/me", bearer(tokens[number % 16]))
        assert reply.status == 200, f"request {number}: 200 is owed, and came {reply}"
    api.unfetched(before)
    for client in clients:
        client.close()


@behaviour(
    stage=5,
    hidden=True,
    alone=True,
    settings=CALM,
    source=practice("3.10", "Do Not Trust Received Claims"),
    needs="outage_not_hammered",
)
@incident(
    "A random `kid` in each request turns many servers into a flood against their own identity provider, or "
    "empties their cache of keys (cleanenergyexchange/fastapi-zitadel-auth#156)."
)
def test_random_kid_flood(api: Api, issuer: IdentityProvider) -> None:
    """A flood of random kids causes one more fetch at most, leaves nothing behind, and good tokens pass in between."""
    api.works()
    stranger, flood = EcKey(""), Client(api.solution, "flood")

    def a_round() -> None:
        for _ in range(ROUND):
            stranger.kid = api.word().ljust(LONG_KID, "x")
            reply = flood.request("GET", "/me", bearer(api.token(stranger)))
            assert reply.status in (401, 503), f"a kid that is nowhere: 401 or 503 is owed, and came {reply}"
        api.works()

    a_round()
    for _ in range(ROUNDS):
        before = api.solution.memory_bytes()
        a_round()
        if api.solution.memory_bytes() - before < ROUND * LONG_KID / 2:
            break
    else:
        raise AssertionError(f"{ROUNDS} times {ROUND} kids of 5 KB, and memory grew each time: something keeps them")
    assert len(issuer.fetches) <= 2, f"JWKS_COOLDOWN_MS is an hour, and there were {len(issuer.fetches)} fetches"
    flood.close()
