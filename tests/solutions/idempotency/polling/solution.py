"""Payments whose only shared state is the database: even "somebody is executing this" is a lease in a row of it.

Whoever holds the lease of a request may ask the provider about it; a clock-driven thread renews all leases of this
process, and those of a dead one run out by themselves. Duplicates look into the database again and again until the
first is finished. What a dead process left unfinished is carried on at start-up without waiting for a client.
"""

import http.client
import json
import os
import re
import sqlite3
import threading
import time
import traceback
import uuid
from contextlib import closing, contextmanager, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PROVIDER = urlsplit(os.environ.get("PROVIDER_URL", "http://127.0.0.1:9000"))
TIMEOUT = int(os.environ.get("PROVIDER_TIMEOUT_MS", 20_000)) / 1000
TTL = int(os.environ.get("KEY_TTL_MS", 86_400_000)) / 1000
DATABASE = Path(os.environ.get("STATE_DIR", ".")) / "ledger.db"
ME = uuid.uuid4().hex
LEASE = 1.0  # seconds
POLL = 0.05

SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS requests (
    account TEXT, path TEXT, key TEXT,
    digest BLOB NOT NULL, payload TEXT NOT NULL, provider_key TEXT NOT NULL, first_use REAL NOT NULL,
    holder TEXT, held_until REAL,
    status INTEGER, body BLOB, location TEXT,
    PRIMARY KEY (account, path, key)
);
CREATE INDEX IF NOT EXISTS held ON requests (holder) WHERE holder IS NOT NULL;
CREATE INDEX IF NOT EXISTS unfinished ON requests (first_use) WHERE status IS NULL;
CREATE TABLE IF NOT EXISTS payments (
    id TEXT PRIMARY KEY, account TEXT, amount INTEGER, currency TEXT, charge_id TEXT, status TEXT
);
CREATE INDEX IF NOT EXISTS owner ON payments (account);
"""
THIS = "account = ? AND path = ? AND key = ?"


class Refused(Exception):
    """A request that is refused, and leaves no trace."""

    def __init__(self, status, title):
        self.status, self.title = status, title


class Taken(Exception):
    """Somebody else holds the lease."""

    def __init__(self, row):
        self.holder, self.provider_key = row["holder"], row["provider_key"]


def connect():
    db = sqlite3.connect(DATABASE, isolation_level=None, timeout=30)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA synchronous = OFF")
    return closing(db)


@contextmanager
def transaction():
    with connect() as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")  # whatever fails before this is rolled back by the closing


# --- leases


def take(identity, digest, payload, awaited=None):
    """Take the lease of a request: its row, finished or now ours to execute. Raises Taken.

    Who waited for the execution with the provider key `awaited` gets its outcome, even if that is too old by now.
    """
    with transaction() as db:
        row = db.execute(f"SELECT * FROM requests WHERE {THIS}", identity).fetchone()
        now = time.time()
        if row and row["status"] and row["provider_key"] != awaited and now >= row["first_use"] + TTL:
            db.execute(f"DELETE FROM requests WHERE {THIS}", identity)
            row = None
        if row is None:
            db.execute(
                "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
                (*identity, digest, json.dumps(payload), uuid.uuid4().hex, now, ME, now + LEASE),
            )
        elif row["digest"] != digest:
            raise Refused(422, "the key was used with other bytes")
        elif row["status"] is None:
            # A holder in this process is alive, even if its renewal is late.
            if row["holder"] and (row["holder"] == ME or row["held_until"] > now):
                raise Taken(row)
            db.execute(f"UPDATE requests SET holder = ?, held_until = ? WHERE {THIS}", (ME, now + LEASE, *identity))
        return db.execute(f"SELECT * FROM requests WHERE {THIS}", identity).fetchone()


def give_back(identity):
    with transaction() as db:
        db.execute(f"UPDATE requests SET holder = NULL WHERE {THIS} AND holder = ?", (*identity, ME))


def renew():
    while True:
        time.sleep(LEASE / 3)
        with transaction() as db:
            db.execute("UPDATE requests SET held_until = ? WHERE holder = ?", (time.time() + LEASE, ME))


def recover():
    """Carry on what the last process left unfinished, once each, as its leases run out."""
    with connect() as db:
        todo = db.execute("SELECT * FROM requests WHERE status IS NULL").fetchall()
    while todo:
        todo = [row for row in todo if not carry_on(row)]
        time.sleep(POLL)


def carry_on(left):
    identity = left["account"], left["path"], left["key"]
    try:
        row = take(identity, left["digest"], json.loads(left["payload"]))
    except Taken as taken:
        return taken.holder == ME  # a client was faster
    if row["status"] is None:
        threading.Thread(target=execute_alone, args=(row,), daemon=True).start()
    return True


def execute_alone(row):
    with suppress(Refused):  # not now, then; its client will ask again
        execute(row)


# --- execution


def execute(row):
    """Ask the provider; keep and return what it says if that is final. Raises Refused."""
    identity = row["account"], row["path"], row["key"]
    try:
        payload = json.loads(row["payload"])
        target, body = to_provider(row["account"], row["path"], payload)
        return finish(identity, payload, *ask(target, body, row["provider_key"]))
    except TimeoutError:
        raise Refused(504, "the outcome is unknown, ask again") from None
    except (OSError, http.client.HTTPException, LookupError, TypeError, ValueError):
        # Broken, cut off or not to be understood: whatever it was, it was no answer.
        raise Refused(502, "the outcome is unknown, ask again") from None
    finally:
        give_back(identity)


def to_provider(account, path, payload):
    if path == "/payments":
        return "/v1/charges", payload
    with connect() as db:
        return "/v1/refunds", {"charge": payment(db, account, payload["payment_id"])["charge_id"]}


def ask(target, body, provider_key):
    """The provider's final word: (201, id) or (402, code)."""
    connection = http.client.HTTPConnection(PROVIDER.hostname, PROVIDER.port, timeout=TIMEOUT)
    try:
        headers = {"Idempotency-Key": f'"{provider_key}"', "Content-Type": "application/json", "Connection": "close"}
        connection.request("POST", target, json.dumps(body), headers)
        response = connection.getresponse()
        document = json.loads(response.read())
    finally:
        connection.close()
    if response.status == 201:
        return 201, document["id"]
    if response.status == 402:
        return 402, document["error"]["code"]
    raise ConnectionError(f"the provider says {response.status}")


def finish(identity, payload, status, word):
    """The stored answer and what became of the payment, in one transaction."""
    account, path, _ = identity
    location = None
    with transaction() as db:
        if status == 402:
            document = {"title": "Refused by the payment provider", "code": word}
        elif path == "/payments":
            document = {"id": uuid.uuid4().hex, **amounts(payload), "charge_id": word, "status": "succeeded"}
            db.execute(
                "INSERT INTO payments VALUES (:id, :a, :amount, :currency, :charge_id, :status)",
                {"a": account, **document},
            )
            location = f"/payments/{document['id']}"
        else:
            document = {"id": word, "payment_id": payload["payment_id"], "status": "succeeded"}
            db.execute("UPDATE payments SET status = 'refunded' WHERE id = ?", (payload["payment_id"],))
        stored = status, json.dumps(document, separators=(",", ":")).encode(), location
        db.execute(
            f"UPDATE requests SET holder = NULL, status = ?, body = ?, location = ? WHERE {THIS}", (*stored, *identity)
        )
    return stored


def amounts(payload):
    return {"amount": payload["amount"], "currency": payload["currency"]}


def idempotent(identity, body, payload):
    """Status, body, location, replayed."""
    digest = sha256(body).digest()
    deadline = time.monotonic() + 2 * TIMEOUT
    awaited = None
    while time.monotonic() < deadline:
        try:
            row = take(identity, digest, payload, awaited)
        except Taken as taken:
            if taken.holder != ME:
                raise Refused(409, "a process that may be dead was executing this") from None
            awaited = taken.provider_key
            poll(identity, deadline)
            continue
        if row["status"]:
            return row["status"], row["body"], row["location"], True
        return *execute(row), False
    raise Refused(503, "the first request takes long, ask again")


def poll(identity, deadline):
    """Look again and again whether anybody still executes it."""
    with connect() as db:
        while time.monotonic() < deadline:
            time.sleep(POLL)
            held = db.execute(f"SELECT 1 FROM requests WHERE {THIS} AND holder IS NOT NULL", identity).fetchone()
            if not held:
                return


# --- requests


class Rejected(Refused):
    def __init__(self, title):
        super().__init__(400, title)


def parse_string(lines):
    """A String, read one character at a time as in RFC 9651 §4.2.5; parameters must look like some."""
    if len(lines) != 1:
        raise Rejected("exactly one Idempotency-Key is required")
    rest = iter(lines[0].strip(" \t"))
    decoded = []
    if next(rest, "") != '"':
        raise Rejected("Idempotency-Key must be a quoted String")
    for character in rest:
        if character == '"':
            break
        if character == "\\":
            character = next(rest, "")
            if character not in ('"', "\\"):
                raise Rejected("only quotes and backslashes are escaped")
        elif not " " <= character <= "~":
            raise Rejected("a String is printable ASCII")
        decoded.append(character)
    else:
        raise Rejected("the String does not end")
    if not re.fullmatch(r'(?:; *[a-z*][a-z0-9_.*-]*(?:=(?:"(?:[^"\\]|\\.)*"|[^;" ]+))?)*', "".join(rest)):
        raise Rejected("only parameters may follow a String")
    if not 1 <= len(decoded) <= 255:
        raise Rejected("a key has 1 to 255 characters")
    return "".join(decoded)


def valid(account, path, body):
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Rejected("the body is no JSON") from None
    if not isinstance(given, dict):
        raise Rejected("the body is no object")
    return valid_payment(given) if path == "/payments" else valid_refund(account, given)


def valid_payment(given):
    payload = {name: given[name] for name in ("amount", "currency", "source", "description") if name in given}
    if type(payload.get("amount")) is not int or not 1 <= payload["amount"] <= 99_999_999:
        raise Rejected("amount")
    for name, pattern in (("currency", "[a-z]{3}"), ("source", r"[A-Za-z0-9_]{1,64}")):
        if not isinstance(payload.get(name), str) or not re.fullmatch(pattern, payload[name]):
            raise Rejected(name)
    if not isinstance(payload.get("description", ""), str) or len(payload.get("description", "")) > 500:
        raise Rejected("description")
    return payload


def valid_refund(account, given):
    if not isinstance(given.get("payment_id"), str):
        raise Rejected("payment_id")
    with connect() as db:
        return {"payment_id": payment(db, account, given["payment_id"])["id"]}


def payment(db, account, identifier):
    row = db.execute("SELECT * FROM payments WHERE id = ? AND account = ?", (identifier, account)).fetchone()
    if row is None:
        raise Refused(404, "there is no such payment")
    return row


def shown(row):
    return {name: row[name] for name in ("id", "amount", "currency", "charge_id", "status")}


def read(account, path):
    with connect() as db:
        if path == "/payments":
            rows = db.execute("SELECT * FROM payments WHERE account = ? ORDER BY rowid", (account,))
            document = {"data": [shown(row) for row in rows]}
        elif path.startswith("/payments/"):
            document = shown(payment(db, account, path.removeprefix("/payments/")))
        else:
            raise Refused(404, "there is nothing")
    return 200, json.dumps(document).encode(), None, False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.respond(b"")

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) == length:
            self.respond(body)
        else:
            self.close_connection = True  # cut off: it was never made

    def respond(self, body):
        try:
            self.write(*self.answer(body))
        except Refused as refused:
            self.write(refused.status, json.dumps({"title": refused.title}).encode(), None, False)
        except Exception:
            traceback.print_exc()
            self.write(500, b'{"title": "a bug"}', None, False)

    def answer(self, body):
        bearer = re.fullmatch(r"Bearer ([A-Za-z0-9_]{1,64})", self.headers.get("Authorization", ""))
        if bearer is None:
            raise Refused(401, "who are you?")
        if self.command == "GET":
            return read(bearer[1], self.path)
        if self.path not in ("/payments", "/refunds"):
            raise Refused(404, "there is nothing")
        key = parse_string(self.headers.get_all("Idempotency-Key", []))
        return idempotent((bearer[1], self.path, key), body, valid(bearer[1], self.path, body))

    def write(self, status, body, location, replayed):
        head = [f"HTTP/1.1 {status} {http.client.responses[status]}", f"Content-Length: {len(body)}"]
        head.append("Content-Type: application/" + ("json" if status < 400 else "problem+json"))
        head += [f"Location: {location}"] if location else []
        head += ["Idempotent-Replayed: true"] if replayed else []
        head += ["Connection: close", "", ""]
        self.close_connection = True
        self.wfile.write("\r\n".join(head).encode() + body)

    def handle(self):
        with suppress(ConnectionError):  # the client is gone
            super().handle()

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    with connect() as db:
        db.executescript(SCHEMA)
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", 8000))), Handler)
    threading.Thread(target=renew, daemon=True).start()
    threading.Thread(target=recover, daemon=True).start()
    server.serve_forever()
