"""A pool of connections: lent to one request at a time, in fair order, never lost, never handed on in a bad state.

What keeps the promise, and where:

- A slot is the right to have one connection. It is taken before connecting (`_open`), so there are never more than
  POOL_MAX, and it is given back wherever a connection ends.
- Whatever becomes free, a connection or a bare slot, goes through `_give`: to the first waiter, or to the shelf. Nobody
  looks at the shelf while somebody waits, so nobody overtakes.
- A waiter that leaves may have been given something in that very moment: then it passes it on.
- `release` trusts facts only. A connection with an unanswered command, unread bytes, an end of file or an open MULTI is
  closed. That is also what becomes of a cancelled request's connection: its reply is never read by anybody.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import PoolTimeout, run
from resp import CommandTimeout, Connection, ConnectionLost, ProtocolError, Reply


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
    def __init__(self) -> None:
        self.slots = POOL_MAX  # how many connections may still be opened
        self.idle: list[Connection] = []  # the one used last is lent first, so that the others can expire
        self.waiters: deque[asyncio.Future[Connection | None]] = deque()  # each gets a connection, or None: a slot

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block. Raises PoolTimeout, OSError, ConnectionLost, TimeoutError."""
        connection = await self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    async def execute(self, *words: str | bytes, safe: bool) -> Reply:
        """One command. A `safe` one is repeated once if a connection that had served before died on it."""
        reused = False
        try:
            async with self.connection() as connection:
                reused = connection.used
                return await connection.call(*words)
        except ConnectionLost as lost:
            if not (safe and reused) or connection.unread or isinstance(lost, CommandTimeout | ProtocolError):
                raise
        async with self.connection() as connection:
            return await connection.call(*words)

    # -- lending ------------------------------------------------------------------------------------------------

    async def acquire(self) -> Connection:
        if not self.waiters:
            if connection := self._take_idle():
                return connection
            if self.slots:
                self.slots -= 1
                return await self._open()
        return await self._wait() or await self._open()

    def release(self, connection: Connection) -> None:
        connection.used = True
        connection.idle_since = asyncio.get_running_loop().time()
        if self._is_fit(connection):
            self._give(connection)
        else:
            connection.close()
            self._give(None)

    async def _wait(self) -> Connection | None:
        """Stand in line. Raises PoolTimeout."""
        turn = asyncio.get_running_loop().create_future()
        self.waiters.append(turn)
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                return await turn
        except TimeoutError:
            self._leave(turn)
            raise PoolTimeout from None
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[Connection | None]) -> None:
        if turn.done() and not turn.cancelled():
            self._give(turn.result())  # it was our turn in the very moment we left
        elif turn in self.waiters:
            self.waiters.remove(turn)

    def _give(self, free: Connection | None) -> None:
        """A connection, or with None a slot, goes to whoever waits longest, or else back on the shelf."""
        while self.waiters:
            turn = self.waiters.popleft()
            if not turn.done():  # else its client has left, and its task has only not run yet
                turn.set_result(free)
                return
        if free:
            self.idle.append(free)
        else:
            self.slots += 1

    # -- connections --------------------------------------------------------------------------------------------

    async def _open(self) -> Connection:
        """Open a connection for a slot that is taken already, and give the slot back if that fails."""
        connection = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connection = await Connection.open(*UPSTREAM)
                if PASSWORD:
                    await connection.call("AUTH", PASSWORD)
            return connection
        except BaseException:  # a cancellation too
            if connection:
                connection.close()
            self._give(None)
            raise

    def _take_idle(self) -> Connection | None:
        for connection in [each for each in self.idle if not self._is_fit(each)]:
            self.idle.remove(connection)
            connection.close()
            self.slots += 1
        return self.idle.pop() if self.idle else None

    def _is_fit(self, connection: Connection) -> bool:
        """In its initial state, and within its limits."""
        now = asyncio.get_running_loop().time()
        spoilt = connection.unanswered or connection.unread or connection.eof or connection.in_multi
        idle_too_long = IDLE_TIMEOUT and now - connection.idle_since > IDLE_TIMEOUT
        too_old = MAX_LIFETIME and now - connection.opened_at > MAX_LIFETIME
        return not (spoilt or idle_too_long or too_old)

    def close(self) -> None:
        for connection in self.idle:
            connection.close()


if __name__ == "__main__":
    run(Pool())
