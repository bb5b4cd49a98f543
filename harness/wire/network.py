"""Every socket that the harness owns around one solution, and the only place where bytes move.

One thread, one selector: nothing is sent, received or accepted except inside `turn`, so between two turns
the harness's side of the world stands still, and what a behaviour looks at can't change under its eyes.
This file knows no protocol and no clock.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from harness import interrupt
from harness.story.record import Record
from harness.wire.tape import Tape

P = TypeVar("P")


class Party(Protocol):
    """Something with a descriptor that wants to be told when it can go on."""

    def fileno(self) -> int: ...

    def interest(self) -> int:
        """The selector events this party waits for now, 0 for none."""

    def on_ready(self, events: int) -> bool:
        """Move what can be moved; True when anything moved."""


class Network:
    """The harness's end of all connections of one scene."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Party, int] = {}
        self.tape: Tape | None = None  # for those who want every byte
        self.ports: set[int] = set()  # that the harness's parties listen on, or will again
        self.departed: list[Party] = []  # closed by the harness; the solution may not have noticed yet

    def __contains__(self, party: Party) -> bool:
        return party in self._watched

    def add(self, party: Party) -> None:
        self._watched[party] = 0
        self.refresh(party)

    def refresh(self, party: Party) -> None:
        """Tell the selector what `party` waits for now; parties call it when that changed."""
        before, after = self._watched[party], party.interest()
        if before == after:
            return
        if not before:
            self._selector.register(party, after, party)
        elif not after:
            self._selector.unregister(party)
        else:
            self._selector.modify(party, after, party)
        self._watched[party] = after

    def remove(self, party: Party) -> None:
        """Forget a party; called before its descriptor is closed."""
        if self._watched.pop(party, 0):
            self._selector.unregister(party)

    def turn(self, seconds: float = 0.0) -> bool:
        """Move whatever can be moved, waiting at most `seconds` for the first of it; True when anything moved."""
        interrupt.check()
        moved = False
        for key, events in self._selector.select(seconds):
            party: Party = key.data
            if party in self._watched:  # an earlier party of this round may have closed it
                moved |= party.on_ready(events)
        return moved

    def parties(self, kind: type[P]) -> Iterator[P]:
        """The parties of one kind that are still here."""
        return (party for party in list(self._watched) if isinstance(party, kind))

    def close(self) -> None:
        for party in list(self._watched):
            close: Callable[[], None] | None = getattr(party, "close", None)
            if close:
                close()
        self._selector.close()
