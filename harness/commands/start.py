"""`kata start`: a folder of your own with the brief, the skeleton and kata.toml of a kata."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.commands import extras, finding
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

NOT_COPIED = shutil.ignore_patterns("__pycache__", ".*")


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    start = commands.add_parser("start", help="begin a kata in a folder of your own", description=__doc__)
    start.add_argument("name", metavar="NAME", help="a kata of `kata list`")
    start.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="where to (katas/NAME)")
    start.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    kata = katas.shipped(options.name)
    folder: Path = options.folder or Path("katas", kata.name)
    _copy(kata.folder, folder)
    where = finding.shown(folder.resolve())
    print(f"{where}: the brief is README.md, write {kata.run[-1]}. {kata.start}")
    if lacking := extras.lacking(kata):
        print(f"It needs {', '.join(lacking)}: pip install 'backend-katas[{kata.extra}]'")
    print(f"Then run: pytest {where}")
    return 0


def _copy(source: Path, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Unusable(f"{folder} is there already, and not empty; work in it, or name another folder")
    try:
        shutil.copytree(source, folder, ignore=NOT_COPIED, dirs_exist_ok=True)
    except OSError as error:
        raise Unusable(f"{folder} can't be written ({error.strerror or error}); name another folder") from None
