"""`kata export`: a starter repository for students, or an autograder for Gradescope."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.commands.grade import LEVELS, REVEAL
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

EPILOG = """\
DIR gets the brief, the skeleton, a kit that knows the public behaviours only, and a workflow for GitHub Actions; make
it a repository and hand it on. FILE.zip is uploaded to Gradescope as it is; it holds hidden behaviours, so keep it."""


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export", help="for teachers: a starter repository, or an autograder", description=__doc__, epilog=EPILOG
    )
    export.add_argument("name", metavar="KATA", help="a kata of `kata list`")
    export.add_argument("--to", metavar="DIR", type=Path, help="write a starter repository into this new folder")
    export.add_argument("--gradescope", metavar="FILE.zip", type=Path, help="write an autograder for Gradescope")
    export.add_argument("--reveal", choices=REVEAL, default="names", help="of hidden behaviours, by the autograder")
    export.add_argument(
        "--require-isolation", type=int, choices=LEVELS, default=0, help="the autograder grades at no lower level (0)"
    )
    export.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.exporting import gradescope, starter

    if not options.to and not options.gradescope:
        raise Unusable("say what to export: --to DIR, a starter repository, or --gradescope FILE.zip, an autograder")
    kata = katas.shipped(options.name)
    if options.to:
        _check_free(options.to)
        _write(options.to, starter.starter(kata))
        print(f"{options.to}: a starter repository of {kata.name}; git init there, and hand it on")
    if options.gradescope:
        _write_new(options.gradescope, gradescope.autograder(kata, options.reveal, options.require_isolation))
        print(f"{options.gradescope}: an autograder of {kata.name}, with all that is hidden; upload it to Gradescope")
    return 0


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Unusable(f"{folder} is there already, and not empty; name another folder")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise Unusable(f"{folder} can't be written ({error.strerror or error}); name another folder") from None


def _write_new(path: Path, data: bytes) -> None:
    """A file that is there already stays."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise Unusable(f"{path} is there already; remove it, or name another file") from None
    except OSError as error:
        raise Unusable(f"{path} can't be written ({error.strerror or error}); name another file") from None
