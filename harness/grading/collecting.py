"""What was handed in, made ready to be graded: a folder of plain files, with the kit's own kata.toml in it.

Of a submission's own `kata.toml` only `run` and `build` are taken: what the program is told, how long it may take to
stop and what it is asked is the kit's business.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.grading import archive, digests
from harness.grading.archive import Refused, Room, shown
from harness.kata import Kata

# Left out wherever they stand: what tools leave behind, and what no program is made of.
LEFT_OUT = {".git", ".hg", ".svn", "__MACOSX", ".DS_Store", "__pycache__", ".venv", "venv", ".pytest_cache"}
LEFT_OUT |= {".mypy_cache", ".ruff_cache", ".hypothesis", ".idea", ".vscode", ".tox"}
PROGRESS = ".progress.json"
LFS = b"version https://git-lfs.github.com/spec/"
DEEPEST_WRAP = 5
LARGEST_RECORD = 1 << 20


@dataclass(frozen=True)
class Collected:
    """A submission's program in a folder of its own."""

    folder: Path
    digest: str
    files: int
    submitted_at: str
    hints_used: dict[str, int] | None
    notes: tuple[str, ...]


def collect(path: Path, kata: Kata, room: Path) -> Collected:
    """Take the submission at `path` into the empty folder `room`. Raises Refused, and OSError of this machine."""
    raw, folder = room / "raw", room / "solution"
    raw.mkdir()
    if path.is_symlink():
        raise Refused("it is a symbolic link, and links are not followed")
    if path.is_dir():
        _copy(path, Room(raw))
    else:
        archive.unpack(path, raw)
    top = _unwrap(raw, kata.name)
    hints = _hints_used(top, kata.name)
    notes: list[str] = []
    _take(top, folder)
    digest = digests.tree(taken := digests.below(folder))
    _check(taken)
    _own_kata_toml(folder, kata, notes)
    when = _submitted_at(path, raw)
    shutil.rmtree(raw)
    if kata.skeleton and katas.digest(folder) == kata.skeleton:
        notes.append("the skeleton is untouched")
    return Collected(folder, digest, len(taken), when, hints, tuple(notes))


def _copy(source: Path, room: Room, prefix: str = "") -> None:
    """Copy a folder's plain files without following a link, even one that is swapped in meanwhile."""
    with os.scandir(source) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name in LEFT_OUT:
                continue
            name, mode = f"{prefix}{entry.name}", entry.stat(follow_symlinks=False).st_mode
            archive.check_kind(name, mode)
            if stat.S_ISDIR(mode):
                room.make_folder(name)
                _copy(source / entry.name, room, f"{name}/")
                continue
            with open(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                archive.check_kind(name, os.fstat(file.fileno()).st_mode)
                room.write(name, file, executable=bool(mode & 0o111))
            times = entry.stat(follow_symlinks=False)
            os.utime(room.folder / name, (times.st_atime, times.st_mtime))


def _unwrap(folder: Path, name: str) -> Path:
    """The folder of the program: below the one folder that all is in, and in a clone below katas/NAME."""
    for _ in range(DEEPEST_WRAP):
        for inner in (folder / "katas" / name, folder / name):
            if inner.is_dir():
                return inner
        inside = [path for path in folder.iterdir() if path.name not in LEFT_OUT | {PROGRESS}]
        if len(inside) != 1 or not inside[0].is_dir():
            break
        folder = inside[0]
    return folder


def _take(top: Path, folder: Path) -> None:
    shutil.copytree(top, folder, ignore=shutil.ignore_patterns(*LEFT_OUT, "*.pyc", PROGRESS))


def _check(taken: dict[str, Path]) -> None:
    if not taken:
        raise Refused("it holds no files")
    for name, path in taken.items():
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise Refused(f"{shown(name)} is only a pointer of Git LFS; its content was not handed in")


def _own_kata_toml(folder: Path, kata: Kata, notes: list[str]) -> None:
    """Replace the submission's kata.toml by the kit's, with the submission's `run` and `build`."""
    path = folder / "kata.toml"
    if path.is_dir():
        raise Refused("its kata.toml is a folder")
    told = _told(path, notes)
    wanted: dict[str, Any] = {name: getattr(kata, name) for name in katas.REQUIRED}
    wanted |= {"run": list(told.get("run", kata.run)), "build": list(told.get("build", kata.build))}
    if not wanted["build"]:
        del wanted["build"]
    path.unlink(missing_ok=True)
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in wanted.items()]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    _check_script(folder, tuple(wanted["run"]))


def _told(path: Path, notes: list[str]) -> dict[str, list[str]]:
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        notes.append("its kata.toml is not valid TOML; the kit's own was used")
        return {}
    told = {}
    for key in ("run", "build"):
        words = table.get(key)
        if words is None:
            continue
        if isinstance(words, list) and words and all(_is_word(word) for word in words):
            told[key] = words
        else:
            notes.append(f"`{key}` of its kata.toml is no list of words; the kit's own was used")
    return told


def _is_word(word: object) -> bool:
    return isinstance(word, str) and word != "" and word.isprintable()


def _check_script(folder: Path, run: tuple[str, ...]) -> None:
    """The commonest mistake of all has a sentence of its own: the program is not where it is looked for."""
    script = folder / run[-1]
    if len(run) == 2 and run[0] in {"python", "python3", "node"} and not script.is_file():
        found = ", ".join(sorted(shown(path.name) for path in folder.iterdir() if path.name != "kata.toml")[:5])
        raise Refused(f"it has no {run[-1]} (it holds {found or 'nothing else'})")


def _hints_used(top: Path, name: str) -> dict[str, int] | None:
    """How many hints the learner took, as their own record says; it lies beside the kata's folder."""
    for path in (top.parent / PROGRESS, top / PROGRESS):
        try:
            if path.is_file() and path.stat().st_size <= LARGEST_RECORD:
                hints = json.loads(path.read_bytes())[name]["hints"]
                return {key: value for key, value in hints.items() if type(value) is int and 0 <= value <= 99}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _submitted_at(path: Path, raw: Path) -> str:
    """When the archive, or the newest of a folder's files, was last written: the best that a file system knows."""
    if path.is_dir():
        newest = max((each.stat().st_mtime for each in raw.rglob("*") if each.is_file()), default=0.0)
    else:
        newest = path.stat().st_mtime
    return utc(newest)


def utc(seconds: float | None = None) -> str:
    """A moment (seconds since 1970; now, if none is given) as it is written everywhere here."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(max(seconds, 0), UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
