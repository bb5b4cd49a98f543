"""What happened around the solution, in order: the one model that every drawing of a story is made from.

Recording is cheap: an event is a tuple with a reference to its bytes and, if need be, a label that is made later. Only
when a behaviour turns out to be broken do tuples become `Event`s: labels are written, and of big messages the first
and last bytes, their number and a digest remain. Nothing here decides how a story looks.

Kinds of events, by what they are about:

    a message      message · owed (it should have come and did not)
    a connection   open · fin · reset
    a party        hold and release (it keeps something back, or stands still) · down and up (it is not there)
                   · fact (what the kernel shows of it) · note (anything else that is no message)
    the story      broken (the moment) · gap (events that are left out here; `size` says how many)
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from harness.story.plain import shorten

HEAD, TAIL = 512, 64  # bytes kept of a message: a megabyte of payload is told by its ends, its size and a digest
LONGEST_LABEL = 200  # characters; a diagram shows the first sixty
MOST_EVENTS = 4000  # events kept of one behaviour; beyond it the middle is dropped, and counted
MOST_BYTES = 16 << 20  # bytes of messages that are kept whole until the verdict; beyond it only their ends, at once
DIGEST_DIGITS = 16

Label = str | Callable[[], str]  # a callable is asked when the story is told, if it ever is


@dataclass(slots=True)
class Event:
    """One thing that happened; see above for its `kind`. Who is concerned alone is both `source` and `target`."""

    at: float  # seconds since the record began
    kind: str
    source: str
    target: str
    label: str
    head: bytes = b""
    tail: bytes = b""
    size: int = 0  # bytes of the message; of a gap, the events that are left out
    connection: str = ""
    digest: str = ""  # the first digits of the SHA-256 of a message that is not kept whole
    hold: int = 0  # the number of a hold; its release has the same

    @property
    def whole(self) -> bool:
        """All bytes of the message are here."""
        return len(self.head) + len(self.tail) == self.size

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        fields["head"], fields["tail"] = self.head.hex(), self.tail.hex()
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Event:
        ends = {"head": bytes.fromhex(fields["head"]), "tail": bytes.fromhex(fields["tail"])}
        return cls(**{**fields, **ends})


class Noted(NamedTuple):
    """An event as it is recorded. `data` is the whole message, or its two ends if it is shorter than `size`."""

    at: float
    kind: str
    source: str
    target: str
    label: Label
    data: bytes
    size: int
    connection: str
    hold: int

    def told(self, began: float) -> Event:
        at, kind, source, target, label, data, size, connection, hold = self
        text = shorten(label if isinstance(label, str) else label(), LONGEST_LABEL)
        if kind == "gap":
            return Event(at - began, kind, source, target, text, size=size)
        head, tail = data[:HEAD], data[max(HEAD, len(data) - TAIL) :]
        event = Event(at - began, kind, source, target, text, head, tail, size, connection, hold=hold)
        if not event.whole and len(data) == size:
            event.digest = hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]
        return event


@dataclass
class Record:
    """The events of one behaviour, and the solution's name in them."""

    clock: Callable[[], float]
    solution: str = "solution"
    dropped: int = 0
    began: float = 0.0
    _first: list[Noted] = field(default_factory=list)
    _last: deque[Noted] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS // 2))
    _whole: int = 0  # bytes that are kept only because of references from here
    _holds: int = 0

    def begin(self) -> None:
        """Forget the last behaviour; what happens from now on belongs to the next."""
        self._first, self.dropped, self._whole = [], 0, 0
        self._last.clear()
        self.began = self.clock()

    @property
    def events(self) -> list[Event]:
        """Everything that is kept, as it is told; a gap stands where the middle was dropped."""
        noted = [*self._first, *self._last]
        if self.dropped:
            at, whom = self._first[-1].at, self.solution
            gap = Noted(at, "gap", whom, whom, f"{self.dropped} events were not kept", b"", self.dropped, "", 0)
            noted.insert(len(self._first), gap)
        return [each.told(self.began) for each in noted]

    @property
    def _latest(self) -> Noted | None:
        return self._last[-1] if self._last else self._first[-1] if self._first else None

    def add(
        self,
        kind: str,
        source: str,
        target: str,
        label: Label,
        data: bytes | bytearray | memoryview = b"",
        connection: str = "",
        hold: int = 0,
    ) -> None:
        """Record what happens now. A `label` that is a callable must not keep alive more than a few bytes."""
        size = len(data)
        if size > HEAD + TAIL and self._whole + size > MOST_BYTES:
            data = bytes(data[:HEAD]) + bytes(data[size - TAIL :])
        elif type(data) is not bytes:
            data = bytes(data)
        self._whole += len(data)
        noted = Noted(self.clock(), kind, source, target, label, data, size, connection, hold)
        if len(self._first) < MOST_EVENTS // 2:
            self._first.append(noted)
        else:
            self.dropped += len(self._last) == MOST_EVENTS // 2
            self._last.append(noted)

    def note(self, party: str, label: str) -> None:
        """Something that is no message, and of no other kind."""
        self.add("note", party, party, label)

    def hold(self, party: str, label: str) -> int:
        """`party` keeps something back from now on, or stands still; the number is for the `release`."""
        self._holds += 1
        self.add("hold", party, party, label, hold=self._holds)
        return self._holds

    def release(self, party: str, label: str, hold: int) -> None:
        """What was kept back since that `hold` goes on."""
        self.add("release", party, party, label, hold=hold)

    def down(self, party: str, label: str) -> None:
        """`party` is not there from now on, until it is `up`: killed, or nobody listens."""
        self.add("down", party, party, label)

    def up(self, party: str, label: str) -> None:
        self.add("up", party, party, label)

    def fact(self, label: str) -> None:
        """What the kernel shows of the solution, where a behaviour looks at it; told once while it does not change."""
        last = self._latest
        if last and (last.kind, last.label) == ("fact", label):
            return
        self.add("fact", self.solution, self.solution, label)

    def break_here(self) -> None:
        """Mark the moment: the promise was broken by what happened last, however late it was noticed."""
        last = self._latest
        if last and last.kind == "owed":
            return  # that is the moment
        self.add("broken", self.solution, self.solution, "✗ here the promise is broken")
        if last:
            kept = self._last or self._first
            kept[-1] = kept[-1]._replace(at=last.at)

    def owed(self, source: str, target: str, label: str) -> None:
        """A message that should have come and did not."""
        self.add("owed", source, target, label)
