"""How behaviours are written: a test function with a sentence, a stage, points, a source, and hints.

    @behaviour(stage=1, points=2, source=Source("NATS protocol, PING/PONG", "https://..."))
    @hints("Ask who waits.", "Only append.", "Remove every `await drain()`.")
    def test_greets(broker):
        \"\"\"INFO arrives before the client sends anything.\"\"\"

The docstring is the promise: it is what the learner reads, and it stands once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

NO_SETTINGS: Mapping[str, object] = {}
STAGES = {1: "basics", 2: "edges", 3: "concurrency", 4: "faults", 5: "scale"}

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Source:
    """Where a rule is written down: a name for people and, where there is one, an address."""

    text: str
    url: str = ""

    def __str__(self) -> str:
        return self.text


def rfc(number: int, section: str, title: str) -> Source:
    """A section of an RFC, by number and title."""
    return Source(
        f"RFC {number} §{section} {title}",
        f"https://www.rfc-editor.org/rfc/rfc{number}#section-{section}",
    )


@dataclass(frozen=True)
class Behaviour:
    """What is known of one behaviour before it is tried."""

    id: str
    sentence: str
    stage: int
    points: int
    source: Source
    needs: tuple[str, ...] = ()
    hidden: bool = False
    alone: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    incident: str = ""  # where real systems broke this promise


class Hideable(Protocol):
    """A behaviour, or what became of one."""

    @property
    def id(self) -> str: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def hidden(self) -> bool: ...


def tried_last(behaviours: Iterable[Hideable]) -> set[str]:
    """The ids of the hidden ones and of what needs one; `behaviours` come after what they need.

    A program that may not be trusted meets these last: what it has seen of them it can't tell in a public one.
    """
    last: set[str] = set()
    for each in behaviours:
        if each.hidden or last.intersection(each.needs):
            last.add(each.id)
    return last


def behaviour(
    *,
    stage: int,
    source: Source,
    points: int | None = None,
    needs: tuple[str, ...] | str = (),
    hidden: bool = False,
    alone: bool = False,
    settings: Mapping[str, object] = NO_SETTINGS,
) -> Callable[[F], F]:
    """Declare a test function a behaviour.

    `points` default to the stage's number. `needs` names behaviours without which this one says nothing new.
    `alone` gives it a solution process of its own: it restarts, kills or exhausts it. `settings` are environment
    variables that the solution is started with (`{"MAX_PAYLOAD": 1024}`); behaviours with equal ones share a process.
    """
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {sorted(STAGES)}, not {stage}")

    def declare(function: F) -> F:
        promise = inspect.cleandoc(function.__doc__ or "")
        if not promise:
            raise ValueError(f"{function.__name__} has no docstring; it is the sentence the learner reads")
        function.behaviour = Behaviour(  # type: ignore[attr-defined]
            id=function.__name__.removeprefix("test_"),
            sentence=" ".join(promise.split("\n\n")[0].split()),
            stage=stage,
            points=stage if points is None else points,
            source=source,
            needs=(needs,) if isinstance(needs, str) else tuple(needs),
            hidden=hidden,
            alone=alone,
            environment={key: str(value) for key, value in settings.items()},
            hints=getattr(function, "hints", ()),
            incident=getattr(function, "incident", ""),
        )
        return function

    return declare


def hints(*sentences: str) -> Callable[[F], F]:
    """Hints of rising frankness; stands below `@behaviour`."""

    def attach(function: F) -> F:
        function.hints = sentences  # type: ignore[attr-defined]
        return function

    return attach


def incident(text: str) -> Callable[[F], F]:
    """Where real systems broke this promise, in a sentence or two; stands below `@behaviour`."""

    def attach(function: F) -> F:
        function.incident = text  # type: ignore[attr-defined]
        return function

    return attach
