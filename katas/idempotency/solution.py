"""Payments that may be retried: each request charges once, and every retry learns what happened.

Write the four functions below, in this order. Before the last one, decide what has to be on disk when the process
dies, and at which moment it must be there: that is most of this kata. What is given:

- app.py    checks the account and the payload, then calls `idempotent`; raise its `Refused` to refuse a request
- web.py    `Answer` (status, body, headers), and `problem` to make the answer of a refusal
- db.py     the connection `db`, and `transaction()`
- provider.py  `call`, one request to the payment provider
"""

import asyncio
import os
from dataclasses import dataclass

from app import Operation, Payload, run
from db import db
from web import Answer

TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000

# TODO: the table of keys. What must a retry, or the next process, find here?
db.executescript("""
CREATE TABLE IF NOT EXISTS keys (
    account TEXT NOT NULL
);
""")


def parse_key(lines: list[str]) -> str:
    """The key that the Idempotency-Key lines of a request carry: one String of RFC 9651 §3.3.3, decoded.

    TODO: raise Refused(400, "...") when there is no line or more than one, or when the line is anything else than
    a String, with or without parameters behind it.
    """
    raise NotImplementedError("parse_key() in solution.py")


@dataclass(frozen=True)
class Done:
    """The provider executed it, now or earlier; `id` is its own name for the charge or refund."""

    id: str


@dataclass(frozen=True)
class Declined:
    """The provider refused, for good."""

    code: str


@dataclass(frozen=True)
class Unknown:
    """It may or may not have been executed: ask again, with the same provider key."""

    why: str


async def ask(operation: Operation, body: Payload, provider_key: str) -> Done | Declined | Unknown:
    """Ask the provider once, with `call(operation.provider_path, body, provider_key)`, and say what that proves.

    TODO: look at the provider's table in the brief, and at the errors that `call` raises. Which of them are final?
    """
    raise NotImplementedError("ask() in solution.py")


async def idempotent(account: str, operation: Operation, key: str, payload: Payload) -> Answer:
    """Answer a valid request: replay what is stored, join what is running, carry on what is unfinished, or execute it.

    TODO: `operation.to_provider(account, payload)` is the body to send to the provider. When it is done,
    `operation.record(account, payload, id)` writes the payment and returns the answer; call it inside the
    transaction that also stores that answer.
    """
    raise NotImplementedError("idempotent() in solution.py")


if __name__ == "__main__":
    asyncio.run(run(parse_key, idempotent))
