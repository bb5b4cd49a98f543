"""What is to be shown of a team: members and katas, stage by stage, and what is next for each of them.

What comes before what is said by the tracks, and within a kata by what its behaviours need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness import kata as katas
from harness import track as tracks
from harness.behaviour import STAGES, Behaviour
from harness.collecting import declared
from harness.kata import Kata
from harness.team.members import Member, holds
from harness.track import Step, Track
from harness.verdicts import Lacking

MOST_LACKING = 12  # behaviours that the team lacks, shown


@dataclass(frozen=True)
class Share:
    """How many of some behaviours hold."""

    held: int
    asked: int
    of: str = ""

    @property
    def percent(self) -> int:
        return 100 * self.held // self.asked if self.asked else 0

    @property
    def done(self) -> bool:
        return self.held == self.asked > 0


@dataclass(frozen=True)
class Cell:
    """A member in a kata; without stages where it was not begun."""

    whole: Share
    stages: tuple[Share, ...] = ()


@dataclass(frozen=True)
class Next:
    """What a member could learn next: a kata, why, and the promise to go on with, if it is begun."""

    track: str
    kata: str
    teaches: str
    because: str
    promise: str


@dataclass(frozen=True)
class Line:
    name: str
    cells: tuple[Cell, ...]
    following: tuple[Next, ...]


@dataclass(frozen=True)
class Lack:
    """A promise that many do not keep who have begun its kata."""

    kata: str
    stage: str
    sentence: str
    share: Share
    who: tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """The whole page."""

    katas: tuple[Kata, ...]
    lines: tuple[Line, ...]
    lacks: tuple[Lack, ...]
    notes: tuple[str, ...]


class Known:
    """The katas and tracks of this kit, with the behaviours of each kata."""

    def __init__(self) -> None:
        self.tracks = list(tracks.tracks().values())
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.notes: list[str] = []
        catalogue = katas.catalogue()
        for name, kata in catalogue.items():
            try:
                self.behaviours[name] = declared(kata)
            except Lacking as problem:
                self.notes.append(str(problem))
        order = list(dict.fromkeys(step.kata for track in self.tracks for step in track.steps))
        self.katas = {name: catalogue[name] for name in [*order, *catalogue] if name in self.behaviours}

    def asked(self, member: Member, kata: str) -> list[Behaviour]:
        """The behaviours that count for a member: hidden ones only if they were tried."""
        verdicts = member.verdicts.get(kata, {})
        return [each for each in self.behaviours[kata] if not each.hidden or each.id in verdicts]


def standing(team: Sequence[Member]) -> Standing:
    """Where a team stands. Raises Unusable when a track or a kata of the kit is broken."""
    known = Known()
    begun = {name for member in team for name in member.verdicts}
    notes = [f"`{name}` is no kata of this kit, and is left out" for name in sorted(begun - set(katas.catalogue()))]
    in_tracks = {step.kata for track in known.tracks for step in track.steps}
    shown = [kata for name, kata in known.katas.items() if name in begun | in_tracks]
    lines = [
        Line(member.name, tuple(_cell(known, member, kata.name) for kata in shown), tuple(_following(known, member)))
        for member in team
    ]
    return Standing(tuple(shown), tuple(lines), tuple(_lacks(known, team)), (*known.notes, *notes))


def _cell(known: Known, member: Member, kata: str) -> Cell:
    verdicts = member.verdicts.get(kata)
    asked = known.asked(member, kata)
    if verdicts is None:
        return Cell(Share(0, len(asked)))
    stages = []
    for stage, word in STAGES.items():
        of_it = [each for each in asked if each.stage == stage]
        stages.append(Share(sum(holds(verdicts.get(each.id)) for each in of_it), len(of_it), word))
    held = sum(share.held for share in stages)
    return Cell(Share(held, len(asked)), tuple(share for share in stages if share.asked))


def _following(known: Known, member: Member) -> list[Next]:
    """One step of each track that the member is on; of every track, for somebody who is on none."""
    on = [track for track in known.tracks if any(step.kata in member.verdicts for step in track.steps)]
    steps = [(track, _first_open(known, member, track)) for track in on or known.tracks]
    return [
        Next(track.title, step.kata, step.teaches, step.because, _promise(known, member, step.kata))
        for track, step in steps
        if step
    ]


def _first_open(known: Known, member: Member, track: Track) -> Step | None:
    for step in track.steps:
        if step.kata in known.katas and not _cell(known, member, step.kata).whole.done:
            return step
    return None


def _promise(known: Known, member: Member, kata: str) -> str:
    """The first behaviour that does not hold though all that it needs does; "" in a kata that is not begun."""
    verdicts = member.verdicts.get(kata)
    if verdicts is None:
        return ""
    for each in known.asked(member, kata):
        if not holds(verdicts.get(each.id)) and all(holds(verdicts.get(need)) for need in each.needs):
            return each.sentence
    return ""


def _lacks(known: Known, team: Sequence[Member]) -> list[Lack]:
    """What the most of those lack who have begun the kata, the commonest first."""
    found = []
    for kata in known.katas:
        begun = [member for member in team if kata in member.verdicts]
        for each in known.behaviours[kata]:
            tried = [member for member in begun if each.id in member.verdicts[kata]]
            without = [member.name for member in tried if not holds(member.verdicts[kata][each.id])]
            if without:
                share = Share(len(tried) - len(without), len(tried))
                found.append(Lack(kata, STAGES[each.stage], each.sentence, share, tuple(without)))
    found.sort(key=lambda lack: (-len(lack.who), lack.share.percent))
    return found[:MOST_LACKING]
