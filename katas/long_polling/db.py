"""Given: the database. What is committed here survives SIGKILL."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# isolation_level=None: each statement is committed by itself, unless it stands inside `transaction()`.
db = sqlite3.connect(Path(os.environ.get("STATE_DIR", ".")) / "state.db", isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = OFF")  # the process may die, the machine stays up


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
