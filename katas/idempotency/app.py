"""Given: accounts, validation, the two operations and the two GETs. The part about retries is in solution.py."""

import json
import os
import re
import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from db import db
from web import Answer, Handler, Request, problem, serve

Payload = dict[str, Any]
ACCOUNT = re.compile(r"Bearer ([A-Za-z0-9_]{1,64})")


class Refused(Exception):
    """A request that is refused and leaves no trace."""

    def __init__(self, status: int, detail: str) -> None:
        self.answer = problem(status, detail)


@dataclass(frozen=True)
class Operation:
    """Something that moves money: what to ask the provider, and what to record and answer once it is done."""

    path: str
    provider_path: str
    to_provider: Callable[[str, Payload], Payload]  # account, payload
    record: Callable[[str, Payload, str], Answer]  # account, payload, the provider's id; inside your transaction


def pay(account: str, payload: Payload, charge_id: str) -> Answer:
    """Insert the payment, and tell of it."""
    document = {
        "id": f"pay_{uuid.uuid4().hex}",
        "amount": payload["amount"],
        "currency": payload["currency"],
        "status": "succeeded",
        "charge_id": charge_id,
    }
    db.execute(
        "INSERT INTO payments (id, account, amount, currency, charge_id, status) VALUES (?, ?, ?, ?, ?, ?)",
        (document["id"], account, payload["amount"], payload["currency"], charge_id, "succeeded"),
    )
    location = {"Content-Type": "application/json", "Location": f"/payments/{document['id']}"}
    return Answer(201, json.dumps(document).encode(), location)


def refund(account: str, payload: Payload, refund_id: str) -> Answer:
    """Mark the payment refunded, and tell of it."""
    paid = payload["payment_id"]
    db.execute("UPDATE payments SET status = 'refunded' WHERE id = ? AND account = ?", (paid, account))
    document = {"id": refund_id, "payment_id": paid, "status": "succeeded"}
    return Answer(201, json.dumps(document).encode(), {"Content-Type": "application/json"})


def charge_of(account: str, payload: Payload) -> Payload:
    return {"charge": find(account, payload["payment_id"])["charge_id"]}


PAYMENT = Operation("/payments", "/v1/charges", lambda account, payload: payload, pay)
REFUND = Operation("/refunds", "/v1/refunds", charge_of, refund)


def find(account: str, identifier: str) -> sqlite3.Row:
    row = db.execute("SELECT * FROM payments WHERE id = ? AND account = ?", (identifier, account)).fetchone()
    if row is None:
        raise Refused(404, "this account has no such payment")
    return row


def account_of(request: Request) -> str:
    lines = request.lines("authorization")
    found = ACCOUNT.fullmatch(lines[0]) if len(lines) == 1 else None
    if found is None:
        raise Refused(401, "say who you are: Authorization: Bearer <account>")
    return found[1]


def json_object(request: Request) -> Payload:
    try:
        payload = json.loads(request.body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(payload, dict):
        raise Refused(400, "the body must be a JSON object")
    return payload


def valid_payment(request: Request) -> Payload:
    """The members that count, checked. Members that the contract does not name are left out."""
    payload = json_object(request)
    amount, description = payload.get("amount"), payload.get("description")
    if type(amount) is not int or not 1 <= amount <= 99_999_999:
        raise Refused(400, "amount must be a whole number from 1 to 99999999")
    if not matches(r"[a-z]{3}", payload.get("currency")):
        raise Refused(400, "currency must be three lower-case letters")
    if not matches(r"[A-Za-z0-9_]{1,64}", payload.get("source")):
        raise Refused(400, "source must be 1 to 64 letters, digits and _")
    if "description" in payload and not (isinstance(description, str) and len(description) <= 500):
        raise Refused(400, "description must be a string of at most 500 characters")
    return {name: payload[name] for name in ("amount", "currency", "source", "description") if name in payload}


def matches(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def valid_refund(account: str, request: Request) -> Payload:
    identifier = json_object(request).get("payment_id")
    if not isinstance(identifier, str):
        raise Refused(400, "payment_id must be a string")
    find(account, identifier)
    return {"payment_id": identifier}


def shown(row: sqlite3.Row) -> Payload:
    """A payment as both GETs tell of it."""
    return {name: row[name] for name in ("id", "amount", "currency", "status", "charge_id")}


def read(account: str, path: str) -> Answer:
    if path == "/payments":
        rows = db.execute("SELECT * FROM payments WHERE account = ? ORDER BY number", (account,))
        document: Payload = {"data": [shown(row) for row in rows]}
    elif path.startswith("/payments/"):
        document = shown(find(account, path.removeprefix("/payments/")))
    else:
        raise Refused(404, "there is nothing here")
    return Answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


Idempotent = Callable[[str, Operation, str, Payload], Awaitable[Answer]]


def routes(parse_key: Callable[[list[str]], str], idempotent: Idempotent) -> Handler:
    """Account first, then key, then payload. What is left is a valid POST, and `idempotent` answers it."""

    async def handle(request: Request) -> Answer:
        try:
            account = account_of(request)
            if request.method == "GET":
                return read(account, request.path)
            if request.method != "POST" or request.path not in ("/payments", "/refunds"):
                raise Refused(404, "there is nothing here")
            key = parse_key(request.lines("idempotency-key"))
            if request.path == "/payments":
                return await idempotent(account, PAYMENT, key, valid_payment(request))
            return await idempotent(account, REFUND, key, valid_refund(account, request))
        except Refused as refused:
            return refused.answer

    return handle


async def run(parse_key: Callable[[list[str]], str], idempotent: Idempotent) -> None:
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))
    await serve(routes(parse_key, idempotent), host, port)
