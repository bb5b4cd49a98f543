"""A pool of connections to redis: lent to one request at a time, in fair order, never lost, never handed on dirty.

app.py answers the HTTP requests, and asks for connections here. resp.py speaks to the server, and tells facts of each
connection (`unanswered`, `unread`, `eof`, `in_multi`, `opened_at`, `used`, `idle_since`); what they mean is for you to
say. When a client leaves, its handler is cancelled: CancelledError comes out of the `await` where it stands.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import run
from resp import Connection, Reply


def milliseconds(name: str, default: int) -> float:
    return int(os.environ.get(name, default)) / 1000


UPSTREAM = os.environ.get("UPSTREAM_HOST", "127.0.0.1"), int(os.environ.get("UPSTREAM_PORT", 6379))
PASSWORD = os.environ.get("UPSTREAM_PASSWORD", "")
POOL_MAX = int(os.environ.get("POOL_MAX", 4))
ACQUIRE_TIMEOUT = milliseconds("ACQUIRE_TIMEOUT_MS", 20_000)
CONNECT_TIMEOUT = milliseconds("CONNECT_TIMEOUT_MS", 20_000)
IDLE_TIMEOUT = milliseconds("IDLE_TIMEOUT_MS", 0)  # 0: no limit, as for the next
MAX_LIFETIME = milliseconds("MAX_LIFETIME_MS", 0)


class Pool:
    """At most POOL_MAX connections, those still being opened included."""

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block, whatever happens in it."""
        connection = await self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    async def execute(self, *words: str | bytes, safe: bool) -> Reply:
        """One command on a connection of the pool.

        Later: if a connection that had served before is lost before the first byte of the reply, a `safe` command
        (P8) is repeated once on another one. One that is not safe never is.
        """
        async with self.connection() as connection:
            return await connection.call(*words)

    async def acquire(self) -> Connection:
        """A connection that is fit to be used: an idle one, or a new one if there is a slot, or else wait.

        Begin with _open() for each request; then keep what comes back; then count. Raise app.PoolTimeout when there was
        nothing for ACQUIRE_TIMEOUT. Mind the order: while somebody waits, a newcomer queues.
        """
        raise NotImplementedError("acquire() in solution.py")

    def release(self, connection: Connection) -> None:
        """The block has ended, with an answer, an error or a cancellation: lend the connection again, or close it."""
        raise NotImplementedError("release() in solution.py")

    async def _open(self) -> Connection:
        """Connect (`Connection.open(*UPSTREAM)`) and AUTH if there is a PASSWORD, within CONNECT_TIMEOUT.

        If that fails, or is cancelled, neither the socket nor the slot may be lost.
        """
        raise NotImplementedError("_open() in solution.py")

    def close(self) -> None:
        """The gateway ends: close what is idle."""


if __name__ == "__main__":
    run(Pool())
