"""Payments with a thread for each connection, from the standard library alone.

One lock guards the database and the set of identities that are being executed; it is never held while anybody waits
for the network. A duplicate of a running request waits on the lock's condition and gets what its leader got. Who runs
is known in memory only, so that it ends with the process; everything else is in the database before it is acted upon.
"""

import http.client
import json
import os
import re
import socket
import sqlite3
import threading
import time
import uuid
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HOST = os.environ.get("HOST", "127.0.0.1")
PORT = int(os.environ.get("PORT", 8000))
PROVIDER = urlsplit(os.environ.get("PROVIDER_URL", "http://127.0.0.1:9000"))
TIMEOUT = int(os.environ.get("PROVIDER_TIMEOUT_MS", 20_000)) / 1000
TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000

SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    account TEXT, path TEXT, key TEXT,
    payload TEXT,      -- NULL: not one of its requests can have been executed, so it is bound to nothing
    provider_key TEXT NOT NULL,
    chances INTEGER NOT NULL DEFAULT 1,  -- requests to the provider that may have been executed
    born REAL NOT NULL,
    status INTEGER, body BLOB, location TEXT,
    PRIMARY KEY (account, path, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (born);
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, account TEXT, amount INTEGER, currency TEXT, status TEXT, charge_id TEXT
);
CREATE INDEX IF NOT EXISTS payments_by_account ON payments (account);
"""

db = sqlite3.connect(
    Path(os.environ.get("STATE_DIR", ".")) / "payments.db", isolation_level=None, check_same_thread=False
)
db.row_factory = sqlite3.Row
db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + SCHEMA)
lock = threading.Lock()
ended = threading.Condition(lock)
running = {}  # identity -> Run


class Run:
    """One execution, and the duplicates that wait for it."""

    def __init__(self, payload):
        self.payload = payload
        self.answer = None


class Refused(Exception):
    def __init__(self, status, title, **members):
        self.status, self.document = status, {"title": title, **members}


class Answer:
    def __init__(self, status, body, location=None, replayed=False):
        self.status, self.body, self.location, self.replayed = status, body, location, replayed

    def headers(self):
        yield "Content-Type", "application/json" if self.status < 400 else "application/problem+json"
        if self.location:
            yield "Location", self.location
        if self.replayed:
            yield "Idempotent-Replayed", "true"
        if self.status in (409, 502, 503, 504):
            yield "Retry-After", "1"
        yield "Content-Length", str(len(self.body))


def problem(status, title, **members):
    return Answer(status, json.dumps({"title": title, **members}).encode())


class Transaction:
    """The lock and a transaction in one."""

    def __enter__(self):
        lock.acquire()
        db.execute("BEGIN IMMEDIATE")

    def __exit__(self, failure, *_):
        db.execute("COMMIT" if failure is None else "ROLLBACK")
        lock.release()


# --- what a request says

STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)" *(?:;.*)?')


def key_of(lines):
    found = STRING.fullmatch(lines[0].strip(" \t")) if len(lines) == 1 else None
    key = re.sub(r"\\(.)", r"\1", found[1]) if found else ""
    if not 1 <= len(key) <= 255:
        raise Refused(400, "Idempotency-Key must be one String of 1 to 255 characters")
    return key


def account_of(lines):
    found = re.fullmatch(r"Bearer ([A-Za-z0-9_]{1,64})", lines[0]) if len(lines) == 1 else None
    if not found:
        raise Refused(401, "Authorization: Bearer <account> is required")
    return found[1]


def members_of(body):
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be JSON") from None
    if not isinstance(document, dict):
        raise Refused(400, "the body must be an object")
    return document


def is_text(value, pattern):
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def valid_payment(account, body):
    given = members_of(body)
    amount = given.get("amount")
    fine = (
        type(amount) is int
        and 1 <= amount <= 99_999_999
        and is_text(given.get("currency"), "[a-z]{3}")
        and is_text(given.get("source"), "[A-Za-z0-9_]{1,64}")
        and is_text(given.get("description", ""), "(?s).{0,500}")
    )
    if not fine:
        raise Refused(400, "this is no payment")
    return {name: given[name] for name in ("amount", "currency", "source", "description") if name in given}


def valid_refund(account, body):
    identifier = members_of(body).get("payment_id")
    if not isinstance(identifier, str):
        raise Refused(400, "payment_id must be a string")
    with lock:
        payment_of(account, identifier)
    return {"payment_id": identifier}


def payment_of(account, identifier):
    row = db.execute("SELECT * FROM payments WHERE account = ? AND id = ?", (account, identifier)).fetchone()
    if row is None:
        raise Refused(404, "this account has no such payment")
    return row


# --- the two operations


def charge_request(account, payload):
    return "/v1/charges", payload


def refund_request(account, payload):
    with lock:
        return "/v1/refunds", {"charge": payment_of(account, payload["payment_id"])["charge_id"]}


def charged(account, payload, charge):
    identifier = uuid.uuid4().hex
    row = (identifier, account, payload["amount"], payload["currency"], "succeeded", charge)
    db.execute("INSERT INTO payments (id, account, amount, currency, status, charge_id) VALUES (?, ?, ?, ?, ?, ?)", row)
    body = json.dumps(shown(payment_of(account, identifier)), indent=2).encode()
    return Answer(201, body, f"/payments/{identifier}")


def refunded(account, payload, refund):
    db.execute("UPDATE payments SET status = 'refunded' WHERE id = ?", (payload["payment_id"],))
    return Answer(201, json.dumps({"id": refund, "payment_id": payload["payment_id"], "status": "succeeded"}).encode())


OPERATIONS = {
    "/payments": (valid_payment, charge_request, charged),
    "/refunds": (valid_refund, refund_request, refunded),
}


# --- the provider


def ask(target, payload, provider_key):
    """What the provider says: ("done", id), ("declined", code), ("not executed", ...) or ("unknown", ...)."""
    connection = http.client.HTTPConnection(PROVIDER.hostname, PROVIDER.port, timeout=TIMEOUT)
    headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{provider_key}"'}
    try:
        connection.request("POST", target, json.dumps(payload), headers)
        response = connection.getresponse()
        return meaning(response.status, response.read())
    except ConnectionRefusedError:
        return "not executed", 502
    except TimeoutError:
        return "unknown", 504
    except (OSError, http.client.HTTPException):
        return "unknown", 502
    finally:
        connection.close()


def meaning(status, body):
    if status in (429, 503):
        return "not executed", 503
    try:
        document = json.loads(body)
        if status == 201:
            return "done", str(document["id"])
        if status == 402:
            return "declined", str(document["error"]["code"])
    except (ValueError, KeyError, TypeError):
        pass
    return "unknown", 502


# --- the point of it all


def idempotent(account, path, key, body):
    validate, to_provider, record = OPERATIONS[path]
    payload = validate(account, body)
    identity = account, path, key
    text = json.dumps(payload, sort_keys=True)
    with lock:
        known = lookup(identity, text)
        if isinstance(known, Answer):
            return known
        run = running.get(identity)
        if run:
            if run.payload != text:
                raise Refused(422, "another payload is running under this key")
            ended.wait_for(lambda: run.answer)
            return run.answer
        run = running[identity] = Run(text)
        provider_key = claim(identity, text)
    try:
        verdict = ask(*to_provider(account, payload), provider_key)
        run.answer = settle(identity, verdict, lambda id: record(account, payload, id))
    finally:
        with lock:
            run.answer = run.answer or problem(503, "this failed, ask again")
            del running[identity]
            ended.notify_all()
    return run.answer


def lookup(identity, text):
    """The stored answer, or None when the request has to be executed."""
    row = db.execute("SELECT * FROM keys WHERE account = ? AND path = ? AND key = ?", identity).fetchone()
    if row is None or is_over(row):
        return None
    if row["payload"] not in (None, text):
        raise Refused(422, "this key was used with another payload")
    if row["status"]:
        return Answer(row["status"], row["body"], row["location"], replayed=True)
    return None


def is_over(row):
    return row["status"] is not None and row["born"] + TTL <= time.time()


def claim(identity, text):
    """Make the key durable, as new or as bound to this payload again, and return its provider key."""
    born = time.time()
    provider_key = sha256(json.dumps([*identity, born]).encode()).hexdigest()
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM keys WHERE status IS NOT NULL AND born <= ?", (born - TTL,))
    row = db.execute(
        "INSERT INTO keys (account, path, key, payload, provider_key, born) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET payload = excluded.payload, chances = chances + 1 RETURNING provider_key",
        (*identity, text, provider_key, born),
    ).fetchall()[0]
    db.execute("COMMIT")
    return row["provider_key"]


def settle(identity, verdict, record):
    kind, value = verdict
    where = "WHERE account = ? AND path = ? AND key = ?"
    with Transaction():
        if kind == "unknown":
            return problem(value, "nobody knows whether that was executed, ask again")
        if kind == "not executed":
            db.execute(f"UPDATE keys SET chances = chances - 1 {where}", identity)
            db.execute(f"UPDATE keys SET payload = NULL {where} AND chances = 0", identity)
            return problem(value, "that was not executed, ask again")
        answer = record(value) if kind == "done" else problem(402, "the provider refused", code=value)
        stored = (answer.status, answer.body, answer.location)
        db.execute(f"UPDATE keys SET status = ?, body = ?, location = ? {where}", (*stored, *identity))
        return answer


def shown(row):
    return {name: row[name] for name in ("id", "amount", "currency", "status", "charge_id")}


def read(account, path):
    with lock:
        if path == "/payments":
            rows = db.execute("SELECT * FROM payments WHERE account = ? ORDER BY number", (account,)).fetchall()
            return Answer(200, json.dumps({"data": [shown(row) for row in rows]}).encode())
        if not path.startswith("/payments/"):
            raise Refused(404, "nothing is here")
        return Answer(200, json.dumps(shown(payment_of(account, path.removeprefix("/payments/")))).encode())


# --- HTTP


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.respond(b"")

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            return self.reply(problem(411, "Content-Length is required"))
        body = self.rfile.read(int(length))
        if len(body) < int(length):  # cut off: it was never made
            self.close_connection = True
            return None
        return self.respond(body)

    def respond(self, body):
        try:
            self.reply(self.answer(body))
        except Refused as refused:
            self.reply(problem(refused.status, **refused.document))

    def answer(self, body):
        account = account_of(self.headers.get_all("Authorization", []))
        if self.command == "GET":
            return read(account, self.path)
        if self.path not in OPERATIONS:
            raise Refused(404, "nothing is here")
        return idempotent(account, self.path, key_of(self.headers.get_all("Idempotency-Key", [])), body)

    def reply(self, answer):
        head = [f"HTTP/1.1 {answer.status} {http.client.responses[answer.status]}"]
        head += [f"{name}: {value}" for name, value in answer.headers()]
        self.wfile.write("\r\n".join([*head, "", ""]).encode() + answer.body)

    def handle(self):
        with suppress(ConnectionError):  # the client is gone
            super().handle()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    address_family = socket.AF_INET6 if ":" in HOST else socket.AF_INET


Server((HOST, PORT), Handler).serve_forever()
