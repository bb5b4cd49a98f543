"""Given: the database. What is committed here survives SIGKILL."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAYMENTS = """
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    account TEXT NOT NULL,
    amount INTEGER NOT NULL,
    currency TEXT NOT NULL,
    charge_id TEXT NOT NULL,
    status TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS payments_of_account ON payments (account);
"""

# isolation_level=None: each statement is committed by itself, unless it stands inside `transaction()`.
db = sqlite3.connect(Path(os.environ.get("STATE_DIR", ".")) / "state.db", isolation_level=None)
db.row_factory = sqlite3.Row
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = OFF")  # the process may die, the machine stays up
db.executescript(PAYMENTS)


@contextmanager
def transaction() -> Iterator[sqlite3.Connection]:
    """All of it or nothing. Don't `await` inside: everybody else would be in your transaction too."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
