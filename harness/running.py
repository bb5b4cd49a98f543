"""The running programs of one session: shared by behaviours with equal settings, started ahead of their turn.

A behaviour that was broken leaves nothing behind for the next one: its program is replaced. Starting takes
longer than judging, so the programs of the next behaviours start while this one is judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import waiting
from harness.behaviour import Behaviour
from harness.collecting import KataModule
from harness.solution import process
from harness.solution.program import DidNotStart, Solution, Tripwire
from harness.solution.scratch import Scratch
from harness.verdicts import LimitReached, Unusable
from harness.wire.tape import Tape

if TYPE_CHECKING:
    from harness.solution.isolation.sandbox import Isolation

Key = tuple[str, ...]
RUN = 300  # seconds, of an isolated run: nobody waits for it, so somebody has to end it
STARTING = 2  # programs that may be starting ahead of their turn


class Programs:
    """The solutions that run now, by what they were started for."""

    def __init__(self, seed: int, isolation: Isolation | None = None, taped: bool = False) -> None:
        """`taped`: every byte of every behaviour is kept until the next one begins."""
        self._seed, self.isolation, self._taped = seed, isolation, taped
        self._began = waiting.now()
        self._scratch: Scratch | None = None
        self._running: dict[Key, Solution] = {}
        self._built: set[str] = set()
        self._unusable: dict[str, str] = {}
        self._unstartable: dict[str, str] = {}

    @property
    def scratch(self) -> Scratch:
        if self._scratch is None:
            self._scratch = Scratch(self.isolation)
        return self._scratch

    def new_folder(self, name: str) -> Path:
        return self.scratch.new_folder(name)

    def warm_up(self, kata: str) -> None:
        """Let what the programs of that kata import be imported, while pytest still collects."""
        if not self.isolation:
            self.scratch.forks.preload(katas.SHIPPED / kata)

    def split_off(self, katas: Iterable[str]) -> None:
        """This is a twin of the process that the programs belong to: begin with none, in a place of its own."""
        self._running.clear()
        self.scratch.split_off()
        for kata in katas:
            self.warm_up(kata)

    def staged(self, path: Path) -> Path:
        """Where the submission at `path` is run: in a copy, if it is run in isolation."""
        if not self.isolation:
            return path
        return self.isolation.staged(path, self.new_folder("submission"))

    def prepare(self, module: KataModule, behaviour: Behaviour) -> bool:
        """Start the program for a behaviour that comes soon, without waiting for it; True when one was started.

        What can't be built or executed is told by `lease`, to the behaviour that wants it.
        """
        key, folder = _key(module, behaviour), str(module.subject.folder)
        if key in self._running or folder in self._unstartable or folder in self._unusable:
            return False
        try:
            self._build(module)
            solution = Solution(
                module.kata,
                module.subject,
                module.settings | dict(behaviour.environment),
                module.peers,
                self.scratch,
                self._seed,
            )
            if self._taped:
                solution.network.tape = Tape(solution.record)
            self._running[key] = solution
            solution.launch()
        except Unusable as problem:
            self._unusable[folder] = str(problem)
            return False
        return True

    def prepare_ahead(self, coming: Iterable[tuple[KataModule, Behaviour]]) -> None:
        """Start the programs of the next behaviours, a few at a time: more would only keep each other from starting."""
        for module, behaviour in coming:
            if sum(not solution.ready for solution in self._running.values()) >= STARTING:
                return
            self.prepare(module, behaviour)

    def lease(self, module: KataModule, behaviour: Behaviour) -> Solution:
        """The program for a behaviour, which `until_ready` waits for. Raises DidNotStart if there can be none."""
        folder = str(module.subject.folder)
        if self.isolation and waiting.now() - self._began > RUN:
            raise LimitReached(f"time: the whole run took more than {RUN} s")
        self.prepare(module, behaviour)
        if folder in self._unusable:
            self._unstartable[folder] = self._unusable[folder]
        if folder in self._unstartable:
            raise DidNotStart(self._unstartable[folder])
        return self._running[_key(module, behaviour)]

    def until_ready(self, solution: Solution) -> None:
        """Wait for a leased program. Raises DidNotStart; what did not start is not tried again in this run."""
        try:
            solution.until_ready()
        except (DidNotStart, LimitReached) as problem:
            self._unstartable[str(solution.subject.folder)] = str(problem)
            raise

    def could_not_start(self, module: KataModule) -> str:
        return self._unstartable.get(str(module.subject.folder), "")

    def give_back(self, module: KataModule, behaviour: Behaviour, spent: bool) -> None:
        """A behaviour is done with its program; a `spent` one is not used again."""
        key = _key(module, behaviour)
        solution = self._running.get(key)
        if solution and (spent or behaviour.alone or solution.process is None or solution.expected_to_die):
            del self._running[key]
            solution.close()

    def _build(self, module: KataModule) -> None:
        folder = str(module.subject.folder)
        if folder not in self._built:
            self._built.add(folder)
            if self.isolation:
                self.isolation.interpreter.provide(module.kata.extra)
                self.isolation.forbid(module.kata.products)
            process.build(module.subject, self.scratch)

    def leave(self, module: KataModule) -> list[Tripwire]:
        """Stop every program of a subject that will not be met again: SIGTERM, the kata's grace, then the end.

        Those with tripwires are left to act a little longer; the tripwires that were tripped by then.
        """
        keys = [key for key in self._running if key[0] == str(module.subject.folder)]
        leaving = [self._running.pop(key) for key in keys]
        polite = [solution for solution in leaving if solution.ready and not module.subject.mutant]
        tripped: list[Tripwire] = []
        for solution in sorted(leaving, key=_last_wire):
            if solution.tripwires and solution.process:
                waiting.linger(solution, _last_wire(solution))
                tripped += [wire for wire in solution.tripwires if wire.tripped()]
            if solution in polite:
                solution.terminate()
        for solution in polite:
            waiting.until_stopped(solution, module.kata.grace_ms / 1000)
        for solution in leaving:
            if self.isolation:
                self.isolation.left(solution.left_behind())
            solution.close()
        return tripped

    def end_all(self) -> None:
        """End whatever still runs, at once: nobody waits any more."""
        for solution in self._running.values():
            solution.close()
        self._running.clear()

    def close(self) -> None:
        """End whatever still runs, and the run itself. May be called again."""
        self.end_all()
        if self._scratch:
            self._scratch.close()
            self._scratch = None


def _last_wire(solution: Solution) -> float:
    """When the last tripwire of a program was left, on the clock of `harness.waiting`."""
    return max((wire.left_at for wire in solution.tripwires), default=0.0)


def _key(module: KataModule, behaviour: Behaviour) -> Key:
    settings = tuple(f"{key}={value}" for key, value in sorted(behaviour.environment.items()))
    alone = (behaviour.id,) if behaviour.alone else ()
    return (str(module.subject.folder), module.kata.name, *settings, *alone)
