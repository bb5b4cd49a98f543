"""A broken behaviour's story beside that of the reference, row by row, marked where the two part ways.

Both met the same behaviour with the same seed, so what the harness said is the same until the programs differ.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import kata as katas
from harness.evidence.exchange import Row
from harness.results import Result
from harness.story.plain import shorten, visible

COLUMN = 37  # characters for one program's row
BEFORE, AFTER = 4, 8  # rows shown around the place where they part
# What a program may choose as it likes: long words with digits in them, such as ids, digests and ports.
CHOSEN = re.compile(r"\b(?=\w*\d)\w{5,}\b")


def meet_again(results: list[Result], seed: int, plugins: list[str]) -> list[tuple[list[Row], list[Row]]]:
    """What each behaviour of one kata sees of the solution and of the reference, each met alone by a new process.

    `plugins` are those that the user has pytest load, which may be where the kata comes from. No rows: it was not met.
    """
    with_plugins = tuple(word for name in plugins for word in ("-p", name))
    with tempfile.TemporaryDirectory(prefix="kata-compare-") as folder:
        files = [[Path(folder, f"{number}-{side}") for side in ("yours", "theirs")] for number in range(len(results))]
        runs = [
            _start(result, seed, file, (*with_plugins, *subject))
            for result, pair in zip(results, files, strict=True)
            for file, subject in zip(pair, ((), ("--subject=reference",)), strict=True)
        ]
        try:
            for run in runs:
                run.wait()
        finally:
            for run in runs:
                run.kill()
        return [(_read(yours), _read(theirs)) for yours, theirs in files]


def _start(result: Result, seed: int, file: Path, more: tuple[str, ...]) -> subprocess.Popen[bytes]:
    place = f"{Path(result.folder, 'kata.toml')}::test_{result.behaviour}" + (f"[{result.case}]" if result.case else "")
    options = (f"--seed={seed}", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--story=none", *more)
    ours = ("-p", "harness.evidence.exchange", f"--exchanges={file}")
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "pytest", place, *options, *ours], stdout=quiet, stderr=quiet)


def _read(file: Path) -> list[Row]:
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return rows


def there_is_a_reference(kata: str) -> bool:
    return (katas.REFERENCES / kata).is_dir()


def side_by_side(yours: list[Row], theirs: list[Row]) -> Iterator[tuple[str, bool]]:
    """Lines of both stories around the first place where they part, and whether a line is that place."""
    matcher = difflib.SequenceMatcher(a=[_key(row) for row in yours], b=[_key(row) for row in theirs], autojunk=False)
    lines = list(_aligned(yours, theirs, matcher))
    first = next((number for number, (left, right, same) in enumerate(lines) if not same), len(lines))
    begin, end = max(first - BEFORE, 0), first + AFTER
    if begin:
        yield f"   ({begin} rows that are the same)", False
    for number, (left, right, same) in enumerate(lines[begin:end], begin):
        mark = "≠▶" if number == first else "≠ " if not same else "  "
        yield f"{mark} {left:<{COLUMN}} │ {right}".rstrip(), number == first
    if len(lines) > end:
        yield f"   ({len(lines) - end} more rows)", False


def _aligned(
    yours: list[Row], theirs: list[Row], matcher: difflib.SequenceMatcher[tuple[str, ...]]
) -> Iterator[tuple[str, str, bool]]:
    for word, a, a_end, b, b_end in matcher.get_opcodes():
        left, right = [_told(row) for row in yours[a:a_end]], [_told(row) for row in theirs[b:b_end]]
        for number in range(max(len(left), len(right))):
            pair = [side[number] if number < len(side) else "" for side in (left, right)]
            yield pair[0], pair[1], word == "equal"


def _key(row: Row) -> tuple[str, ...]:
    return (*row[:2], CHOSEN.sub("#", row[2]))


def _told(row: Row) -> str:
    source, target, label = row
    who = source if source == target else f"{source} → {target}"
    return shorten(visible(f"{who}: {label}"), COLUMN)
