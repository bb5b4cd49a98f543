"""The payment provider behind the kata `idempotency`: charges cards once a key, and loses replies when told to.

What it does to a request is a named verb: `holding()` keeps requests back until `release()`, before or after the
charge was executed; `failing(FAULT)` answers all requests wrongly in one way until the block ends. Nothing here is
answered late by a timer. The provider is told apart by `source`: each behaviour uses sources of its own, and
`Books` are what the provider knows of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness import waiting
from harness.solution.program import Solution
from harness.wire.http1 import Incoming, Server
from harness.wire.structured import read_string

NAME = "provider"
LONGEST_KEY = 255


class Fault(StrEnum):
    """One way to go wrong each. Those that execute leave the caller in the dark about it."""

    DECLINE = "refuses the card for good (402)"
    UNAVAILABLE = "executes nothing and says 503"
    TOO_MANY = "executes nothing and says 429"
    DROP_BEFORE = "hangs up before it executes"
    DROP_AFTER = "executes and hangs up without a word"
    TRUNCATE = "executes and breaks off in the middle of its 201"
    ERROR_AFTER = "executes and says 500"
    GARBAGE = "executes and answers 201 with a body that is no JSON"


NOT_EXECUTED = {Fault.DECLINE, Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.DROP_BEFORE}


@dataclass
class Asked:
    """One request that arrived, and what became of it."""

    path: str
    key: str
    body: dict[str, Any]
    incoming: Incoming
    executed: bool = False
    hold: int = 0  # its number in the record


@dataclass
class Charge:
    """Money that moved."""

    id: str
    key: str
    body: dict[str, Any]


@dataclass
class Books:
    """What the provider knows of one behaviour: what it was asked, what it executed."""

    asked: list[Asked] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    refunds: list[Charge] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    overlaps: int = 0  # requests that came while one with the same key was under way

    @property
    def amounts(self) -> list[int]:
        return [charge.body["amount"] for charge in self.charges]

    @property
    def keys(self) -> list[str]:
        """The distinct provider keys that were used, oldest first."""
        return list(dict.fromkeys(asked.key for asked in self.asked))


@dataclass
class Known:
    """What a key stands for at the provider, for ever."""

    path: str
    body: dict[str, Any]
    status: int = 0
    answer: bytes = b""


class PaymentProvider:
    """POST /v1/charges and /v1/refunds, with an `Idempotency-Key` whose namespace is the whole service."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.server = Server(solution.network, NAME, solution.record.solution, self._asked)
        self.books = Books()
        self._known: dict[str, Known] = {}
        self._running: dict[str, Asked] = {}
        self._held: list[Asked] = []
        self._holding: str = ""
        self._fault: Fault | None = None
        self._number = 0
        self._owners: dict[str, Books] = {}  # charge id or source -> the books it belongs to

    # -- the scene ----------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        return {"PROVIDER_URL": self.server.url}

    def begin(self) -> None:
        """New books; requests about what stands in old ones still go to the old ones."""
        self.drop_held()
        self._holding, self._fault = "", None
        self.books = Books()
        self.server.listener.open()

    # -- verbs --------------------------------------------------------------------------------------------------

    @contextmanager
    def holding(self, executed: bool = False) -> Iterator[None]:
        """Keep requests back, not yet executed or already `executed`, until `release()` or the end of the block."""
        self._holding = "after" if executed else "before"
        yield
        if self._holding:
            self.release()

    def release(self) -> None:
        """Execute and answer everything that is held, in the order of arrival, and hold no more."""
        self._holding = ""
        held, self._held = self._held, []
        for asked in held:
            self._go_on(asked)

    def release_one(self) -> None:
        """Answer the request that is held longest; the others stay."""
        asked = self._held.pop(0)
        self._go_on(asked)

    def drop_held(self) -> None:
        """Forget what is held: not executed if it was not, not answered in any case."""
        held, self._held = self._held, []
        for asked in held:
            self._running.pop(asked.key, None)
            if not asked.incoming.gone:
                asked.incoming.drop()

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """Every request of the block meets this fault."""
        self._fault = fault
        self.solution.record.note(NAME, f"from now on {fault.value}")
        yield
        self._fault = None
        self.solution.record.note(NAME, "works again")

    @contextmanager
    def refusing_connections(self) -> Iterator[None]:
        """Nobody listens on the provider's port."""
        self.solution.record.down(NAME, "refuses connections")
        self.server.close_connections()
        self.server.listener.close()
        yield
        self.server.listener.open()
        self.solution.record.up(NAME, "is back")

    def is_owed(self, number: int, what: str) -> None:
        """Wait until `number` requests have arrived, because the behaviour is about just that. Raises Broken."""
        books = self.books
        self.solution.until(lambda: len(books.asked) >= number, what, NAME)

    def until_held(self, number: int = 1) -> None:
        """Wait until `number` requests are held back."""
        waiting.until_reached(
            self.solution,
            lambda: len(self._held) >= number,
            f"{number} held requests at the provider",
        )

    # -- serving ------------------------------------------------------------------------------------------------

    def _asked(self, incoming: Incoming) -> None:
        body = _json_object(incoming.body)
        books = self._books_of(body)
        key, problem = _provider_key(incoming)
        if problem:
            books.malformed.append(problem)
        if body is None or incoming.target not in ("/v1/charges", "/v1/refunds"):
            books.malformed.append(f"{incoming.method} {incoming.target} with {incoming.body[:200]!r}")
            incoming.answer(400, b'{"error": {"code": "bad_request"}}')
            return
        asked = Asked(incoming.target, key, body, incoming)
        books.asked.append(asked)
        if key and key in self._running:
            books.overlaps += 1
            incoming.answer(409, b'{"error": {"code": "still_running"}}')
        elif self._holding:
            self._hold(asked)
        else:
            self._serve(asked)

    def _hold(self, asked: Asked) -> None:
        if self._holding == "after":
            self._execute(asked)
        self._running[asked.key] = asked
        self._held.append(asked)
        asked.hold = self.solution.record.hold(NAME, f"holds it, {'executed' if asked.executed else 'not executed'}")

    def _go_on(self, asked: Asked) -> None:
        self._running.pop(asked.key, None)
        self.solution.record.release(NAME, "lets it go", asked.hold)
        self._serve(asked)

    def _serve(self, asked: Asked) -> None:
        fault, incoming = self._fault, asked.incoming
        if fault in NOT_EXECUTED:
            self._refuse(asked)
            return
        known, replayed = self._execute(asked)
        match fault:
            case Fault.DROP_AFTER:
                incoming.drop()
            case Fault.TRUNCATE:
                incoming.answer_cut_off(known.status, known.answer)
            case Fault.ERROR_AFTER:
                incoming.answer(500, b'{"error": {"code": "internal"}}')
            case Fault.GARBAGE:
                incoming.answer(201, b'{"id": "ch_', "text/html")
            case _ if known.path != asked.path or known.body != asked.body:
                incoming.answer(422, b'{"error": {"code": "key_reused"}}')
            case _:
                extra = [("Idempotent-Replayed", "true")] if replayed else []
                incoming.answer(known.status, known.answer, extra=extra)

    def _refuse(self, asked: Asked) -> None:
        match self._fault:
            case Fault.DECLINE:
                answer = b'{"error": {"code": "card_declined"}}'
                if asked.key:
                    self._known[asked.key] = Known(asked.path, asked.body, 402, answer)
                asked.incoming.answer(402, answer)
            case Fault.UNAVAILABLE:
                asked.incoming.answer(503, b'{"error": {"code": "try_later"}}')
            case Fault.TOO_MANY:
                asked.incoming.answer(429, b'{"error": {"code": "try_later"}}')
            case _:
                asked.incoming.drop()

    def _execute(self, asked: Asked) -> tuple[Known, bool]:
        """Move the money, unless this key moved it before."""
        if asked.executed or (asked.key and asked.key in self._known):
            return self._known[asked.key or f"once {id(asked)}"], not asked.executed
        self._number += 1
        kind = "ch" if asked.path == "/v1/charges" else "re"
        done = Charge(f"{kind}_{self._number:06d}", asked.key, asked.body)
        books = self._books_of(asked.body)
        known = self._outcome(asked, done)
        if known.status == 201:
            (books.charges if kind == "ch" else books.refunds).append(done)
            self._owners[done.id] = books
            self.solution.record.note(NAME, "charges the card" if kind == "ch" else "refunds the charge")
        asked.executed = True
        self._known[asked.key or f"once {id(asked)}"] = known
        return known, False

    def _outcome(self, asked: Asked, done: Charge) -> Known:
        refunded = {refund.body.get("charge") for refund in self._books_of(asked.body).refunds}
        if asked.path == "/v1/refunds" and asked.body.get("charge") in refunded:
            return Known(asked.path, asked.body, 402, b'{"error": {"code": "already_refunded"}}')
        answer = json.dumps({"id": done.id, "object": "charge", **asked.body}).encode()
        return Known(asked.path, asked.body, 201, answer)

    def _books_of(self, body: dict[str, Any] | None) -> Books:
        """The books that a charge of this source, or a refund of this charge, belongs in."""
        if body is None:
            return self.books
        name = str(body.get("source") or body.get("charge"))
        return self._owners.setdefault(name, self.books)


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _provider_key(incoming: Incoming) -> tuple[str, str]:
    """The key of a request, "" without one, and what is wrong with it."""
    lines = incoming.header_values("idempotency-key")
    if not lines:
        return "", ""
    key = read_string(lines[0]) if len(lines) == 1 else None
    if key is None or not 1 <= len(key) <= LONGEST_KEY:
        return "", f"the provider's Idempotency-Key is no String of 1 to 255 characters: {lines}"
    return key, ""
