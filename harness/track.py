"""A track: some katas in an order that has reasons. Each is one TOML file beside the katas' folders."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.kata import suggestion
from harness.verdicts import Unusable

FIELDS = {"title": str, "summary": str, "steps": list}
STEP_FIELDS = ("kata", "teaches", "because")
OPTIONAL_STEP_FIELDS = ("after",)


@dataclass(frozen=True)
class Step:
    """One kata of a track: what it teaches, why it stands just here, and which earlier ones it builds on."""

    kata: str
    teaches: str
    because: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Track:
    name: str
    title: str
    summary: str
    steps: tuple[Step, ...]


def tracks(folder: Path = katas.SHIPPED) -> dict[str, Track]:
    """The tracks beside the katas, by name. Raises Unusable when one can't be read."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.toml"))}


def find(name: str) -> Track:
    """The track of that name. Raises Unusable with the nearest name when there is none."""
    known = tracks()
    if name not in known:
        raise Unusable(f"there is no track named `{name}`{suggestion(name, known)}; `kata track` shows all of them")
    return known[name]


def read(path: Path) -> Track:
    """Read a track. Raises Unusable with one sentence when it is broken or incomplete."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} is not valid TOML ({error}); mend it") from None
    for field, kind in FIELDS.items():
        if not isinstance(table.get(field), kind) or not table[field]:
            raise Unusable(f"{path} lacks `{field}`, or it is no {kind.__name__}; mend it")
    steps = tuple(_step(path, step) for step in table["steps"])
    for number, step in enumerate(steps):
        for name in step.after:
            if name not in (earlier := [other.kata for other in steps[:number]]):
                near = suggestion(name, earlier)
                raise Unusable(f"{path}: {step.kata} comes after `{name}`, which is no earlier step{near}; mend it")
    return Track(path.stem, table["title"], table["summary"], steps)


def _step(path: Path, table: Any) -> Step:
    if not isinstance(table, dict) or sorted(table.keys() - OPTIONAL_STEP_FIELDS) != sorted(STEP_FIELDS):
        raise Unusable(f"{path}: each of `steps` is a table of {', '.join(STEP_FIELDS)}; mend {table!r}")
    after = table.get("after", [])
    if not isinstance(after, list) or not all(isinstance(name, str) for name in after):
        raise Unusable(f"{path}: `after` is a list of katas that come first; mend {after!r}")
    kata, teaches, because = (str(table[field]) for field in STEP_FIELDS)
    return Step(kata, teaches, because, tuple(after))
