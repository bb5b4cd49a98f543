"""Payments that may be retried: each request charges once, and every retry learns what happened.

Fill in what is marked TODO, from top to bottom: three functions and a table, and the helpers that they need. Before the
last one, decide what has to be on disk when the process dies, and at which moment it must be there: that is most
of this kata. The rules R1 to R11 are in README.md beside this file. What is given:

- app.py       accounts, validation, the operations; it calls `idempotent` for each valid POST; raise its
               `Refused(400, "...")` to refuse a request
- web.py       `Answer` (status, body, headers), and `problem(422, "...")`, which makes the answer of a refusal
- db.py        `db`, a connection that commits each statement by itself, and `with transaction():`
- provider.py  `await call(...)`, one request to the payment provider

You may change anything, and throw all of it away: only the bytes on the wire are looked at.
"""

import asyncio
import os
from dataclasses import dataclass

from app import Operation, Payload, run
from db import db
from web import Answer

TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000

# TODO R2, R3, R5, R9: what must a retry, or the next process, find here? And which columns make a row unique?
# (The behaviours start with an empty STATE_DIR. By hand, remove state.db after each change of a table.)
db.executescript("""
CREATE TABLE IF NOT EXISTS keys (
    account TEXT NOT NULL
);
""")


def parse_key(lines: list[str]) -> str:
    """The key that the Idempotency-Key lines of a request carry: one String of RFC 9651 §3.3.3, decoded.

    TODO: raise Refused(400, "...") when there is no line or more than one, when the line is anything else than a
    String (with or without parameters behind it), and when the decoded key is empty or longer than 255 characters.
    """
    raise NotImplementedError("parse_key() in solution.py")


@dataclass(frozen=True)
class Done:
    """The provider executed it, now or earlier; `id` is its own name for the charge or refund."""

    id: str


@dataclass(frozen=True)
class Declined:
    """The provider refused, for good; `code` is its reason."""

    code: str


@dataclass(frozen=True)
class Unknown:
    """It may or may not have been executed: ask again, with the same provider key."""

    why: str


async def ask(operation: Operation, body: Payload, provider_key: str) -> Done | Declined | Unknown:
    """Ask the provider once, with `call(operation.provider_path, body, provider_key)`, and say what that proves.

    TODO: go through the provider's table in the brief, and through the errors that `call` raises. Which of them
    prove anything?
    """
    raise NotImplementedError("ask() in solution.py")


async def idempotent(account: str, operation: Operation, key: str, payload: Payload) -> Answer:
    """Answer a valid request, whose identity is (account, operation.path, key).

    TODO: first without faults. Replay what is stored (R2), refuse another payload (R3), execute what is new (R1):

    - `operation.to_provider(account, payload)` is the body to ask the provider with, under a provider key of yours;
    - `operation.record(account, payload, id)` writes what the provider has done, and returns the answer. Call it
      inside the transaction that also stores that answer (R6).

    Then ask of each line: what if a duplicate comes right here (R4)? What if the client leaves here, and this very
    function is cancelled (R8)? What if the process is killed here (R5, R6, R7)?
    """
    raise NotImplementedError("idempotent() in solution.py")


if __name__ == "__main__":
    asyncio.run(run(parse_key, idempotent))
