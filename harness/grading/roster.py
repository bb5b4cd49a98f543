"""Who handed in what: the folder of submissions, and the roster that says who is who.

A roster is CSV with a header: `id` (or username, login, matric...), and if it likes `name`, `email`, `submission` (the
name of what that student hands in) and `submitted_at` (ISO 8601, for deadlines). Commas, semicolons and tabs separate.
What a learning platform names `Meier_Anna_4711_assignsubmission_file.zip` is found by the id within it.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.grading.archive import UNDERSTOOD, shown
from harness.grading.model import Student
from harness.grading.one import Submission
from harness.verdicts import Unusable

ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|tar\.gz|tar\.bz2)$", re.IGNORECASE)
OTHER_ARCHIVE = re.compile(r"\.(rar|7z|gz|bz2|xz|txz|tar\.xz|tar\.zst|zst)$", re.IGNORECASE)
IDS = ("id", "username", "login", "student_id", "student id", "sis user id", "id number", "matriculation", "student")
COLUMNS = {
    "name": ("name", "full name", "student name"),
    "email": ("email", "email address", "e-mail"),
    "submission": ("submission", "file", "folder"),
    "submitted_at": ("submitted_at", "submitted at", "submission time"),
}
LARGEST_ROSTER = 16 << 20


@dataclass(frozen=True)
class Entry:
    """A line of the roster."""

    student: Student
    submission: str = ""
    submitted_at: str = ""


@dataclass(frozen=True)
class Handed:
    """All that there is to grade, and sentences about what was left aside."""

    submissions: list[Submission]
    notes: list[str]


def read(path: Path) -> list[Entry]:
    """The entries of a roster. Raises Unusable with one sentence."""
    try:
        if path.stat().st_size > LARGEST_ROSTER:
            raise Unusable(f"{path} is too large for a roster; is it another file?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Unusable(f"the roster {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Unusable(f"the roster {path} is not UTF-8; save it as CSV in UTF-8") from None
    try:
        lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text), restval=""))
    except csv.Error as error:
        raise Unusable(f"the roster {path} is no CSV ({error})") from None
    header = {name.strip().casefold(): name for name in (lines[0] if lines else {}) if isinstance(name, str)}
    key = next((header[name] for name in IDS if name in header), None)
    if key is None:
        raise Unusable(f"the roster {path} has no column `id` (a header with `id` or `username` is wanted first)")
    columns = {
        field: next((header[name] for name in names if name in header), None) for field, names in COLUMNS.items()
    }
    entries = [_entry(line, key, columns, path) for line in lines if (line[key] or "").strip()]
    twice = [identity for identity, number in Counter(entry.student.id for entry in entries).items() if number > 1]
    if twice:
        raise Unusable(f"the roster {path} has {shown(twice[0])} twice; an id stands for one student")
    return entries


def _delimiter(text: str) -> str:
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _entry(line: dict[str, str], key: str, columns: dict[str, str | None], path: Path) -> Entry:
    told = {field: (line[column] or "").strip() if column else "" for field, column in columns.items()}
    student = Student(line[key].strip(), told["name"], told["email"])
    return Entry(student, told["submission"], _moment(told["submitted_at"], path))


def _moment(text: str, path: Path) -> str:
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Unusable(f"the roster {path} says {shown(text)} for a time; write it as 2026-03-01T12:00:00Z") from None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def handed_in(path: Path, entries: list[Entry], script: str) -> Handed:
    """What lies in the folder of submissions, or the single submission that `path` is. Raises Unusable."""
    if not path.exists():
        raise Unusable(f"{path} does not exist; name the folder that holds a folder, zip or tar for each student")
    single = path.is_file() or (path / "kata.toml").is_file() or (path / script).is_file()
    found, notes = ([path.resolve()], []) if single else _listed(path)
    submissions = list(_assigned(found, entries))
    if not submissions:
        raise Unusable(f"{path} holds no submissions; a folder, zip or tar for each student is looked for")
    notes += [f"{shown(each.student.id)} handed in nothing" for each in submissions if each.path is None]
    return Handed(sorted(submissions, key=lambda each: each.student.id), notes)


def _listed(folder: Path) -> tuple[list[Path], list[str]]:
    found: list[Path] = []
    notes: list[str] = []
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise Unusable(f"{folder} can't be read: {error.strerror}") from None
    for path in paths:
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_symlink() or path.is_dir() or ARCHIVE.search(path.name) or OTHER_ARCHIVE.search(path.name):
            found.append(path)
        elif path.suffix.lower() != ".csv":
            notes.append(f"{shown(path.name)} is neither a folder nor an archive, and was left aside")
    return found, notes


class Owners:
    """Who handed in what, by the roster: its column `submission`, the id, or the id within a longer name."""

    def __init__(self, entries: list[Entry]) -> None:
        self._named = {entry.submission: entry.student.id for entry in entries if entry.submission}
        self._ids = {entry.student.id.casefold(): entry.student.id for entry in entries}

    def of(self, path: Path) -> str:
        """The student's id; the name of what was handed in where the roster knows of none."""
        name = path.name.encode("utf-8", "backslashreplace").decode()
        stem = OTHER_ARCHIVE.sub("", ARCHIVE.sub("", name)) or name
        known = self._named.get(name) or self._named.get(stem) or self._ids.get(stem.casefold())
        return known or self._within(stem.casefold()) or stem

    def _within(self, stem: str) -> str:
        inside = [
            own
            for key, own in self._ids.items()
            if key in stem and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", stem.replace("_", " "))
        ]
        return inside[0] if len(inside) == 1 else ""


def _assigned(found: list[Path], entries: list[Entry]) -> Iterator[Submission]:
    """A submission for each student: two of one are a problem of that student's, none is said as well."""
    owners = Owners(entries)
    whose: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        whose[owners.of(path)].append(path)
    known = {entry.student.id: entry for entry in entries}
    for identity in [*whose, *(identity for identity in known if identity not in whose)]:
        entry = known.get(identity, Entry(Student(identity)))
        paths = whose.get(identity, [])
        yield Submission(entry.student, paths[0] if paths else None, entry.submitted_at, _problem(paths))


def _problem(paths: list[Path]) -> str:
    if len(paths) > 1:
        names = ", ".join(shown(path.name) for path in paths)
        return f"there are {len(paths)} submissions of one student ({names}); keep one of them"
    if paths and not paths[0].is_dir() and not ARCHIVE.search(paths[0].name) and OTHER_ARCHIVE.search(paths[0].name):
        return f"{shown(paths[0].name)} is an archive of another kind; {UNDERSTOOD}"
    return ""
