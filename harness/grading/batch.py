"""Grading many submissions: side by side, written as they come, and going on where it was interrupted.

Nothing of a submission is kept once its result is written, so memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.grading import collecting, digests
from harness.grading.archive import Refused
from harness.grading.asking import Asks, Interrupted
from harness.grading.model import SCHEMA, Graded, Status
from harness.grading.one import Settings, Submission, grade_one, room
from harness.grading.seal import Forged, check, sign
from harness.grading.store import Store, file_name
from harness.verdicts import Unusable

GRADING = "grading.json"
STRANGERS = 3  # things at the place of one result that are moved aside before the folder is given up


@dataclass(frozen=True)
class Row:
    """What is told of one submission while the others are still graded."""

    student: str
    status: Status
    score: int | None
    most: int
    reason: str
    kept: bool


class Results:
    """The folder of one batch: `grading.json`, how it is graded, and a signed result for each student in `results`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Store(folder)
        self.store = Store(folder / "results")

    def began(self) -> dict[str, Any]:
        """How the batch was graded when it began; empty when nothing began here."""
        if GRADING not in self.root.names():
            return {}
        table = self.root.read(GRADING)
        return table if isinstance(table, dict) else {}

    def begin(self, settings: Settings, resume: bool) -> None:
        """Raises Unusable when there are results already, and they are not to be gone on with."""
        if not resume and any(self._is_result(name) for name in self.store.names()):
            raise Unusable(f"{self.folder} holds results already; go on with --resume, or name another folder")
        table = {"kata": settings.kata.name, "seed": settings.seed, "repeat": settings.repeat}
        table |= {"isolation": settings.isolation}
        self.root.write(GRADING, json.dumps(table, indent=1) + "\n", replace=True)

    def _is_result(self, name: str) -> bool:
        with contextlib.suppress(Unusable):
            table = self.store.read(name)
            return isinstance(table, dict) and table.get("schema") == SCHEMA
        return False

    def own(self, name: str, key: str) -> dict[str, Any] | None:
        """The result of that name, if this grader wrote it."""
        try:
            table = self.store.read(name)
            check(table, key)
        except (Unusable, Forged, AttributeError):
            return None
        assert isinstance(table, dict)
        return table

    def put(self, name: str, table: dict[str, Any], replace_own: bool, secret: bytes) -> dict[str, Any]:
        """Write a result, and return it as it was written: tampering with its place is part of it. Raises Unusable."""
        for _ in range(STRANGERS):
            if self.store.write(name, json.dumps(table, indent=1) + "\n", replace=replace_own):
                return table
            if what := self.store.foreign(name):
                table = sign(_tampered(table, what), secret)
        raise Unusable(f"{self.store.path / name} comes back as often as it is moved aside; name another folder")

    def close(self) -> None:
        self.root.close()
        self.store.close()


def _tampered(table: dict[str, Any], what: str) -> dict[str, Any]:
    found = [*table["tampering"], what]
    return table | {"status": Status.TAMPERED.value, "reason": what, "tampering": found, "score": None}


class Batch:
    """One batch of submissions on their way to results."""

    def __init__(self, results: Results, settings: Settings, key: str, resume: bool, asks: Asks) -> None:
        self._results, self._settings, self._key, self._resume, self._asks = results, settings, key, resume, asks

    def run(self, submissions: Iterable[Submission], jobs: int, done: Callable[[Row], None]) -> None:
        """Grade them, `jobs` at a time, and call `done` with each. An interrupt loses nothing that was written."""
        pool = ThreadPoolExecutor(jobs)
        running: set[Future[Row]] = set()
        try:
            for submission in submissions:
                if len(running) >= jobs:
                    running = _report(running, done)
                running.add(pool.submit(self._one, submission))
            while running:
                running = _report(running, done)
        except BaseException:
            self._asks.end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _one(self, submission: Submission) -> Row:
        name = file_name(submission.student.id)
        before = self._results.own(name, self._key) if self._resume else None
        if before and self._is_current(before, submission):
            return _row(before, kept=True)
        table = grade_one(submission, self._settings, self._asks)
        table = self._results.put(name, table, before is not None, self._settings.secret)
        return _row(table, kept=False)

    def _is_current(self, before: dict[str, Any], submission: Submission) -> bool:
        """The result says what grading again would say: same files, same questions, same way of asking."""
        settings, graded = self._settings, Graded.from_json(before)
        if graded.status is not Status.GRADED or submission.path is None or submission.problem:
            return False
        same = (graded.kata, graded.seed, graded.repeat, graded.student) == (
            *(settings.kata.name, settings.seed, settings.repeat),
            submission.student,
        )
        if (
            not same
            or graded.isolation != settings.isolation
            or graded.kit != digests.kit(settings.kata.name, settings.kata.folder)
        ):
            return False
        with contextlib.suppress(Refused, OSError), room() as folder:
            return collecting.collect(submission.path, settings.kata, folder).digest == graded.submission.digest
        return False


def _report(running: set[Future[Row]], done: Callable[[Row], None]) -> set[Future[Row]]:
    ended, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in ended:
        with contextlib.suppress(Interrupted):
            done(future.result())
    return rest


def _row(table: dict[str, Any], kept: bool) -> Row:
    return Row(
        table["student"]["id"], Status(table["status"]), table["score"], table["max_score"], table["reason"], kept
    )


def differences(before: Graded, after: Graded) -> list[str]:
    """What came out differently, a sentence each."""
    found = []
    if before.submission.digest != after.submission.digest:
        found.append("the submission is another one")
    if before.kit != after.kit:
        found.append(f"the kit is another one ({before.kit.version} then, {after.kit.version} now)")
    if before.status is not after.status:
        found.append(f"it was {before.status}, and is {after.status}{f': {after.reason}' if after.reason else ''}")
    verdicts = {each.id: each.verdict for each in after.behaviours}
    for each in before.behaviours:
        now = verdicts.get(each.id, "not asked")
        if now != each.verdict:
            found.append(f"{each.id}: {each.verdict} then, {now} now")
    if before.score != after.score:
        found.append(f"the score was {before.score}, and is {after.score}")
    return found
