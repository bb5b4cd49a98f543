"""What a connection pool owes the requests that share it: the behaviours of the kata `connection_pool`.

The harness is the clients in front and the Redis server behind, so it decides who waits, when a reply comes, and who
leaves in which moment. What must never happen (a connection too many, two requests on one) is looked for at each step.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Iterator

import pytest

from harness import waiting
from harness.behaviour import Source, behaviour, hints, incident, rfc
from harness.peers.redis import Redis, Session
from harness.solution.program import STOPPED, Solution
from harness.verdicts import LimitReached
from harness.wire.http1 import Request, Response

PEERS = [Redis]
ONE = {"POOL_MAX": 1}
ACQUIRE = 60  # ms; so are the next
COMMAND = 80
IDLE = 30
LATE = 50  # by which a timer may be late on a busy machine
GENEROUS = 500  # for what merely has to happen: only a program that is wrong takes so long
TRIES = 20  # of what a busy machine may spoil
IMPATIENT = {"POOL_MAX": 1, "ACQUIRE_TIMEOUT_MS": ACQUIRE}
SHORT = {"POOL_MAX": 1, "COMMAND_TIMEOUT_MS": COMMAND, "CONNECT_TIMEOUT_MS": COMMAND}
EXPIRING = {"IDLE_TIMEOUT_MS": IDLE}
AGEING = {"MAX_LIFETIME_MS": IDLE, "POOL_MAX": 1}
TWO = {"POOL_MAX": 2}
DRAINING = {"DRAIN_TIMEOUT_MS": 10}
CMAP_URL = "https://github.com/mongodb/specifications/blob/master/source/connection-monitoring-and-pooling"
REDIS_PY = Source("README P6; redis-py #2624, #2665", "https://github.com/redis/redis-py/issues/2665")
ASYNCPG = Source("README P5, P7; asyncpg #467", "https://github.com/MagicStack/asyncpg/issues/467")
IDEMPOTENT = rfc(9110, "9.2.2", "Idempotent Methods")
REUSE, FAIR = "sequential_reuse", "fifo_waiters"
TOO_LATE = {502, 503, 504}


def cmap(section: str, rule: str) -> Source:
    """A section of MongoDB's Connection Monitoring and Pooling, beside the rule of the brief."""
    return Source(f"README {rule}; CMAP, {section}", f"{CMAP_URL}/connection-monitoring-and-pooling.md")


def brief(rule: str, words: str) -> Source:
    return Source(f"README {rule}, {words}")


class Gateway:
    """The solution in the words of this kata."""

    def __init__(self, solution: Solution, redis: Redis, chance: random.Random) -> None:
        self.solution, self.redis, self.chance = solution, redis, chance
        self._requests = 0

    @property
    def most(self) -> int:
        return self.redis.most

    def key(self, word: str = "k") -> str:
        return f"{word}-{''.join(self.chance.choices('abcdefghijklmnopqrstuvwxyz0123456789', k=6))}"

    def stored(self, value: bytes, word: str = "k") -> str:
        """A key that redis knows, with this value."""
        key = self.key(word)
        self.redis.data[key.encode()] = value
        return key

    def send(self, method: str, target: str, body: bytes = b"", missing: int = 0) -> Request:
        self._requests += 1
        return Request(self.solution, "client", method, target, [], body, missing, number=self._requests)

    def get(self, key: str) -> Request:
        return self.send("GET", f"/kv/{key}")

    def put(self, key: str, value: bytes, missing: int = 0) -> Request:
        return self.send("PUT", f"/kv/{key}", value, missing)

    def increment(self, key: str) -> Request:
        return self.send("POST", f"/counter/{key}")

    def swap(self, key: str, value: bytes) -> Request:
        return self.send("POST", f"/swap/{key}", value)

    def answer(self, request: Request) -> Response:
        """The response to a request; nothing forbidden has happened by then."""
        reply = request.response()
        self.look_around()
        return reply

    def look_around(self) -> None:
        assert not self.redis.offences, self.redis.offences[0]

    def settled(self) -> None:
        self.solution.settled()
        self.look_around()

    def fetched(self, key: str) -> bytes:
        """The value of a key that is known, asked for through the gateway."""
        reply = self.answer(self.get(key))
        assert reply.status == 200, f"200 and the value of {key} are owed, and came {reply}"
        return reply.body

    def works(self) -> None:
        """An ordinary request is served."""
        value = self.key("v").encode()
        assert self.fetched(self.stored(value)) == value, "the value that redis holds is owed"

    def works_in_full(self) -> None:
        """All of POOL_MAX can be had at the same time: no slot is lost."""
        keys = [self.stored(b"full") for _ in range(self.most)]
        with self.redis.holding("GET"):
            requests = [self.get(key) for key in keys]
            owed = f"{self.most} commands at once: POOL_MAX slots are there again"
            self.solution.until(lambda: len(self.redis.held) == self.most, owed, "redis")
        for request in requests:
            assert self.answer(request).status == 200, "each of them is answered"

    def emptied(self) -> None:
        """Redis closes what is idle: whoever comes next needs a new connection."""
        for session in self.redis.open_sessions:
            session.connection.half_close()
        self.settled()

    def until_closed(self, sessions: list[Session], owed: str) -> None:
        """Wait until the gateway has closed these connections."""
        self.solution.until(lambda: not any(each.open for each in sessions), owed, "redis")

    def counted(self, request: Request, value: int) -> None:
        """The answer to an INCR."""
        reply = self.answer(request)
        assert (reply.status, reply.body) == (200, b"%d" % value), f"200 {value} is owed, and came {reply}"

    def until_came(self, name: str, key: str = "") -> None:
        """Redis has a command, as the scene needs it; with short limits it may have been given up by now."""
        waiting.until_reached(self.solution, lambda: self.redis.seen(name, key), f"{name} {key}".strip())

    def until_served_in_time(self, wanted: int = 200) -> None:
        """With short limits an ordinary request may come too late on a busy machine: then it proves nothing."""
        for _ in range(50):
            key, began = self.stored(b"fine"), waiting.now()
            reply = self.answer(self.get(key))
            if reply.status == wanted or waiting.now() - began < COMMAND / 2000:
                assert reply.status == wanted, f"{wanted} is owed, and came {reply}"
                return
        raise LimitReached(f"50 requests in a row took longer than {COMMAND / 2} ms: the machine is too busy")


@pytest.fixture
def redis(solution: Solution) -> Redis:
    return solution.peer(Redis)


@pytest.fixture
def gateway(solution: Solution, redis: Redis, chance: random.Random) -> Iterator[Gateway]:
    gateway = Gateway(solution, redis, chance)
    yield gateway
    offences = redis.offences
    solution.leave_tripwire(lambda: bool(offences), "a connection too many, or two requests on one, after all was over")


def statuses(gateway: Gateway, requests: Iterable[Request]) -> list[int]:
    return [gateway.answer(request).status for request in requests]


# -- stage 1: basics ------------------------------------------------------------------------------------------------


@behaviour(stage=1, source=brief("HTTP", "requests and answers"))
def test_surface_roundtrip(gateway: Gateway, redis: Redis) -> None:
    """All five endpoints work, and values are bytes: CR LF, NUL, nothing at all, a megabyte."""
    for value in [b"plain", b"", b"\r\n$5\r\nalice\r\n", b"\x00\xff" * 9, gateway.chance.randbytes(1 << 20)]:
        key = gateway.key()
        assert gateway.answer(gateway.put(key, value)).status == 204, "PUT is answered with 204"
        assert redis.data.get(key.encode()) == value, "redis holds just the bytes of the body"
        reply = gateway.answer(gateway.get(key))
        assert reply.status == 200, f"a key with {len(value)} bytes is there: 200 is owed, and came {reply.status}"
        assert reply.body == value, "the value comes back byte by byte"
    assert gateway.answer(gateway.get(gateway.key())).status == 404, "a key that is not there is 404"
    counter = gateway.key("c")
    gateway.counted(gateway.increment(counter), 1)
    gateway.counted(gateway.increment(counter), 2)
    swapped = gateway.key("s")
    assert gateway.answer(gateway.swap(swapped, b"new")).status == 204, "there was no old value: 204"
    reply = gateway.answer(gateway.swap(swapped, b"newer"))
    assert (reply.status, reply.body) == (200, b"new"), f"200 and the old value are owed, and came {reply}"
    assert redis.data[swapped.encode()] == b"newer", "swap has set the new value"


@behaviour(stage=1, alone=True, source=cmap("Creating a Connection Pool", "P3"))
def test_lazy_start(gateway: Gateway, redis: Redis) -> None:
    """The gateway opens nothing before the first request wants it, and then one connection."""
    assert gateway.answer(gateway.send("GET", "/healthz")).status == 200, "/healthz needs no redis"
    gateway.settled()
    assert redis.accepts == 0, f"nobody has asked for anything, and {redis.accepts} connections are open"

    gateway.works()
    gateway.settled()
    assert redis.accepts == 1, f"one request needs one connection, and {redis.accepts} were opened"


@behaviour(stage=1, source=brief("P3", "connections are reused"), needs="surface_roundtrip")
def test_sequential_reuse(gateway: Gateway, redis: Redis) -> None:
    """Requests one after the other use one connection, and one AUTH."""
    gateway.works()
    before, auths = redis.accepts, len(redis.seen("AUTH"))
    for _ in range(20):
        gateway.works()

    assert redis.accepts == before, f"the connection is free each time, and {redis.accepts - before} more were opened"
    assert len(redis.seen("AUTH")) == auths, "a connection that is known already needs no AUTH"


@behaviour(stage=1, source=cmap("Connection Pool, Capped", "P1, P4"), needs="surface_roundtrip")
@hints(
    "What does the fifth request do when all four are lent?",
    "It waits: put a future into a queue, and await it.",
    "Whoever gives a connection back looks into the queue first, and at the shelf only if nobody waits.",
)
def test_max_respected(gateway: Gateway, redis: Redis) -> None:
    """With all connections busy no further one is opened, and a waiting request is served when one comes back."""
    keys = [gateway.stored(b"%d" % number) for number in range(gateway.most + 3)]
    with redis.holding("GET"):
        requests = [gateway.get(key) for key in keys]
        gateway.solution.until(lambda: len(redis.held) == gateway.most, f"{gateway.most} commands", "redis")
        gateway.settled()
        assert len(redis.open_sessions) <= gateway.most, f"POOL_MAX is {gateway.most}"
    bodies = [gateway.answer(request).body for request in requests]
    assert bodies == [b"%d" % number for number in range(len(keys))], "each request gets its own value in the end"


@behaviour(stage=1, points=2, settings=IMPATIENT, source=cmap("WaitQueue, timeout", "P4"), needs="max_respected")
def test_exhausted_503(gateway: Gateway, redis: Redis) -> None:
    """A waiter gets 503 with Retry-After when ACQUIRE_TIMEOUT_MS is over, not before; its command is never sent."""
    first, late, next_one = gateway.stored(b"a"), gateway.stored(b"b"), gateway.stored(b"c")
    with redis.holding("GET"):
        holder = gateway.get(first)
        redis.until_held()
        began = waiting.now()
        reply = gateway.answer(gateway.get(late))
        waited = (waiting.now() - began) * 1000
        assert reply.status == 503, f"nothing was free for {ACQUIRE} ms: 503 is owed, and came {reply}"
        assert reply.header("retry-after"), "a 503 says when to come again: Retry-After"
        assert waited >= 0.9 * ACQUIRE, f"ACQUIRE_TIMEOUT_MS is {ACQUIRE}, and the answer came after {waited:.0f} ms"
    assert gateway.answer(holder).body == b"a", "who holds the connection gets the answer"
    assert gateway.fetched(next_one) == b"c", "and the next request is served"
    assert redis.keys == [first, next_one], "a request that was refused with 503 leaves no command behind"


@behaviour(stage=1, source=brief("P5", "every slot comes back"), needs="max_respected")
def test_upstream_down_502(gateway: Gateway, redis: Redis) -> None:
    """While connects are refused every request gets 502, and afterwards all of POOL_MAX can be had."""
    with redis.down():
        gateway.settled()
        requests = [gateway.get(gateway.key()) for _ in range(gateway.most + 2)]
        owed = f"{[502] * len(requests)}"
        assert statuses(gateway, requests) == [502] * len(requests), f"redis refuses connections: {owed} is owed"
    gateway.works_in_full()


# -- stage 2: edges -------------------------------------------------------------------------------------------------


@behaviour(stage=2, hidden=True, source=brief("P6", "an error reply is a reply"), needs="sequential_reuse")
def test_error_reply_keeps_connection(gateway: Gateway, redis: Redis) -> None:
    """An error reply is 502, and no reason to give the connection up."""
    text = gateway.stored(b"no number")
    gateway.works()
    before = redis.accepts
    for _ in range(3):
        reply = gateway.answer(gateway.increment(text))
        assert reply.status == 502, f"redis says -ERR: 502 is owed, and came {reply}"
    with redis.answering("EXEC", b"*2\r\n-WRONGTYPE Operation against a key of another type\r\n+OK\r\n"):
        reply = gateway.answer(gateway.swap(gateway.key(), b"new"))
        assert reply.status == 502, f"redis says -WRONGTYPE inside of EXEC: 502 is owed, and came {reply}"
    gateway.works()
    assert redis.accepts == before, "the connection is fine after -ERR, and another one was opened"


@behaviour(stage=2, points=3, settings=ONE, source=brief("P8", "a FIN that is here already"), needs="sequential_reuse")
@incident(
    "The Go client redigo lends a connection that the server has closed long ago, unless the program brings a "
    "check of its own (TestOnBorrow)."
)
def test_dead_idle_replaced(gateway: Gateway, redis: Redis) -> None:
    """If redis closed an idle connection, the next request works at once, also one that is never repeated."""
    gateway.works()
    gateway.emptied()

    counter = gateway.key("c")
    gateway.counted(gateway.increment(counter), 1)
    assert len(redis.seen("INCR", counter)) == 1, "INCR is sent once"


@behaviour(
    stage=2, settings=EXPIRING, source=cmap("Connection, perished: idle", "IDLE_TIMEOUT_MS"), needs="max_respected"
)
def test_idle_expired_not_reused(gateway: Gateway, redis: Redis) -> None:
    """A connection that was idle for longer than IDLE_TIMEOUT_MS is closed, and not used again."""
    gateway.works()
    old = redis.open_sessions
    waiting.elapse(gateway.solution, IDLE + LATE)

    counter = gateway.key("c")
    gateway.counted(gateway.increment(counter), 1)
    (command,) = redis.seen("INCR", counter)
    assert command.session not in old, f"idle for {IDLE + LATE} ms with a limit of {IDLE}, and it was used again"
    gateway.solution.until(
        lambda: not any(each.open for each in old), "the end of the connection that expired", "redis"
    )


@behaviour(
    stage=2,
    hidden=True,
    settings=AGEING,
    source=Source("README MAX_LIFETIME_MS; Go database/sql, SetConnMaxLifetime", "https://pkg.go.dev/database/sql"),
    needs="sequential_reuse",
)
def test_lifetime_renews(gateway: Gateway, redis: Redis) -> None:
    """A connection older than MAX_LIFETIME_MS is replaced, even if it is used all the time."""
    gateway.works()
    gateway.emptied()
    counter, number = gateway.key("c"), 1
    gateway.counted(gateway.increment(counter), 1)
    (first,), began = {each.session for each in redis.seen("INCR", counter)}, waiting.now()
    while waiting.now() < began + GENEROUS / 1000:
        number += 1
        gateway.counted(gateway.increment(counter), number)
        if redis.seen("INCR", counter)[-1].session is not first:
            return
    raise AssertionError(f"MAX_LIFETIME_MS is {IDLE}, and a connection is still used after {GENEROUS} ms")


@behaviour(
    stage=2, hidden=True, settings=AGEING | EXPIRING, source=cmap("Checking In", "limits"), needs="sequential_reuse"
)
def test_long_use_not_cut(gateway: Gateway, redis: Redis) -> None:
    """Neither limit cuts a connection while it is in use."""
    key = gateway.stored(b"patience")
    with redis.holding("GET"):
        request = gateway.get(key)
        redis.until_held()
        waiting.elapse(gateway.solution, 1.2 * IDLE)
        gateway.settled()  # a timer that was due by then has fired, however late
        assert redis.held, "the connection was closed while a command was under way on it"
    reply = gateway.answer(request)
    assert (reply.status, reply.body) == (200, b"patience"), f"200 and the value are owed, and came {reply}"


@behaviour(
    stage=2,
    hidden=True,
    settings=EXPIRING,
    source=Source(
        "README IDLE_TIMEOUT_MS; go-redis, PoolFIFO", "https://pkg.go.dev/github.com/redis/go-redis/v9#Options"
    ),
    needs="idle_expired_not_reused",
)
@hints(
    "After a burst four connections lie idle; one request a moment comes. Which one does it get?",
    "If the one that lies longest is taken, none of them ever expires.",
    "Take the one that was given back last (a stack), and let the others grow old.",
)
@incident("go-redis lends the connection that was used last; the other order, PoolFIFO, is off by default.")
def test_shrinks_under_light_load(gateway: Gateway, redis: Redis) -> None:
    """After a burst, light traffic keeps few connections alive, and the others expire."""
    for _ in range(TRIES):
        gateway.works_in_full()
        if _longest_round(gateway, redis) < IDLE / 1000:
            break  # else a queue too would have shrunk: on a busy machine each of the four has to wait for long
    gateway.works()


def _longest_round(gateway: Gateway, redis: Redis) -> float:
    """Send one request a moment until one connection is left; the longest that POOL_MAX of them took, in seconds."""
    times = [waiting.now()]
    while len(redis.open_sessions) > 1 and times[-1] < times[0] + GENEROUS / 1000:
        gateway.works()
        waiting.elapse(gateway.solution, 1)
        times.append(waiting.now())
    left = len(redis.open_sessions)
    assert left <= 1, f"one request at a time needs one connection, and {left} are kept for {GENEROUS} ms"
    return max((end - begin for begin, end in zip(times, times[gateway.most :], strict=False)), default=math.inf)


@behaviour(stage=2, hidden=True, points=3, settings=ONE, source=REDIS_PY, needs="sequential_reuse")
@hints(
    "An idle connection should be silent.",
    "End of file is only one of two ways to be spoilt.",
    "Before you lend a connection, refuse it if it has anything to read.",
)
@incident(
    "redis-py takes an idle connection that can be read for dirty; redigo lends it without a look, unless the "
    "program brings a check of its own (TestOnBorrow)."
)
def test_stale_bytes_discarded(gateway: Gateway, redis: Redis) -> None:
    """Bytes that come on an idle connection are never taken for a reply."""
    bob = gateway.stored(b"bob")
    gateway.works()
    for session in redis.open_sessions:
        session.say(b"$5\r\nalice\r\n")
    gateway.settled()

    assert gateway.fetched(bob) == b"bob", "bytes that nobody asked for are nobody's reply"
    assert gateway.fetched(bob) == b"bob", "nor the next one's"


@behaviour(
    stage=2,
    hidden=True,
    points=3,
    settings=ONE,
    source=Source(
        "README P6; Redis, Transactions", "https://redis.io/docs/latest/develop/using-commands/transactions/"
    ),
    needs="surface_roundtrip",
)
def test_aborted_transaction_not_inherited(gateway: Gateway, redis: Redis) -> None:
    """If a swap fails inside MULTI, the next request is not queued into that transaction."""
    key = gateway.stored(b"value")
    with redis.answering("SET", b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"):
        reply = gateway.answer(gateway.swap(gateway.key(), b"new"))
        assert reply.status == 502, f"redis refused: 502 is owed, and came {reply}"
    assert gateway.fetched(key) == b"value", "the next request starts on a connection outside MULTI"
    assert gateway.answer(gateway.swap(key, b"new")).body == b"value", "and the next swap has a transaction of its own"


@behaviour(stage=2, hidden=True, source=brief("P5, P6", "AUTH and maxclients"), needs="upstream_down_502")
def test_refused_handshake_leaks_nothing(gateway: Gateway, redis: Redis) -> None:
    """AUTH refused, or redis full: 502, the socket is closed, and the slot is free."""
    for way in (redis.refusing_auth(), redis.greeting_with(b"-ERR max number of clients reached\r\n")):
        gateway.emptied()
        with way:
            for _ in range(gateway.most + 1):
                reply = gateway.answer(gateway.get(gateway.key()))
                assert reply.status == 502, f"no connection can be had: 502 is owed, and came {reply}"
            gateway.settled()
            left = len(redis.open_sessions)
            assert not left, f"connections that were refused are closed, and {left} are still open"
    gateway.works_in_full()


# -- stage 3: concurrency -------------------------------------------------------------------------------------------


@behaviour(stage=3, alone=True, source=cmap("Connection Pool, Capped", "P1"), needs="max_respected")
@hints(
    "How long is it between “may I?” and “I did”?",
    "There is an `await` between your comparison and your increment.",
    "Take the slot first, connect then, and give the slot back if that fails.",
)
def test_first_use_burst(gateway: Gateway, redis: Redis) -> None:
    """Many requests at once on an empty pool open exactly POOL_MAX connections."""
    keys = [gateway.stored(b"%d" % number) for number in range(20)]
    with redis.holding("AUTH"):
        requests = [gateway.get(key) for key in keys]
        gateway.solution.until(lambda: len(redis.held) >= gateway.most, f"{gateway.most} connections", "redis")
        gateway.settled()
        assert redis.accepts == gateway.most, f"POOL_MAX is {gateway.most}, and {redis.accepts} connections are opened"
    bodies = [gateway.answer(request).body for request in requests]
    assert bodies == [b"%d" % number for number in range(20)], "each request gets its own value in the end"


def in_line(gateway: Gateway, keys: list[str]) -> list[Request]:
    """Requests that wait, in this order for certain."""
    requests = []
    for key in keys:
        requests.append(gateway.get(key))
        gateway.settled()
    return requests


@behaviour(stage=3, settings=ONE, source=cmap("WaitQueue, ordered and fair", "P4"), needs="max_respected")
@incident(
    "MongoDB wrote a whole specification, Connection Monitoring and Pooling, so that the pools of all its drivers"
    " serve their waiters fairly and alike."
)
def test_fifo_waiters(gateway: Gateway, redis: Redis) -> None:
    """Waiters are served in the order of arrival."""
    keys = [gateway.stored(b"%d" % number, f"{number}") for number in range(6)]
    with redis.holding("GET"):
        holder = gateway.get(keys[0])
        redis.until_held()
        waiters = in_line(gateway, keys[1:])
    for request in [holder, *waiters]:
        assert gateway.answer(request).status == 200, "everybody is served"
    assert redis.keys == keys, f"they came as {keys}, and were served as {redis.keys}"


@behaviour(
    stage=3, hidden=True, settings=ONE, source=cmap("Checking Out, no newer thread first", "P4"), needs="fifo_waiters"
)
@hints(
    "Who looks at the idle list in the instant a connection comes back?",
    "To wake a waiter is not the same as to give it the connection.",
    "Put the connection into the first waiter's future; while anybody waits, newcomers queue.",
)
@incident(
    "redis-py's own BlockingConnectionPool does not keep this promise: put in the place of this kata's pool, its "
    "condition variable lets a newcomer in before the one who waits."
)
def test_no_barging(gateway: Gateway, redis: Redis) -> None:
    """A request that arrives in the instant a connection comes back does not get it before the one that waits."""
    for newcomers_first in (False, True):
        redis.commands.clear()
        holder_key, waiter_key = gateway.stored(b"h", "holder"), gateway.stored(b"w", "waiter")
        with redis.holding("GET"):
            holder = gateway.get(holder_key)
            (held,) = redis.until_held()
            (waiter,) = in_line(gateway, [waiter_key])
            newcomers = [gateway.put(gateway.key("new"), b"xy", missing=1) for _ in range(5)]
            gateway.settled()
            redis.hold()
            with gateway.solution.frozen():
                if not newcomers_first:
                    held.release()
                for request in newcomers:
                    request.connection.send(b"y")
                if newcomers_first:
                    held.release()
            answers = statuses(gateway, [holder, waiter, *newcomers])
        assert answers == [200, 200, *[204] * 5], f"everybody is served, and the answers were {answers}"
        assert redis.keys[:2] == [holder_key, waiter_key], (
            f"who waits longest is next: {waiter_key} is owed after {holder_key}, and came {redis.keys[1]}"
        )


@behaviour(stage=3, source=brief("P4", "nobody holds up the others"), needs="max_respected")
def test_busy_connection_blocks_nobody(gateway: Gateway, redis: Redis) -> None:
    """One slow command does not slow the other connections, and /healthz answers when all are busy."""
    slow = [gateway.stored(b"slow", "slow") for _ in range(gateway.most)]
    with redis.holding("GET"):
        requests = [gateway.get(slow[0])]
        redis.until_held()
        redis.hold()
        for _ in range(10):
            gateway.works()
        redis.hold("GET")
        requests += [gateway.get(key) for key in slow[1:]]
        redis.until_held(gateway.most)
        assert gateway.answer(gateway.send("GET", "/healthz")).status == 200, "/healthz needs no connection"
    assert statuses(gateway, requests) == [200] * gateway.most, "and the slow ones are answered in the end"


@behaviour(
    stage=3,
    hidden=True,
    alone=True,
    settings=TWO,
    source=cmap("Checking Out, connecting does not block", "P4"),
    needs="max_respected",
)
def test_slow_connect_blocks_nobody(gateway: Gateway, redis: Redis) -> None:
    """While one connection is being opened, a connection that comes back is lent."""
    first, second, third = (gateway.stored(b"%d" % number) for number in range(3))
    with redis.holding("GET", "AUTH"):
        one = gateway.get(first)
        redis.until_held()[0].release()  # AUTH of the first connection
        gateway.solution.until(lambda: redis.held and redis.held[0].name == "GET", "GET on it", "redis")
        get = redis.held[0]
        two = gateway.get(second)
        redis.until_held(2)
        redis.hold("AUTH")
        get.release()
        assert gateway.answer(one).body == b"0", "the first request is answered"
        reply = gateway.answer(gateway.get(third))
        assert reply.body == b"2", "a free connection is lent, though another one is being opened"
    assert gateway.answer(two).body == b"1", "and the slow connect is used in the end"


@behaviour(
    stage=3, hidden=True, settings={"POOL_MAX": 3}, source=brief("P2", "one request at a time"), needs="max_respected"
)
def test_one_request_per_connection(gateway: Gateway, redis: Redis) -> None:
    """Two requests never share a connection at the same time, also after errors."""
    keys = [gateway.stored(b"%d" % number) for number in range(24)]
    text = gateway.stored(b"no number")
    for batch in (keys[:8], keys[8:16], keys[16:]):
        broken = [gateway.increment(text) for _ in range(3)]
        with redis.holding("GET", "INCR"):
            requests = [gateway.get(key) for key in batch]
            redis.until_held(gateway.most)
            gateway.settled()
        assert statuses(gateway, broken) == [502] * 3, "an error reply is 502"
        bodies = [gateway.answer(request).body for request in requests]
        owed = [redis.data[key.encode()] for key in batch]
        assert bodies == owed, f"each request gets its own value: {owed} are owed, and came {bodies}"


@behaviour(stage=3, hidden=True, settings=ONE, source=cmap("WaitQueue", "P7"), needs="fifo_waiters")
def test_departed_waiter_skipped(gateway: Gateway, redis: Redis) -> None:
    """A client that leaves while it waits is skipped, and its command is never sent."""
    keys = [gateway.stored(b"%d" % number, word) for number, word in enumerate(["holder", "leaver", "stayer"])]
    with redis.holding("GET"):
        holder = gateway.get(keys[0])
        redis.until_held()
        leaver, stayer = in_line(gateway, keys[1:])
        leaver.hang_up()
        gateway.settled()
    assert gateway.answer(holder).body == b"0", "the holder is answered"
    assert gateway.answer(stayer).body == b"2", "who stayed is served"
    gateway.settled()
    assert redis.keys == [keys[0], keys[2]], "nobody waits for the value of a client that left: it is never asked for"


@behaviour(stage=3, points=5, settings=ONE, source=REDIS_PY, needs="sequential_reuse")
@hints(
    "What is still in the socket when a request is abandoned?",
    "`finally: put it back` runs for cancellations too.",
    "On release look at the facts (unanswered, unread, eof, in_multi), and close the connection if any says no.",
)
@incident(
    "On 20 March 2023 ChatGPT showed users the titles of other people's chats, and their billing data: a "
    "cancelled request had left its reply unread on a pooled Redis connection, and the next request took it for "
    "its own (redis-py #2624, #2665; CVE-2023-28858, CVE-2023-28859)."
)
def test_departed_user_no_crosstalk(gateway: Gateway, redis: Redis) -> None:
    """If a client leaves while its command runs, the next request gets its own reply, not the first one's."""
    alice, bob = gateway.stored(b"alice", "alice"), gateway.stored(b"bob", "bob")
    gateway.works()
    with redis.holding("GET"):
        leaver = gateway.get(alice)
        redis.until_held()
        leaver.hang_up()
        gateway.settled()
        redis.hold()
        request = gateway.get(bob)
        gateway.settled()
    assert gateway.answer(request).body == b"bob", "a reply belongs to the request that caused it, and to no other"
    assert gateway.fetched(bob) == b"bob", "also to the one after it"


@behaviour(stage=3, hidden=True, alone=True, settings=ONE, source=ASYNCPG, needs="max_respected")
@incident("asyncpg #547: a task that was cancelled at the wrong moment took its connection out of the pool for good.")
def test_departed_while_connecting(gateway: Gateway, redis: Redis) -> None:
    """If a client leaves while its connection is being opened, neither the slot nor the socket is lost."""
    value = gateway.stored(b"mine")
    with redis.holding("AUTH"):
        leaver = gateway.get(gateway.key())
        redis.until_held()
        leaver.hang_up()
        gateway.settled()
        request = gateway.get(value)
        gateway.settled()
    assert gateway.answer(request).body == b"mine", "the slot of a client that left is free again"
    gateway.works_in_full()


@behaviour(stage=3, hidden=True, points=5, settings=ONE, source=ASYNCPG, needs="departed_waiter_skipped")
@hints(
    "A future can be done, and its task cancelled.",
    "Then `await future` raises, although the connection is in it.",
    "In the `except` look at `future.done() and not future.cancelled()`, and pass the result on.",
)
@incident(
    "asyncpg (#467) and psycopg (#1345) lost connections in this very instant: the waiter was cancelled when the "
    "connection had been given to it already."
)
def test_handoff_meets_disconnect(gateway: Gateway, redis: Redis) -> None:
    """If a waiter leaves in the instant it is given the connection, the connection goes to the next one."""
    for leaves_first in (False, True):
        holder_key, leaver_key, stayer_key = (gateway.stored(word.encode(), word) for word in ("hold", "leave", "stay"))
        with redis.holding("GET"):
            holder = gateway.get(holder_key)
            (held,) = redis.until_held()
            leaver, stayer = in_line(gateway, [leaver_key, stayer_key])
            redis.hold()
            with gateway.solution.frozen():
                if leaves_first:
                    leaver.hang_up()
                held.release()
                if not leaves_first:
                    leaver.hang_up()
            assert gateway.answer(holder).body == b"hold", "the holder is answered"
            assert gateway.answer(stayer).body == b"stay", "and the one who stayed is next"
        gateway.works()


@behaviour(
    stage=3,
    hidden=True,
    settings=IMPATIENT,
    source=Source("README P5; CPython, bpo-37658", "https://github.com/python/cpython/issues/81839"),
    needs="exhausted_503",
)
@incident(
    "asyncio itself had this race: in `wait_for`, a cancellation or a time-out that met a result which had just "
    "come lost one of the two (bpo-37658)."
)
def test_handoff_meets_timeout(gateway: Gateway, redis: Redis) -> None:
    """If a waiter's time is over in the instant a connection comes back, the holder is answered and nothing is lost."""
    holder_key, waiter_key = gateway.stored(b"hold", "hold"), gateway.stored(b"wait", "wait")
    with redis.holding("GET"):
        holder = gateway.get(holder_key)
        (held,) = redis.until_held()
        (waiter,) = in_line(gateway, [waiter_key])
        redis.hold()
        with gateway.solution.frozen():
            waiting.elapse(gateway.solution, 1.1 * ACQUIRE)
            held.release()
        assert gateway.answer(holder).body == b"hold", "the holder is answered, whatever became of the waiter"
        reply = gateway.answer(waiter)
        assert reply.status in (200, 503), f"200 or 503 is owed, and came {reply}"
    for _ in range(3):
        gateway.works()


# -- stage 4: faults ------------------------------------------------------------------------------------------------


@behaviour(stage=4, hidden=True, settings=SHORT, source=REDIS_PY, needs="sequential_reuse")
@incident(
    "redis-py gave a connection back although the reply to an abandoned command was still to come; it then "
    "answered somebody else's (#2665)."
)
def test_timed_out_reply_not_reused(gateway: Gateway, redis: Redis) -> None:
    """A command without a reply is 504 after COMMAND_TIMEOUT_MS, and the late reply reaches nobody."""
    alice, bob = gateway.stored(b"alice", "alice"), gateway.stored(b"bob", "bob")
    gateway.until_served_in_time()
    with redis.holding("GET"):
        began = waiting.now()
        late = gateway.get(alice)
        gateway.until_came("GET", alice)
        reply = gateway.answer(late)
        assert reply.status == 504, f"no reply within {COMMAND} ms: 504 is owed, and came {reply}"
        waited = (waiting.now() - began) * 1000
        assert waited >= COMMAND - 8, f"COMMAND_TIMEOUT_MS is {COMMAND}, and the 504 came after {waited:.0f} ms"
        redis.hold()
        request = gateway.get(bob)
        gateway.settled()
    reply = gateway.answer(request)
    assert reply.status in TOO_LATE or reply.body == b"bob", f"the value of bob is owed, and came {reply}"
    gateway.until_served_in_time()
    assert reply.status in TOO_LATE or reply.body == b"bob", f"the value of bob is owed, and came {reply}"


@behaviour(stage=4, hidden=True, settings=ONE, source=brief("P5", "who waits is served at once"), needs="max_respected")
def test_discard_wakes_waiter(gateway: Gateway, redis: Redis) -> None:
    """When a connection is thrown away, the next waiter opens a new one at once."""
    key = gateway.stored(b"next")
    with redis.holding("GET"):
        holder = gateway.get(gateway.stored(b"first"))
        (held,) = redis.until_held()
        (waiter,) = in_line(gateway, [key])
        redis.hold()
        held.drop()
        reply = gateway.answer(waiter)
    assert reply.body == b"next", f"a slot is free: the waiter is owed its value, and got {reply}"
    assert gateway.answer(holder).status in (200, 502), "a GET whose connection broke is repeated, or 502"


@behaviour(
    stage=4,
    hidden=True,
    alone=True,
    settings=ONE,
    source=brief("P5", "also when a connect fails"),
    needs="max_respected",
)
@hints(
    "Connections are not the only thing that becomes free.",
    "List every line that lowers your counter.",
    "After each of them wake the first waiter with: no connection, but a slot, so connect yourself.",
)
def test_failed_connect_wakes_waiter(gateway: Gateway, redis: Redis) -> None:
    """When a connect fails, the next waiter tries at once."""
    key = gateway.stored(b"next")
    with redis.holding("AUTH"):
        first = gateway.get(gateway.key())
        (auth,) = redis.until_held()
        (waiter,) = in_line(gateway, [key])
        redis.hold()
        auth.answer_instead(b"-WRONGPASS invalid username-password pair\r\n", close=True)
        reply = gateway.answer(first)
        assert reply.status == 502, f"AUTH was refused: 502 is owed, and came {reply}"
        reply = gateway.answer(waiter)
    assert reply.body == b"next", f"the slot is free: the waiter is owed its value, and got {reply}"


@behaviour(
    stage=4, hidden=True, alone=True, settings=SHORT, source=brief("P5", "CONNECT_TIMEOUT_MS"), needs="max_respected"
)
def test_connect_timeout_frees_slot(gateway: Gateway, redis: Redis) -> None:
    """A connect that never finishes ends with 502, 503 or 504, its socket closed and its slot free."""
    with redis.holding("AUTH"):
        first = gateway.get(gateway.key())
        gateway.until_came("AUTH")
        reply = gateway.answer(first)
        assert reply.status in TOO_LATE, f"redis never answers AUTH: 502, 503 or 504 is owed, and came {reply}"
        gateway.solution.until(lambda: not redis.open_sessions, "the end of the connection that never was", "redis")
    gateway.until_served_in_time()


@behaviour(
    stage=4, hidden=True, settings=ONE, source=brief("P6", "an unparsable or cut-off reply"), needs="sequential_reuse"
)
def test_broken_reply_not_reused(gateway: Gateway, redis: Redis) -> None:
    """A reply that is no RESP, or is cut off, is 502 and ends the connection."""
    for reply, close in ((b"?what\r\n", False), (b"$5\r\nab", True), (b":12", True), (b"$x\r\n", False)):
        gateway.works()
        old = redis.open_sessions
        with redis.answering("INCR", reply, close):
            answer = gateway.answer(gateway.increment(gateway.key("c")))
        assert answer.status == 502, f"{reply!r} is no reply: 502 is owed, and came {answer}"
        gone = "the end of a connection on which nothing can be trusted"
        gateway.until_closed(old, gone)
        gateway.works()


@behaviour(stage=4, hidden=True, settings=ONE, source=IDEMPOTENT, needs="dead_idle_replaced")
def test_safe_retry_once(gateway: Gateway, redis: Redis) -> None:
    """A GET whose reused connection is closed instead of answered is repeated once, and not for ever."""
    key = gateway.stored(b"again")
    gateway.works()
    redis.drop_next("GET")
    assert gateway.fetched(key) == b"again", "a GET may be repeated on another connection"
    assert len(redis.seen("GET", key)) == 2, "once is enough"

    hopeless = gateway.stored(b"never")
    redis.drop_next("GET", times=100)
    reply = gateway.answer(gateway.get(hopeless))
    redis.drop_next("GET", times=0)
    assert reply.status == 502, f"redis hangs up each time: 502 is owed, and came {reply}"
    sent = len(redis.seen("GET", hopeless))
    assert sent <= 3, f"a repeat is for one connection that died of age, and GET was sent {sent} times"
    gateway.works()


@behaviour(
    stage=4,
    hidden=True,
    points=5,
    settings=ONE,
    source=IDEMPOTENT,
    needs="dead_idle_replaced",
)
@hints(
    "Which commands may run twice without harm?",
    "“Connection lost” does not mean “not executed”.",
    "Repeat only what is safe, only on a connection that had served before, only once.",
)
def test_unsafe_never_retried(gateway: Gateway, redis: Redis) -> None:
    """An INCR or a swap that may have been executed is never sent again: 502, seen once."""
    gateway.works()
    counter = gateway.key("c")
    redis.drop_next("INCR")
    reply = gateway.answer(gateway.increment(counter))
    assert len(redis.seen("INCR", counter)) == 1, "nobody knows whether it was executed: INCR is not sent again"
    assert reply.status == 502, f"502 is owed, and came {reply}"

    gateway.works()
    before = len(redis.seen("EXEC"))
    redis.drop_next("EXEC")
    reply = gateway.answer(gateway.swap(gateway.key("s"), b"new"))
    assert len(redis.seen("EXEC")) == before + 1, "nobody knows whether it was executed: EXEC is not sent again"
    assert reply.status == 502, f"502 is owed, and came {reply}"
    gateway.counted(gateway.increment(counter), 1)


@behaviour(
    stage=4,
    source=Source("README P8; redis-py #2727", "https://github.com/redis/redis-py/pull/2727"),
    needs=("dead_idle_replaced", "upstream_down_502"),
)
def test_upstream_restart(gateway: Gateway, redis: Redis) -> None:
    """After a restart of redis the first requests work, with at most POOL_MAX connects."""
    gateway.works_in_full()
    with redis.down():
        gateway.settled()
        assert gateway.answer(gateway.get(gateway.key())).status == 502, "redis is down: 502"
    before, counter = redis.accepts, gateway.key("c")
    replies = [gateway.answer(request) for request in [gateway.increment(counter) for _ in range(20)]]
    owed = [(200, b"%d" % number) for number in range(1, 21)]
    came = sorted(((reply.status, reply.body) for reply in replies), key=lambda each: (len(each[1]), each))
    assert came == owed, f"20 INCRs give 1 to 20, and came {came}"
    assert redis.accepts - before <= gateway.most, f"{redis.accepts - before} connects, and POOL_MAX is {gateway.most}"


@behaviour(stage=4, hidden=True, source=brief("P9", "a failed connect costs one request"), needs="upstream_down_502")
def test_outage_no_storm(gateway: Gateway, redis: Redis) -> None:
    """While every connect fails, each request causes one attempt at most, and none comes without a request."""
    gateway.emptied()
    before = redis.accepts
    with redis.greeting_with(b"-ERR max number of clients reached\r\n"):
        requests = [gateway.increment(gateway.key("c")) for _ in range(30)]
        assert statuses(gateway, requests) == [502] * 30, "no connection can be had: 502 for everybody"
        gateway.settled()
        attempts = redis.accepts - before
        assert attempts <= 30, f"30 requests, and {attempts} attempts to connect"
    gateway.works()
    gateway.settled()
    assert redis.accepts - before - attempts <= 1, "nobody connects without a request"


@behaviour(
    stage=4, hidden=True, settings=EXPIRING, source=brief("P5", "expiry and use"), needs="idle_expired_not_reused"
)
def test_eviction_meets_request(gateway: Gateway, redis: Redis) -> None:
    """A request that arrives in the instant its connection expires is answered, and executed once."""
    counter = gateway.key("c")
    gateway.works()
    with redis.holding("INCR"):
        with gateway.solution.frozen():
            waiting.elapse(gateway.solution, 1.2 * IDLE)
            request = gateway.increment(counter)
        gateway.solution.until(lambda: redis.held, "INCR", "redis")
        gateway.settled()
    gateway.counted(request, 1)
    assert len(redis.seen("INCR", counter)) == 1, "INCR is sent once"


@behaviour(stage=4, alone=True, settings=ONE, source=brief("P10", "SIGTERM"), needs="max_respected")
def test_sigterm_drains(gateway: Gateway, redis: Redis) -> None:
    """After SIGTERM the running request gets its answer and a waiting one gets one, then the process ends."""
    with redis.holding("GET"):
        running = gateway.get(gateway.stored(b"running"))
        redis.until_held()
        (waiter,) = in_line(gateway, [gateway.stored(b"waiting")])
        gateway.solution.terminate()
        gateway.settled()
        redis.release()
        assert gateway.answer(running).body == b"running", "what is under way is brought to its end"
        reply = gateway.answer(waiter)
        assert reply.status == 503 or reply.body == b"waiting", f"the value or 503 is owed, and came {reply}"
    status = gateway.solution.until_exit("to end once everybody is answered")
    assert status in STOPPED, f"exit status 0 or an end by SIGTERM is owed, and came {status}"


@behaviour(
    stage=4, hidden=True, alone=True, settings=DRAINING, source=brief("P10", "DRAIN_TIMEOUT_MS"), needs="max_respected"
)
def test_sigterm_deadline(gateway: Gateway, redis: Redis) -> None:
    """A command that never ends does not keep the process alive longer than DRAIN_TIMEOUT_MS."""
    with redis.holding("GET"):
        gateway.get(gateway.stored(b"never"))
        redis.until_held()
        gateway.solution.terminate()
        gateway.solution.until_exit("to end, though a command does not")


# -- stage 5: scale -------------------------------------------------------------------------------------------------


@behaviour(stage=5, hidden=True, settings=TWO, source=cmap("WaitQueue", "Scale"), needs="fifo_waiters")
def test_many_waiters_linear(gateway: Gateway, redis: Redis) -> None:
    """A request costs as much with 250 waiting as with 10."""

    def cost(number: int, served: int) -> float:
        """CPU seconds for each of the first that are served, while the others wait."""
        keys = [gateway.stored(b"x") for _ in range(number)]
        with redis.holding("GET"):
            requests = [gateway.get(key) for key in keys]
            redis.until_held(2)
            gateway.settled()
            before = gateway.solution.cpu_seconds()
            for _ in range(served):
                redis.until_held(2)[0].release()  # both connections are lent again: the last one was passed on
            redis.until_held(2)
            gateway.settled()
            spent = gateway.solution.cpu_seconds() - before
        for request in requests:
            assert gateway.answer(request).status == 200, "everybody is served in the end"
        return spent / served

    cost(10, served=8)
    few, many = statistics.median(cost(10, served=8) for _ in range(3)), cost(250, served=20)
    assert many <= 4 * few + 0.0003, (
        f"a request cost {few * 1000:.2f} ms of CPU with 10 in line, and {many * 1000:.2f} ms with 250"
    )


@behaviour(stage=5, source=brief("P5", "nothing is lost"), needs="departed_user_no_crosstalk")
def test_churn_leaves_no_trace(gateway: Gateway, redis: Redis) -> None:
    """After many requests of which a third left at random points, nothing is lost."""
    gateway.works_in_full()
    gateway.settled()
    sockets = gateway.solution.sockets()
    for _ in range(5):
        with redis.holding("GET"):
            requests = [gateway.get(gateway.stored(b"%d" % number)) for number in range(16)]
            leavers = gateway.chance.sample(requests, 5)
            redis.until_held()
            for request in leavers[:3]:
                request.hang_up()
            gateway.settled()
            for command in gateway.chance.sample(redis.held, 1):
                command.release()
            for request in leavers[3:]:
                request.hang_up()
        for request in requests:
            if request not in leavers:
                assert gateway.answer(request).status == 200, "who stays is served"
    gateway.works_in_full()
    gateway.settled()
    left = gateway.solution.sockets() - sockets
    assert left <= 3, f"everybody has gone, and {left} more sockets are open than before"
