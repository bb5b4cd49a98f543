"""`kata regrade`: grade a submission again as a result says it was graded, and say what differs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    regrade = commands.add_parser("regrade", help="for teachers: reproduce a result", description=__doc__)
    regrade.add_argument("result", metavar="RESULT", type=Path, help="a result that `kata grade` wrote")
    regrade.add_argument("submission", metavar="SUBMISSION", type=Path, help="what was handed in")
    regrade.add_argument("--key", type=Path, metavar="FILE", help="the key, private or public (RESULTS.pub)")
    regrade.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from harness.commands.verify import key_for
    from harness.grading import levels, model, seal
    from harness.grading.asking import Workers
    from harness.grading.batch import differences
    from harness.grading.one import Settings, Submission, judged

    before = model.read(options.result)
    try:
        seal.check(model.load(options.result), key_for(options.result, options.key))
    except seal.Forged as problem:
        print(f"{options.result}: not to be believed: {problem}")
        return 1
    if not options.submission.exists():
        raise Unusable(f"{options.submission} does not exist; name what was handed in")
    level = levels.choose(max(before.isolation, 0), 0)
    settings = Settings(katas.shipped(before.kata), before.seed, b"", level, before.repeat)
    workers = Workers()
    try:
        after = judged(Submission(before.student, options.submission), settings, workers)
    finally:
        workers.end()
    found = differences(before, after)
    for difference in found:
        print(difference)
    if not found:
        held = sum(each.holds for each in after.behaviours)
        print(f"the same: {held} of {len(after.behaviours)} behaviours hold, {after.score} of {after.max_score} points")
    return int(bool(found))
