"""Grading one submission: a path and settings in, a signed result out, in whichever process or machine it is called.

Two kinds of ends are kept apart. What the submission brought on itself (no program in it, an archive that leads out of
its folder) is a refusal, with its reason. What the kit or the machine brought on it is `not gradable`, never a zero.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import waiting
from harness.behaviour import Behaviour
from harness.collecting import declared
from harness.grading import digests, worker
from harness.grading.archive import Refused
from harness.grading.collecting import Collected, collect, utc
from harness.grading.model import Graded, Judged, Status, Student, Submitted, total
from harness.grading.seal import sign
from harness.kata import Kata
from harness.results import Result
from harness.summary import merge_cases
from harness.verdicts import Verdict

RACES = 3  # the stage whose behaviours are repeated
LONGEST = 600  # seconds for a submission's run; a net, since each behaviour has bounds of its own
DEATHS = 2  # workers that one submission may cost
LAST_LINES, LAST_BYTES, LONGEST_TEXT = 4, 8192, 300
ALLOWED = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV")  # of the environment; everything else stays outside
NO_LEVEL = -1
THROUGH = 0o711  # a program that runs as another user gets to its own folder, and sees no other on the way


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


class Failed(Exception):
    """The kit or the machine failed, not the submission."""


class Interrupted(Exception):
    """The grading was called off."""


class Workers:
    """The workers that run now; ending them ends what they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def start(self, words: list[str], **how: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise Interrupted
            process = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True, **how)
            self._running.add(process)
            return process

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        status = process.wait()
        with self._lock:
            self._running.discard(process)
            if self._ended:
                raise Interrupted
        assert process.stdin is not None
        process.stdin.close()
        return status

    def end(self) -> None:
        """Call everything off; each worker ends what its submission started before it ends itself."""
        with self._lock:
            self._ended = True
            for process in self._running:
                assert process.stdin is not None
                process.stdin.close()


def grade_one(submission: Submission, settings: Settings, workers: Workers | None = None) -> dict[str, Any]:
    """The signed result of one submission. Raises Interrupted only."""
    return sign(judged(submission, settings, workers or Workers()).to_json(), settings.secret)


def judged(submission: Submission, settings: Settings, workers: Workers) -> Graded:
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
            graded = _graded(known, collected, settings, workers, folder)
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


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a run of the worker found out."""

    results: list[Result]
    findings: dict[str, Any]
    overtime: bool


def _graded(blank: Graded, collected: Collected, settings: Settings, workers: Workers, room: Path) -> Graded:
    behaviours = declared(settings.kata)
    runs = [_run(collected, settings, workers, room, settings.seed)]
    races = [f"test_{each.id}" for each in behaviours if each.stage == RACES]
    for number in range(1, settings.repeat if races else 1):
        runs.append(_run(collected, settings, workers, room, settings.seed + number, races))
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


def _run(
    collected: Collected, settings: Settings, workers: Workers, room: Path, seed: int, only: Sequence[str] = ()
) -> Found:
    """Run the worker, once more if it dies. Raises Failed with the reason when it dies again."""
    problem = ""
    for _ in range(DEATHS):
        found, problem = _attempt(collected, settings, workers, room, seed, only)
        if found:
            return found
    raise Failed(f"{DEATHS} workers died of it, the last one so: {problem}")


def _attempt(
    collected: Collected, settings: Settings, workers: Workers, room: Path, seed: int, only: Sequence[str]
) -> tuple[Found | None, str]:
    results = room / "results" / "results.json"
    results.parent.mkdir(mode=0o700, exist_ok=True)
    results.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as log:
        process = workers.start(
            _words(collected, settings, room, seed, only, results),
            cwd="/",
            env=_environment(room),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        status = workers.wait(process)
        table, overtime = _table(results), status == worker.OVERTIME
        if table and (overtime or (status in (0, 1) and _is_complete(table, settings.kata, only))):
            told = [Result.from_json(each) for each in table["results"]]
            return Found(told, table.get("isolation") or {}, overtime), ""
        if overtime:
            return Found([], {}, overtime), ""
        log.seek(max(log.seek(0, os.SEEK_END) - LAST_BYTES, 0))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return None, f"status {status}; {' / '.join(lines[-LAST_LINES:])}"[:LONGEST_TEXT]


def _words(
    collected: Collected, settings: Settings, room: Path, seed: int, only: Sequence[str], results: Path
) -> list[str]:
    kata = settings.kata
    wanted = [f"{kata.path}::{name}" for name in only] or [str(kata.path)]
    configured = ["-c", str(Path(worker.__file__).with_suffix(".ini")), f"--rootdir={kata.folder}"]
    plugins = ["-p", "no:cacheprovider", "-p", "harness.plugin", "-p", "pytest_timeout"]
    repeated = ["--unblocked"] if only else []
    return [
        *(sys.executable, "-I", worker.__file__, str(room), str(LONGEST)),
        *wanted,
        *configured,
        f"--confcutdir={kata.folder}",
        *plugins,
        *("-q", "--tb=no", "--color=no"),
        *repeated,
        f"--subject={collected.folder}",
        f"--seed={seed}",
        "--story=none",
        f"--results={results}",
        f"--isolation={settings.isolation}",
    ]


def _environment(room: Path) -> dict[str, str]:
    temporary = room / "tmp"
    temporary.mkdir(THROUGH, exist_ok=True)
    kept = {key: os.environ[key] for key in ALLOWED if key in os.environ}
    return kept | {
        "HOME": str(temporary),
        "TMPDIR": str(temporary),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def _table(path: Path) -> dict[str, Any] | None:
    """What the worker wrote; None when it wrote nothing, or not all of it."""
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return table if isinstance(table, dict) else None


def _is_complete(table: dict[str, Any], kata: Kata, only: Sequence[str]) -> bool:
    tried = {each["behaviour"] for each in table["results"]}
    wanted = {name.removeprefix("test_") for name in only} or {each.id for each in declared(kata)}
    return wanted <= tried


# -- the verdicts -----------------------------------------------------------------------------------------------------


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
