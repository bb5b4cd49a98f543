"""Payments that may be retried: each request charges once, and every retry learns what happened.

What keeps the promise, and where:

- A row of `keys` binds an identity (account, path, key) to its payload and to a provider key of its own. It is
  committed before the provider is called, so a crash can't forget that somebody may have been charged.
- The row is looked up and inserted without an `await` in between: on one thread that is one step.
- "Running" lives in memory only (`running`), so the death of the process ends it. On disk a row is finished or it
  is not, and an unfinished one is simply carried on, with the same provider key.
- Only 201 and 402 finish a row. Everything else the provider does leaves the outcome unknown.
- The work runs in a task of its own. A client that leaves cancels its own waiting, not the work.
"""

import asyncio
import json
import os
import re
import sqlite3
import time
import uuid
from dataclasses import dataclass

import h11
from app import Operation, Payload, Refused, run
from db import db, transaction
from provider import call
from web import Answer, problem

TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000

db.executescript("""
CREATE TABLE IF NOT EXISTS keys (
    account TEXT NOT NULL,
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    payload TEXT NOT NULL,
    provider_key TEXT NOT NULL,
    first_use REAL NOT NULL,
    status INTEGER,             -- NULL: not finished
    headers TEXT,
    body BLOB,
    PRIMARY KEY (account, path, key)
) WITHOUT ROWID;
""")

Identity = tuple[str, str, str]  # account, path, key


# -- the key ------------------------------------------------------------------------------------------------------

# RFC 9651: a String (3.3.3) and the parameters that may follow it (3.1.2), which change nothing.
STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
BARE_ITEMS = [
    STRING.pattern,
    r"@?-?\d+",  # Date, Integer
    r"-?\d+\.\d+",
    r"[A-Za-z*][\w!#$%&'*+\-.^`|~:/]*",  # Token
    r":[\w+/=]*:",  # Byte Sequence
    r"\?[01]",  # Boolean
    r'%"(?:[ !#$&-~]|%[0-9a-f]{2})*"',  # Display String
]
PARAMETERS = re.compile(rf"(?:; *[a-z*][a-z0-9_\-.*]*(?:=(?:{'|'.join(BARE_ITEMS)}))?)* *", re.ASCII)


def parse_key(lines: list[str]) -> str:
    """The key that the header lines of a request carry. Raises Refused (400) when they carry none."""
    if len(lines) != 1:
        raise Refused(400, "exactly one Idempotency-Key header is needed")
    field = lines[0].lstrip(" ")
    found = STRING.match(field)
    if found is None or not PARAMETERS.fullmatch(field, found.end()):
        raise Refused(400, 'the Idempotency-Key must be a quoted string, such as "8e03978e"')
    key = re.sub(r"\\(.)", r"\1", found[1])
    if not 1 <= len(key) <= 255:
        raise Refused(400, "the Idempotency-Key must have 1 to 255 characters")
    return key


# -- what the provider's answer means -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    id: str


@dataclass(frozen=True)
class Declined:
    code: str


@dataclass(frozen=True)
class Unknown:
    """It may or may not have been executed: ask again, with the same provider key."""

    why: str


async def ask(operation: Operation, body: Payload, provider_key: str) -> Done | Declined | Unknown:
    try:
        status, answer = await call(operation.provider_path, body, provider_key)
        document = json.loads(answer)
        if status == 201:
            return Done(document["id"])
        if status == 402:
            return Declined(document["error"]["code"])
    except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
        return Unknown(f"the provider did not answer: {error!r}")
    except (ValueError, KeyError, TypeError):
        return Unknown("the provider's answer is broken")
    return Unknown(f"the provider says {status}")


# -- one request and all its retries ------------------------------------------------------------------------------

running: dict[Identity, asyncio.Task[Answer]] = {}


async def idempotent(account: str, operation: Operation, key: str, payload: Payload) -> Answer:
    """Answer a valid request: replay it, join it, carry it on, or be the first to execute it."""
    identity = account, operation.path, key
    row = claim(identity, payload)
    if row["payload"] != fingerprint(payload):
        return problem(422, "this Idempotency-Key was used with another payload")
    if row["status"] is not None:
        return replay(row)
    if identity not in running:
        task = asyncio.create_task(carry_out(identity, operation, payload, row["provider_key"]))
        running[identity] = task
        task.add_done_callback(lambda _: running.pop(identity))
    return await asyncio.shield(running[identity])


def claim(identity: Identity, payload: Payload) -> sqlite3.Row:
    """The row of this identity, which is made now if there is none, or if the old one's time is over."""
    row = find_key(identity)
    if row is not None and row["status"] is not None and row["first_use"] + TTL <= time.time():
        db.execute("DELETE FROM keys WHERE account = ? AND path = ? AND key = ?", identity)
        row = None
    if row is None:
        db.execute(
            "INSERT INTO keys (account, path, key, payload, provider_key, first_use) VALUES (?, ?, ?, ?, ?, ?)",
            (*identity, fingerprint(payload), uuid.uuid4().hex, time.time()),
        )
        row = find_key(identity)
    return row


def find_key(identity: Identity) -> sqlite3.Row | None:
    return db.execute("SELECT * FROM keys WHERE account = ? AND path = ? AND key = ?", identity).fetchone()


def fingerprint(payload: Payload) -> str:
    """The whole payload, so that a change in any member is noticed."""
    return json.dumps(payload, sort_keys=True)


async def carry_out(identity: Identity, operation: Operation, payload: Payload, provider_key: str) -> Answer:
    """Ask the provider; when its answer is final, payment and answer are stored together before anybody sees it."""
    account = identity[0]
    outcome = await ask(operation, operation.to_provider(account, payload), provider_key)
    if isinstance(outcome, Unknown):
        return problem(502, f"not done yet, ask again with the same key: {outcome.why}")
    with transaction():
        if isinstance(outcome, Done):
            answer = operation.record(account, payload, outcome.id)
        else:
            answer = problem(402, "the provider refused", code=outcome.code)
        finish(identity, answer)
    return answer


def finish(identity: Identity, answer: Answer) -> None:
    stored = answer.status, json.dumps(answer.headers), answer.body
    db.execute(
        "UPDATE keys SET status = ?, headers = ?, body = ? WHERE account = ? AND path = ? AND key = ?",
        (*stored, *identity),
    )


def replay(row: sqlite3.Row) -> Answer:
    """The stored bytes, not a new rendering: the payment may have changed since, its answer has not."""
    headers = json.loads(row["headers"]) | {"Idempotent-Replayed": "true"}
    return Answer(row["status"], row["body"], headers)


if __name__ == "__main__":
    asyncio.run(run(parse_key, idempotent))
