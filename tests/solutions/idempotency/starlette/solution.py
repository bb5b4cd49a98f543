"""Payments on Starlette, uvicorn, httpx and sqlite3.

Each execution is a task of its own, known by its identity: the request that started it and its duplicates all wait
for that task, shielded, so that it does not matter who of them goes away. Between the look into the tables and the
entry into `running` there is no await. Nothing of a running task outlives the process; the tables do.
"""

import asyncio
import json
import os
import re
import secrets
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

PROVIDER_URL = os.environ.get("PROVIDER_URL", "http://127.0.0.1:9000")
TIMEOUT = int(os.environ.get("PROVIDER_TIMEOUT_MS", 20_000)) / 1000
TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000
ATTEMPTS = 2  # requests to the provider within one of ours

db = sqlite3.connect(Path(os.environ.get("STATE_DIR", ".")) / "state.sqlite", isolation_level=None)
db.row_factory = sqlite3.Row
db.executescript("""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS requests (
    account TEXT, operation TEXT, key TEXT, payload TEXT NOT NULL, provider_key TEXT NOT NULL, first_use REAL NOT NULL,
    answer TEXT, PRIMARY KEY (account, operation, key)
);
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, account TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, charge_id TEXT NOT NULL, refunded INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_account ON payments (account, number);
""")
running: dict[tuple[str, str, str], asyncio.Task] = {}
provider: httpx.AsyncClient


@contextmanager
def transaction():
    db.execute("BEGIN")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@dataclass(frozen=True)
class Answer:
    status: int
    body: str
    location: str | None = None

    def response(self, replayed=False):
        headers = {"location": self.location} if self.location else {}
        if replayed:
            headers["idempotent-replayed"] = "true"
        kind = "application/json" if self.status == 201 else "application/problem+json"
        return Response(self.body, self.status, headers, kind)


def problem(status, title, **members):
    return Answer(status, json.dumps({"type": "about:blank", "title": title, "status": status, **members}))


# --- keys (RFC 9651): one String, then parameters, whose values are any bare items

CHARACTERS = r'(?:[ !#-\[\]-~]|\\["\\])*'
NUMBER = r"@?-?[0-9]{1,15}|-?[0-9]{1,12}\.[0-9]{1,3}"
TOKEN = r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
BARE_ITEM = rf'(?:"{CHARACTERS}"|%"[ -~]*"|{NUMBER}|\?[01]|:[A-Za-z0-9+/=]*:|{TOKEN})'
KEY = re.compile(rf'"({CHARACTERS})"(?:; *[a-z*][a-z0-9_.*-]*(?:={BARE_ITEM})?)*')


def parse_key(request):
    lines = request.headers.getlist("idempotency-key")
    match = KEY.fullmatch(", ".join(lines).strip(" "))
    key = re.sub(r"\\(.)", r"\1", match[1]) if match else ""
    if not 0 < len(key) < 256:
        raise HTTPException(400, "Idempotency-Key is no String of 1 to 255 characters")
    return key


def parse_account(request):
    scheme, _, account = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not re.fullmatch("[A-Za-z0-9_]{1,64}", account):
        raise HTTPException(401, "Authorization: Bearer <account> is required")
    return account


# --- what may be asked for


class Payments:
    target = "/v1/charges"

    @staticmethod
    def read(account, given):
        amount, currency, source = (given.get(name) for name in ("amount", "currency", "source"))
        if isinstance(amount, float) and amount.is_integer():
            amount = int(amount)
        if isinstance(amount, bool) or not isinstance(amount, int) or not 0 < amount < 100_000_000:
            raise HTTPException(400, "amount")
        if not isinstance(currency, str) or not re.fullmatch("[a-z]{3}", currency):
            raise HTTPException(400, "currency")
        if not isinstance(source, str) or not re.fullmatch("[A-Za-z0-9_]{1,64}", source):
            raise HTTPException(400, "source")
        payload = {"amount": amount, "currency": currency, "source": source}
        if "description" in given:
            if not isinstance(given["description"], str) or len(given["description"]) > 500:
                raise HTTPException(400, "description")
            payload["description"] = given["description"]
        return payload

    @staticmethod
    def to_provider(account, payload):
        return payload

    @staticmethod
    def record(account, payload, charge):
        number = "p-" + secrets.token_urlsafe(12)
        db.execute(
            "INSERT INTO payments (id, account, amount, currency, charge_id) VALUES (?, ?, ?, ?, ?)",
            (number, account, payload["amount"], payload["currency"], charge),
        )
        return Answer(201, json.dumps(shown(payment(account, number))), f"/payments/{number}")


class Refunds:
    target = "/v1/refunds"

    @staticmethod
    def read(account, given):
        if not isinstance(given.get("payment_id"), str):
            raise HTTPException(400, "payment_id")
        return {"payment_id": payment(account, given["payment_id"])["id"]}

    @staticmethod
    def to_provider(account, payload):
        return {"charge": payment(account, payload["payment_id"])["charge_id"]}

    @staticmethod
    def record(account, payload, refund):
        db.execute("UPDATE payments SET refunded = 1 WHERE id = ?", (payload["payment_id"],))
        return Answer(201, json.dumps({"id": "r-" + secrets.token_urlsafe(12), **payload, "status": "succeeded"}))


def payment(account, number):
    row = db.execute("SELECT * FROM payments WHERE id = ? AND account = ?", (number, account)).fetchone()
    if row is None:
        raise HTTPException(404, "this account has no such payment")
    return row


def shown(row):
    status = "refunded" if row["refunded"] else "succeeded"
    return {**{name: row[name] for name in ("id", "amount", "currency", "charge_id")}, "status": status}


# --- executing


async def ask(operation, account, payload, provider_key):
    """The provider's final word as ("id", ...) or ("code", ...), or ("status", ...) of what we answer for now.

    A dropped connection is tried again at once: the provider key makes that safe.
    """
    body = operation.to_provider(account, payload)
    for _ in range(ATTEMPTS):
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await provider.post(
                    operation.target, json=body, headers={"Idempotency-Key": f'"{provider_key}"'}
                )
            return meaning(answer)
        except TimeoutError:
            return "status", 504
        except httpx.TransportError:
            continue
    return "status", 502


def meaning(answer):
    try:
        if answer.status_code == 201:
            return "id", str(answer.json()["id"])
        if answer.status_code == 402:
            return "code", str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "status", 502
    return "status", 503


async def execute(identity, operation, payload, provider_key):
    account = identity[0]
    kind, value = await ask(operation, account, payload, provider_key)
    if kind == "status":
        return problem(value, "The outcome is open: repeat the request with the same key")
    with transaction():
        if kind == "id":
            answer = operation.record(account, payload, value)
        else:
            answer = problem(402, "The payment provider refused", code=value)
        db.execute(
            "UPDATE requests SET answer = ? WHERE account = ? AND operation = ? AND key = ?",
            (json.dumps([answer.status, answer.body, answer.location]), *identity),
        )
    return answer


async def idempotent(identity, operation, payload):
    text = json.dumps(payload, sort_keys=True)
    known = db.execute("SELECT * FROM requests WHERE account = ? AND operation = ? AND key = ?", identity).fetchone()
    if known and known["answer"] and known["first_use"] + TTL <= time.time():
        known = None
    if known and known["payload"] != text:
        return problem(422, "This key belongs to another payload").response()
    if known and known["answer"]:
        return Answer(*json.loads(known["answer"])).response(replayed=True)
    if identity not in running:
        provider_key = known["provider_key"] if known else secrets.token_hex(16)
        if not known:
            row = (*identity, text, provider_key, time.time(), None)
            db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        task = asyncio.create_task(execute(identity, operation, payload, provider_key))
        running[identity] = task
        task.add_done_callback(lambda _: running.pop(identity))
    return (await asyncio.shield(running[identity])).response()


def post(operation):
    async def endpoint(request: Request):
        account, key = parse_account(request), parse_key(request)
        try:
            given = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is no JSON") from None
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        if not isinstance(given, dict):
            raise HTTPException(400, "the body is no object")
        identity = account, operation.__name__, key
        return await idempotent(identity, operation, operation.read(account, given))

    return endpoint


async def get_one(request: Request):
    document = shown(payment(parse_account(request), request.path_params["number"]))
    return Response(json.dumps(document), media_type="application/json")


async def get_all(request: Request):
    account = parse_account(request)
    rows = db.execute("SELECT * FROM payments WHERE account = ? ORDER BY number", (account,))
    return Response(json.dumps({"data": [shown(row) for row in rows]}), media_type="application/json")


async def refused(request, error):
    return problem(error.status_code, error.detail).response()


async def lifespan(app):
    global provider
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(base_url=PROVIDER_URL, timeout=None, limits=limits) as provider:
        yield


app = Starlette(
    routes=[
        Route("/payments", post(Payments), methods=["POST"]),
        Route("/payments", get_all),
        Route("/payments/{number}", get_one),
        Route("/refunds", post(Refunds), methods=["POST"]),
    ],
    exception_handlers={HTTPException: refused},
    lifespan=lifespan,
)

if __name__ == "__main__":
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    uvicorn.run(app, host=host, port=port, log_level="warning", backlog=1024)
