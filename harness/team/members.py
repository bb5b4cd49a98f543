"""Who the members of a team are, and what held for them: from graded results, or from learners' own progress files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import progress
from harness.verdicts import Unusable, Verdict

LARGEST = 16 << 20  # bytes of a progress file


@dataclass
class Member:
    """A person, and the last known verdict of each behaviour, by kata."""

    name: str
    verdicts: dict[str, dict[str, str]] = field(default_factory=dict)


def members(given: Iterable[str]) -> list[Member]:
    """The members, by name; of what is told twice of one kata, the last counts. Raises Unusable with one sentence.

    Each of `given` is a folder of `kata grade`, a progress file, or a folder with one in it or in its `katas`;
    NAME=PATH names whose progress it is, which else is the folder's name.
    """
    found: dict[str, Member] = {}
    for word in given:
        for key, name, verdicts in _told(word):
            member = found.setdefault(key, Member(name))
            member.verdicts.update(verdicts)
    return sorted(found.values(), key=lambda each: each.name.casefold())


Told = tuple[str, str, dict[str, dict[str, str]]]


def _told(word: str) -> Iterator[Told]:
    named, path = "", Path(word)
    if not path.exists() and "=" in word:
        named, _, rest = word.partition("=")
        path = Path(rest)
    if not path.exists():
        raise Unusable(f"{path} does not exist; name a folder of `kata grade`, or a {progress.NAME}")
    if not named and path.is_dir() and (path / "results").is_dir():
        yield from _graded(path)
        return
    file = _progress_file(path)
    name = named or _whose(file)
    yield name, name, _verdicts(file)


def _progress_file(path: Path) -> Path:
    for file in (path, path / progress.NAME, path / "katas" / progress.NAME):
        if file.is_file():
            return file
    raise Unusable(f"{path} holds neither results of `kata grade` nor a {progress.NAME}; name one of them")


def _whose(file: Path) -> str:
    """A learner's katas lie in their folder, or in `katas` in it."""
    folder = file.resolve().parent
    return folder.parent.name if folder.name == "katas" else folder.name


def _verdicts(file: Path) -> dict[str, dict[str, str]]:
    try:
        if file.stat().st_size > LARGEST:
            raise Unusable(f"{file} is too large for a progress file; is it another file?")
        table: Any = json.loads(file.read_bytes())
        return {
            str(kata): {str(key): str(value) for key, value in entry.get("verdicts", {}).items()}
            for kata, entry in table.items()
        }
    except OSError as error:
        raise Unusable(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, AttributeError, RecursionError):
        raise Unusable(f"{file} is no progress file, as a run of a kata leaves it beside its folder") from None


def _graded(folder: Path) -> Iterator[Told]:
    from harness.grading import model

    files = sorted((folder / "results").glob("*.json"))
    if not files:
        raise Unusable(f"{folder} holds no results; `kata grade` makes such a folder")
    for file in files:
        result = model.read(file)
        verdicts = {each.id: each.verdict.value for each in result.behaviours}
        yield result.student.id, result.student.name or result.student.id, {result.kata: verdicts}


def holds(verdict: str | None) -> bool:
    return verdict == Verdict.HOLDS.value
