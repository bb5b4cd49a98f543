"""Grading one submission: a path and settings in, a signed result out, in whichever process or machine it is called.

Two kinds of ends are kept apart. What the submission brought on itself (no program in it, an archive that leads out of
its folder) is a refusal, with its reason. What the kit or the machine brought on it is `not gradable`, never a zero.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import waiting
from harness.behaviour import Behaviour
from harness.collecting import declared
from harness.grading import digests
from harness.grading.archive import Refused
from harness.grading.asking import LONGEST, THROUGH, Asked, Asks, Failed, Found, Workers
from harness.grading.collecting import Collected, collect, utc
from harness.grading.model import Graded, Judged, Status, Student, Submitted, total
from harness.grading.seal import sign
from harness.kata import Kata
from harness.results import Result
from harness.summary import merge_cases
from harness.verdicts import Verdict

NO_LEVEL = -1


@dataclass(frozen=True)
class Settings:
    """How a batch is graded. `secret` is the signing key's 32 bytes."""

    kata: Kata
    seed: int
    secret: bytes = field(repr=False)
    isolation: int = 0
    repeat: int = 1


@dataclass(frozen=True)
class Submission:
    """Something that was handed in, by whom; `problem` is why it can't be taken, found out before it was opened."""

    student: Student
    path: Path | None
    submitted_at: str = ""
    problem: str = ""


def grade_one(submission: Submission, settings: Settings, asks: Asks | None = None) -> dict[str, Any]:
    """The signed result of one submission. Raises Interrupted only."""
    return sign(judged(submission, settings, asks or Workers()).to_json(), settings.secret)


def judged(submission: Submission, settings: Settings, asks: Asks) -> Graded:
    """The result, unsigned."""
    began = waiting.now()
    blank = _blank(submission, settings)
    if submission.problem:
        return replace(blank, status=Status.REFUSED, reason=submission.problem)
    if submission.path is None:
        return replace(blank, status=Status.MISSING, reason="nothing was handed in")
    try:
        with room() as folder:
            collected = collect(submission.path, settings.kata, folder)
            known = replace(blank, submission=_submitted(submission, collected))
            graded = _graded(known, collected, settings, asks, folder)
    except Refused as problem:
        graded = replace(blank, status=Status.REFUSED, reason=str(problem))
    except Failed as problem:
        graded = replace(blank, status=Status.NOT_GRADABLE, reason=str(problem), score=None)
    except OSError as error:
        graded = replace(blank, status=Status.NOT_GRADABLE, reason=_trouble(error), score=None)
    return replace(graded, milliseconds=round((waiting.now() - began) * 1000))


def _blank(submission: Submission, settings: Settings) -> Graded:
    """A result before anything was looked at: no points."""
    kata = settings.kata
    name = submission.path.name if submission.path else ""
    return Graded(
        kata=kata.name,
        title=kata.title,
        student=submission.student,
        submission=Submitted(name, submitted_at=submission.submitted_at),
        kit=digests.kit(kata.name, kata.folder),
        seed=settings.seed,
        repeat=settings.repeat,
        isolation=NO_LEVEL,
        graded_at=utc(),
        milliseconds=0,
        status=Status.GRADED,
        score=0,
        max_score=sum(each.points for each in declared(kata)),
    )


def _submitted(submission: Submission, collected: Collected) -> Submitted:
    assert submission.path is not None
    when = submission.submitted_at or collected.submitted_at
    return Submitted(submission.path.name, collected.digest, when, collected.files, collected.notes)


@contextlib.contextmanager
def room() -> Iterator[Path]:
    """A folder for everything about one submission, which only the grader can list."""
    folder = Path(tempfile.mkdtemp(prefix="kata-grade-"))
    folder.chmod(THROUGH)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trouble(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"no space is left in {tempfile.gettempdir()}; make room and grade it again with --resume"
    return f"this machine failed: {error.strerror or error}"


# -- the verdicts -----------------------------------------------------------------------------------------------------


def _graded(blank: Graded, collected: Collected, settings: Settings, asks: Asks, room: Path) -> Graded:
    behaviours = declared(settings.kata)
    asked = Asked(settings.seed, settings.isolation, settings.repeat)
    runs = asks.ask(collected.folder, settings.kata, asked, room)
    each = tuple(_judge(behaviour, runs, collected.hints_used) for behaviour in behaviours)
    earned, most = total(each)
    graded = replace(
        blank,
        submission=replace(blank.submission, notes=(*blank.submission.notes, *_found(runs, "left"))),
        isolation=settings.isolation,
        tampering=tuple(_found(runs, "tampering")),
        behaviours=each,
        score=earned,
        max_score=most,
    )
    if graded.tampering:
        return replace(graded, status=Status.TAMPERED, reason=graded.tampering[0], score=None)
    if faults := [one for one in each if one.verdict is Verdict.FAULT]:
        reason = f"the kit failed at {faults[0].id}: {faults[0].message}"
        return replace(graded, status=Status.NOT_GRADABLE, reason=reason, score=None)
    return graded


def _found(runs: list[Found], what: str) -> list[str]:
    """What the runs noticed of the submission besides its verdicts, each once."""
    return list(dict.fromkeys(words for run in runs for words in run.findings.get(what, [])))


def _judge(behaviour: Behaviour, runs: list[Found], hints: dict[str, int] | None) -> Judged:
    """One behaviour over all runs: it holds if it held each time, and else the first time it did not counts."""
    tried = [merged for run in runs if (merged := _result(behaviour, run))]
    worst = next((result for result in tried if result.verdict is not Verdict.HOLDS), tried[0] if tried else None)
    overtime = f"the whole run took more than {LONGEST} s" if any(run.overtime for run in runs) else ""
    base = Judged(
        id=behaviour.id,
        sentence=behaviour.sentence,
        stage=behaviour.stage,
        points=behaviour.points,
        earned=0,
        hidden=behaviour.hidden,
        verdict=Verdict.LIMIT,
        message=overtime,
        limit=overtime,
        needs=behaviour.needs,
        hints_used=None if hints is None else min(hints.get(behaviour.id, 0), len(behaviour.hints)),
        source=str(behaviour.source),
        url=behaviour.source.url,
    )
    if worst is None:
        return base
    return replace(
        base,
        earned=behaviour.points if worst.verdict is Verdict.HOLDS else 0,
        verdict=worst.verdict,
        message=worst.message,
        detail=tuple(worst.detail),
        limit=worst.message if worst.verdict is Verdict.LIMIT else "",
        milliseconds=round(sum(result.seconds for result in tried) * 1000),
        runs=len(tried),
        story=tuple(worst.story),
        solution_name=worst.solution_name,
        output=worst.output,
    )


def _result(behaviour: Behaviour, run: Found) -> Result | None:
    of_it = [result for result in run.results if result.behaviour == behaviour.id]
    return merge_cases(of_it)[0] if of_it else None
