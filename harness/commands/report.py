"""`kata report`: write results in another format: a gradebook, pages, or what a learning platform reads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.grade import REVEAL
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.grading.formats import Format
    from harness.grading.model import Graded

NAMES = ("csv", "class", "html", "junit", "gradescope", "classroom50", "exercism", "prairielearn", "check50")


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser("report", help="for teachers: results in other formats", description=__doc__)
    report.add_argument("results", metavar="RESULTS", type=Path, help="the folder of `kata grade`, or one result of it")
    report.add_argument("--format", choices=NAMES, required=True, help=f"one of {', '.join(NAMES)}")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="the file (standard output); of many results a folder, if each has one"
    )
    report.add_argument("--reveal", choices=REVEAL, default="names", help="of hidden behaviours, to students (names)")
    report.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.commands.verify import files
    from harness.grading.formats import FORMATS

    paths, wanted = files(options.results), FORMATS[options.format]
    if wanted.whole:
        _write(options.out, "".join(wanted.whole(_shown(paths, wanted, options.reveal))))
        return 0
    assert wanted.one
    if not options.results.is_dir():
        _write(options.out, wanted.one(next(_shown(paths, wanted, options.reveal))))
        return 0
    if options.out is None:
        raise Unusable(f"--format={options.format} is a file for each result; name a folder for them by --out")
    return _write_each(options.out, paths, wanted, options.reveal)


def _shown(paths: list[Path], wanted: Format, reveal: str) -> Iterator[Graded]:
    """The results, one at a time, as those who read the format may see them."""
    from harness.grading import model
    from harness.grading.reveal import Reveal, for_students

    for path in paths:
        result = model.read(path)
        yield result if wanted.teachers else for_students(result, Reveal(reveal))


def _write_each(folder: Path, paths: list[Path], wanted: Format, reveal: str) -> int:
    from harness.grading.store import file_name

    assert wanted.one
    problems = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(f"{folder} can't be made ({error.strerror}); name another folder by --out") from None
    for result in _shown(paths, wanted, reveal):
        try:
            text = wanted.one(result)
        except Unusable as problem:
            print(f"kata: {problem}", file=sys.stderr)
            problems += 1
            continue
        _write(folder / file_name(result.student.id, wanted.suffix), text)
    return int(problems > 0)


def _write(path: Path | None, text: str) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unusable(f"{path} can't be written ({error.strerror}); name another file by --out") from None
