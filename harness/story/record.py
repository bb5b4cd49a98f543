"""What happened around the solution, in order: the one model that every drawing of a story is made from.

Events are recorded as they happen and cheaply: a label is made when the message is, but of the bytes only
the first and last few and their number are kept. Nothing here decides how a story looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.story.plain import shorten

HEAD, TAIL = (
    512,
    64,
)  # bytes kept of a message: a megabyte of payload is told by its ends and its size
LONGEST_LABEL = 200  # characters; a diagram shows the first sixty
MOST_EVENTS = 4000  # events kept of one behaviour; beyond it the middle is dropped, and counted


@dataclass(slots=True)
class Event:
    """One thing that happened. `kind`: message, open, fin, reset, note, owed or broken."""

    at: float  # seconds since the record began
    kind: str
    source: str
    target: str
    label: str
    head: bytes = b""
    tail: bytes = b""
    size: int = 0
    connection: str = ""

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["head"], fields["tail"] = self.head.hex(), self.tail.hex()
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Event:
        ends = {"head": bytes.fromhex(fields["head"]), "tail": bytes.fromhex(fields["tail"])}
        return cls(**{**fields, **ends})


@dataclass
class Record:
    """The events of one behaviour, and the solution's name in them."""

    clock: Callable[[], float]
    solution: str = "solution"
    events: list[Event] = field(default_factory=list)
    dropped: int = 0
    began: float = 0.0

    def begin(self) -> None:
        """Forget the last behaviour; what happens from now on belongs to the next."""
        self.events = []
        self.dropped = 0
        self.began = self.clock()

    def add(
        self,
        kind: str,
        source: str,
        target: str,
        label: str,
        data: bytes | bytearray | memoryview = b"",
        connection: str = "",
    ) -> None:
        if len(self.events) >= MOST_EVENTS:
            del self.events[MOST_EVENTS // 2]
            self.dropped += 1
        label, size = shorten(label, LONGEST_LABEL), len(data)
        head = bytes(data[:HEAD])
        tail = bytes(data[max(HEAD, size - TAIL) :])
        at = self.clock() - self.began
        self.events.append(Event(at, kind, source, target, label, head, tail, size, connection))

    def note(self, party: str, label: str) -> None:
        """Something that is no message: held, released, killed, restarted."""
        self.add("note", party, party, label)

    def break_here(self) -> None:
        """Mark the moment: the promise was broken by what happened last, however late it was noticed."""
        self.add("broken", self.solution, self.solution, "✗ here the promise is broken")
        if len(self.events) > 1:
            self.events[-1].at = self.events[-2].at

    def owed(self, source: str, target: str, label: str) -> None:
        """A message that should have come and did not."""
        self.add("owed", source, target, label)
