"""The identity provider behind the kata `jwt`: it owns all keys, publishes a JWK Set, and counts who fetches it.

A fetch counts when its request has come, before any reply. What is published then is what the reply will say, also
if it is held back until `release()`. A fault answers all fetches wrongly in one way until its block ends.
Source: RFC 7517, 5 (JWK Set).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import waiting
from harness.peers.tokens import EcKey, Jwk, Key, rsa_key
from harness.solution.program import Solution
from harness.wire.http1 import Incoming, Server
from harness.wire.tcp import Connection, Listener

NAME = "issuer"
PATH = "/jwks"
Reply = Callable[[Incoming, bytes], None]


class Fetch:
    """One request for the key set, and the set that it gets."""

    def __init__(self, incoming: Incoming, body: bytes) -> None:
        self.incoming, self.body = incoming, body
        self.hold = 0  # its number in the record


class IdentityProvider:
    """GET /jwks, and a decoy to which only a forged header leads."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.rsa, self.ec = rsa_key("rsa-1"), EcKey("ec-1")
        self.server = Server(solution.network, NAME, solution.record.solution, self._asked)
        self.decoy = Listener(solution.network, "decoy", solution.record.solution, self._lured)
        self.lured = 0
        self.fetches: list[Fetch] = []
        self._held: list[Fetch] = []
        self._holding = False
        self._reply: Reply | None = None
        self.publish(self.rsa, self.ec)

    def environment(self) -> dict[str, str]:
        return {"JWKS_URL": self.server.url + PATH}

    def begin(self) -> None:
        self._holding, self._reply = False, None
        for fetch in self._held:
            fetch.incoming.drop()
        self._held, self.fetches = [], []
        self.lured = 0
        self.server.listener.open()
        self.publish(self.rsa, self.ec)

    @property
    def decoy_url(self) -> str:
        host, port = self.decoy.address
        return f"http://{host}:{port}/keys"

    # -- verbs --------------------------------------------------------------------------------------------------

    def publish(self, *keys: Key | Jwk | object) -> None:
        """From now on the set holds these: keys, or entries as they are."""
        entries = [getattr(key, "jwk", key) for key in keys]
        self.body = json.dumps({"keys": entries}).encode()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep the replies to all fetches back, until `release()` or the end of the block."""
        self._holding = True
        yield
        self.release()

    def release(self) -> None:
        self._holding = False
        held, self._held = self._held, []
        for fetch in held:
            self.solution.record.release(NAME, "lets it go", fetch.hold)
            self._serve(fetch)

    @contextmanager
    def answering(self, reply: Reply) -> Iterator[None]:
        """Every fetch of the block is answered in this way."""
        self._reply = reply
        yield
        self._reply = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens."""
        self.solution.record.down(NAME, "refuses connections")
        self.server.close_connections()
        self.server.listener.close()
        yield
        self.server.listener.open()
        self.solution.record.up(NAME, "is back")

    def until_fetched(self, number: int) -> None:
        """Wait until that many fetches have come, as a scene needs it."""
        waiting.until_reached(self.solution, lambda: len(self.fetches) >= number, f"{number} fetches of the key set")

    def is_asked(self, number: int) -> None:
        """Wait for that many fetches in all, because the behaviour is about just that. Raises Broken."""
        self.solution.until(lambda: len(self.fetches) >= number, "a fetch of the key set", NAME)

    # -- serving ------------------------------------------------------------------------------------------------

    def _asked(self, incoming: Incoming) -> None:
        fetch = Fetch(incoming, self.body)
        self.fetches.append(fetch)
        if self._holding:
            self._held.append(fetch)
            fetch.hold = self.solution.record.hold(NAME, "holds the reply")
        else:
            self._serve(fetch)

    def _serve(self, fetch: Fetch) -> None:
        if self._reply:
            self._reply(fetch.incoming, fetch.body)
        else:
            fetch.incoming.answer(200, fetch.body)

    def _lured(self, connection: Connection) -> None:
        self.lured += 1
        connection.hang_up()
