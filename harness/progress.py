"""What held the last time, and which hints were taken: one small file beside the katas, safe to delete."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

from harness.results import Result
from harness.verdicts import Verdict

NAME = ".progress.json"
FEW = 8  # names that are told of many


def path_for(folder: Path) -> Path:
    """The file for the katas that lie beside `folder`."""
    return folder.resolve().parent / NAME


def load(folder: Path) -> dict[str, Any]:
    """The progress of the katas beside `folder`; empty when there is none, or none that can be read."""
    try:
        table = json.loads(path_for(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def save(folder: Path, table: dict[str, Any]) -> None:
    """Replace the file in one step; a folder that can't be written keeps no progress."""
    path = path_for(folder)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(json.dumps(table, indent=1, sort_keys=True), encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)


def compare(results: list[Result]) -> list[str]:
    """Remember the verdicts of a run of the solution, and say in a few lines what changed since the last one."""
    folder = Path(results[0].folder)
    table = load(folder)
    entry = table.setdefault(results[0].kata, {})
    before: dict[str, str] = entry.get("verdicts", {})
    after = {result.behaviour: result.verdict.value for result in results}
    entry["verdicts"] = before | after
    entry["points"] = entry.get("points", {}) | {result.behaviour: result.points for result in results}
    save(folder, table)
    holds = Verdict.HOLDS.value
    gained = [name for name in after if after[name] == holds and before.get(name, holds) != holds]
    lost = [name for name in after if after[name] != holds and before.get(name) == holds]
    waiting = [name for name in lost if after[name] == Verdict.BLOCKED.value]
    lines = _changes("new", gained) + _changes("lost", [name for name in lost if name not in waiting])
    return [*lines, f"   {len(waiting)} that held wait for others"] if waiting else lines


def _changes(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    shown = names if len(names) <= FEW + 1 else [*names[:FEW], f"{len(names) - FEW} more"]
    told = f"{what} since the last run: {', '.join(shown)}"
    return textwrap.wrap(told, 78, initial_indent=" ", subsequent_indent="   ")


def verdicts(folder: Path, kata: str) -> dict[str, str]:
    """The last known verdict of each behaviour of the kata in `folder`."""
    entry: dict[str, str] = load(folder).get(kata, {}).get("verdicts", {})
    return entry


def hints_taken(folder: Path, kata: str) -> dict[str, int]:
    """How many hints were taken for each behaviour of the kata in `folder`."""
    taken: dict[str, int] = load(folder).get(kata, {}).get("hints", {})
    return taken


def take_hint(folder: Path, kata: str, behaviour: str, most: int) -> tuple[int, bool]:
    """Which hint is next, counted from 1, and whether it is a new one; after the last one it stays there."""
    table = load(folder)
    taken: dict[str, int] = table.setdefault(kata, {}).setdefault("hints", {})
    before = taken.get(behaviour, 0)
    taken[behaviour] = min(before + 1, most)
    save(folder, table)
    return taken[behaviour], before < most
