"""A zone for a name server: written by the harness as a master file, random but for its shape, and looked up by tests.

A kata's zone is a subclass that says in `fill` what is in it. Names and data come from the run's seed, so that answers
can't be written into a solution.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from typing import NamedTuple

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from harness.solution.program import Solution

TTL = 3600  # seconds, of records that don't say otherwise


class ZoneRecord(NamedTuple):
    """One record as it stands in the file; names are absolute and end with a dot."""

    owner: str
    ttl: int
    kind: str
    data: str

    @property
    def rdata(self) -> dns.rdata.Rdata:
        return _rdata(self.kind, self.data)

    def __str__(self) -> str:
        return f"{self.owner} {self.ttl} IN {self.kind} {self.data}"


@functools.cache
def _rdata(kind: str, text: str) -> dns.rdata.Rdata:
    return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), text)


class ZoneFile:
    """Writes the file when the scene is set; the solution is told its path, and the name of the zone.

    The solution reads ZONE_FILE and ZONE. A setting FILLING is meant for this peer: a number of names beside those of
    `fill`, which the subclass may put into the zone.
    """

    def __init__(self, solution: Solution) -> None:
        self.chance = random.Random(f"{solution.seed} zone")
        self.filling = int(solution.settings.pop("FILLING", "0"))
        self.origin = f"{self.word()}.test."
        self.records: list[ZoneRecord] = []
        self._names: dict[str, str] = {}
        self.fill()
        self.path = solution.folder / "state" / "zone"  # where it may be read in isolation
        self.path.write_text("".join(f"{record}\n" for record in self.records), encoding="ascii")

    def environment(self) -> dict[str, str]:
        return {"ZONE": self.origin, "ZONE_FILE": str(self.path)}

    def begin(self) -> None:
        """The zone is the same for all behaviours."""

    def fill(self) -> None:
        """Add the records."""

    # -- making it ------------------------------------------------------------------------------------------------

    def word(self) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz", k=6))

    def name(self, path: str = "") -> str:
        """The absolute name of `path` below the origin: each of its words stands for one random label."""
        labels = [
            word if word in ("", "*") else self._names.setdefault(word, self._label(word)) for word in path.split(".")
        ]
        return ".".join([*filter(None, labels), self.origin])

    def _label(self, word: str) -> str:
        return f"{word}-{self.word()[:4]}"

    def ipv4(self) -> str:
        return f"192.0.2.{self.chance.randrange(1, 255)}"

    def ipv6(self) -> str:
        """Eight groups in full: the brief promises that."""
        groups = [0x2001, 0xDB8, *(self.chance.randrange(1, 1 << 16) for _ in range(6))]
        return ":".join(f"{group:x}" for group in groups)

    def text(self, size: int) -> str:
        return "".join(self.chance.choices("abcdefghijklmnopqrstuvwxyz0123456789 .", k=size - 2)) + "ok"

    def add(self, path: str, kind: str, *data: str, ttl: int = TTL) -> None:
        """Add one record for each of `data` to the name of `path`."""
        self.records += [ZoneRecord(self.name(path), ttl, kind, each) for each in data]

    # -- looking it up --------------------------------------------------------------------------------------------

    def rrset(self, path: str, *kinds: str) -> list[ZoneRecord]:
        """The records of a name and of one of the types."""
        owner = self.name(path)
        return [record for record in self.records if record.owner == owner and record.kind in kinds]

    @property
    def soa(self) -> ZoneRecord:
        return next(record for record in self.records if record.kind == "SOA")


def as_owned_by(owner: str, records: Iterable[ZoneRecord]) -> list[ZoneRecord]:
    """The same records with another owner, as a wildcard gives them."""
    return [record._replace(owner=owner) for record in records]
