"""`kata verify`: whether results are as `kata grade` wrote them, and by which kit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.commands.grade import key_beside
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.grading.model import Graded


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser("verify", help="for teachers: check the signatures of results", description=__doc__)
    verify.add_argument("results", metavar="RESULT", nargs="+", type=Path, help="a result, or a folder of results")
    verify.add_argument("--key", type=Path, metavar="FILE", help="the key, private or public (RESULTS.pub)")
    verify.add_argument("--submission", type=Path, metavar="PATH", help="also: whether this is what was graded")
    verify.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    paths = [path for given in options.results for path in files(given)]
    problems = 0
    for path in paths:
        problem = _problem(path, options.key, options.submission)
        problems += bool(problem)
        print(f"{path}: {problem or _fine(path)}")
    return int(problems > 0)


def files(given: Path) -> list[Path]:
    """The files of results that are meant: one, or all of a folder. Raises Unusable when there are none."""
    if not given.is_dir():
        return [given]
    inside = given / "results" if (given / "results").is_dir() else given
    found = sorted(path for path in inside.glob("*.json") if path.name != "grading.json")
    if not found:
        raise Unusable(f"{given} holds no results; `kata grade` makes such a folder")
    return found


def key_for(path: Path, named: Path | None) -> str:
    """The public key that a result must be signed with. Raises Unusable when there is none."""
    from harness.grading import seal

    if named:
        return seal.public_key(named)
    beside = key_beside(path.resolve().parent.parent)
    for known in (seal.public_path(beside), beside):
        if known.is_file():
            return seal.public_key(known)
    raise Unusable(f"there is no {beside.name} beside the results of {path}; name the key by --key")


def _problem(path: Path, key: Path | None, submission: Path | None) -> str:
    from harness.grading import model, seal

    table, public = model.load(path), key_for(path, key)
    try:
        seal.check(table, public)
        result = model.Graded.from_json(table)
    except seal.Forged as problem:
        return f"not to be believed: {problem}"
    except Unusable as problem:
        return f"can't be used: {problem}"
    if result.score is not None and result.score != model.total(result.behaviours)[0]:
        return "not to be believed: the score is not the sum of the points"
    if submission and (digest := _digest(result, submission)) != result.submission.digest:
        return f"{submission} is not what was graded ({digest or 'it is refused'})"
    return ""


def _digest(result: Graded, submission: Path) -> str:
    from harness.grading import one
    from harness.grading.archive import Refused
    from harness.grading.collecting import collect

    with one.room() as room:
        try:
            return collect(submission, katas.shipped(result.kata), room).digest
        except Refused:
            return ""
        except OSError as error:
            raise Unusable(f"{submission} can't be read: {error.strerror}") from None


def _fine(path: Path) -> str:
    from harness.grading import digests, model

    result = model.read(path)
    kata = katas.catalogue().get(result.kata)
    same = kata is not None and digests.kit(kata.name, kata.folder) == result.kit
    whose = "this kit" if same else f"another kit than this one (version {result.kit.version})"
    score = f"{result.score} of {result.max_score} points" if result.score is not None else result.status.value
    return f"as it was written; {score}, graded {result.graded_at} by {whose}"
