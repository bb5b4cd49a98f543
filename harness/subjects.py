"""What is put in a kata's place: the learner's solution, the reference, a mutant, an oracle.

One suite, several subjects: the behaviours never know which one they meet.
"""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.kata import Kata, suggestion
from harness.verdicts import Unusable

RUNNERS = {".py": "python", ".mjs": "node", ".js": "node"}


@dataclass(frozen=True)
class Subject:
    """A program that can be launched: where it lies and how it is run."""

    name: str
    folder: Path
    run: tuple[str, ...]
    build: tuple[str, ...] = ()
    mutant: Mutant | None = None


@dataclass(frozen=True)
class Edit:
    file: str
    find: str
    replace: str


@dataclass(frozen=True)
class Mutant:
    """A realistic mistake, to be planted into a copy of the reference."""

    name: str
    because: str
    caught_by: tuple[str, ...]
    edits: tuple[Edit, ...]
    origin: Path  # the mutants.toml that it stands in


def solution(kata: Kata) -> Subject:
    """The learner's program in the kata's own folder."""
    script = kata.folder / kata.run[-1]
    if len(kata.run) == 2 and kata.run[0] in {"python", "node"} and not script.is_file():
        raise Unusable(f"{kata.folder} has no {kata.run[-1]}; write it, or say in kata.toml what to `run`")
    return Subject("solution", kata.folder, kata.run, kata.build)


def reference(kata: Kata) -> Subject:
    folder = katas.REFERENCES / kata.name
    if not folder.is_dir():
        raise Unusable(f"there is no reference for `{kata.name}` here; references come with a clone of the kit")
    # A learner may have changed what their own kata.toml says of `build`, so the reference brings its own.
    build = ("python", "build.py") if (folder / "build.py").is_file() else ()
    return Subject("reference", folder, ("python", "solution.py"), build)


def from_path(kata: Kata, path: Path) -> Subject:
    """A program anywhere: a file (run by its ending), or a folder (run as its own kata.toml or the kata says)."""
    path = path.resolve()
    if path.is_file():
        runner = RUNNERS.get(path.suffix)
        run = (runner, path.name) if runner else (str(path),)
        return Subject(path.name, path.parent, run)
    if not path.is_dir():
        raise Unusable(f"--subject={path} does not exist; give a folder, a file, `reference` or `mutants`")
    own = path / "kata.toml"
    told = katas.read(own) if own.exists() else replace(kata, path=own)
    return replace(solution(told), name=f"{path.parent.name}/{path.name}")


def mutants(kata: Kata) -> list[Mutant]:
    """The mistakes planted for this kata. Raises Unusable when the file is broken or an anchor is gone."""
    path = reference(kata).folder / "mutants.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unusable(f"{path} is missing; every kata plants its mistakes there") from None
    except tomllib.TOMLDecodeError as error:
        raise Unusable(f"{path} is not valid TOML: {error}") from None
    return [_mutant(path, name, table) for name, table in tables.items()]


def _mutant(path: Path, name: str, table: dict[str, Any]) -> Mutant:
    edits = table.get("edits", [table])
    try:
        mutant = Mutant(
            name,
            table["because"],
            tuple(table["caught_by"]),
            tuple(Edit(edit.get("file", "solution.py"), edit["find"], edit["replace"]) for edit in edits),
            path,
        )
    except KeyError as error:
        raise Unusable(f"{path}: [{name}] lacks {error}; a mutant has because, caught_by, find and replace") from None
    for edit in mutant.edits:
        plant(edit, path.parent, mutant)
    return mutant


def plant(edit: Edit, folder: Path, mutant: Mutant) -> str:
    """The text of the edited file. Raises Unusable unless the anchor stands exactly once and the text changes."""
    source = folder / edit.file
    if not source.is_file():
        raise Unusable(f"{mutant.origin}: [{mutant.name}] edits {edit.file}, which is not in {folder}")
    text = source.read_text(encoding="utf-8")
    if (count := text.count(edit.find)) != 1:
        raise Unusable(
            f"{mutant.origin}: the anchor of [{mutant.name}] stands {count} times in {edit.file}, "
            "it must stand exactly once; choose a `find` that does"
        )
    planted = text.replace(edit.find, edit.replace)
    if planted == text:
        raise Unusable(f"{mutant.origin}: [{mutant.name}] changes nothing; `replace` must differ from `find`")
    return planted


def mutate(original: Subject, mutant: Mutant, scratch: Path) -> Subject:
    """A fresh copy of `original` below `scratch` with the mistake planted in it."""
    folder = scratch / mutant.name
    if not folder.exists():
        shutil.copytree(original.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "mutants.toml"))
        for edit in mutant.edits:
            (folder / edit.file).write_text(plant(edit, folder, mutant), encoding="utf-8")
    return replace(original, name=mutant.name, folder=folder, mutant=mutant)


def choose_mutants(kata: Kata, wanted: str) -> list[Mutant]:
    """All mutants of a kata, or the one that is named."""
    known = mutants(kata)
    if not wanted:
        return known
    chosen = [mutant for mutant in known if mutant.name == wanted]
    if not chosen:
        names = [mutant.name for mutant in known]
        raise Unusable(f"`{kata.name}` has no mutant named `{wanted}`{suggestion(wanted, names)}")
    return chosen
