"""The result of grading one submission: the one model that every format and page is written from.

As JSON it is `backend-katas/result/v1`; `result.schema.json` says every field. Times are UTC (ISO 8601, ending in Z),
durations milliseconds. The document is plain data: it crosses processes and machines, and is signed as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.verdicts import Unusable, Verdict

SCHEMA = "backend-katas/result/v1"
SCHEMA_FILE = Path(__file__).with_name("result.schema.json")


class Status(StrEnum):
    """What became of a submission. Only the first three have a score."""

    GRADED = "graded"
    REFUSED = "refused"  # it can't be graded as it was handed in: no points, and the reason is its own
    MISSING = "missing"  # somebody of the roster handed in nothing
    NOT_GRADABLE = "not gradable"  # the kit or this machine failed: no score, and no blame
    TAMPERED = "tampered"  # something interfered with the grading: the score is withheld


SCORED = {Status.GRADED, Status.REFUSED, Status.MISSING}


@dataclass(frozen=True)
class Student:
    """Who handed in: `id` is the roster's, or the name of what was handed in."""

    id: str
    name: str = ""
    email: str = ""


@dataclass(frozen=True)
class Submitted:
    """What was handed in; `digest` is of the files that were graded, however they were packed."""

    name: str
    digest: str = ""
    submitted_at: str = ""
    files: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kit:
    """What graded: the kit's version, and digests of its code and of the kata with its behaviours."""

    version: str
    digest: str
    kata: str


@dataclass(frozen=True)
class Judged:
    """One behaviour. `limit` names the bound that was hit; `runs` are the repetitions, all of which must hold."""

    id: str
    sentence: str
    stage: int
    points: int
    earned: int
    hidden: bool
    verdict: Verdict
    message: str = ""
    detail: tuple[str, ...] = ()
    limit: str = ""
    needs: tuple[str, ...] = ()
    hints_used: int | None = None  # as the learner's own record says; None without one
    source: str = ""
    url: str = ""
    milliseconds: int = 0
    runs: int = 1
    story: tuple[dict[str, Any], ...] = ()
    solution_name: str = "solution"
    output: str = ""

    @property
    def holds(self) -> bool:
        return self.verdict is Verdict.HOLDS


@dataclass(frozen=True)
class Graded:
    """The whole result. `score` is None when there is none to be given."""

    kata: str
    title: str
    student: Student
    submission: Submitted
    kit: Kit
    seed: int
    repeat: int
    isolation: int
    graded_at: str
    milliseconds: int
    status: Status
    reason: str = ""
    tampering: tuple[str, ...] = ()
    score: int | None = None
    max_score: int = 0
    behaviours: tuple[Judged, ...] = ()
    signature: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Judged]:
        """The behaviours that do not hold."""
        return [each for each in self.behaviours if not each.holds]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, table: Any) -> Graded:
        """Raises Unusable when the table is no result of this schema."""
        try:
            if table["schema"] != SCHEMA:
                raise Unusable(f"the schema is {table['schema']!r}, {SCHEMA} is understood")
            rest = {key: value for key, value in table.items() if key != "schema"}
            return cls(
                **rest
                | {
                    "student": Student(**table["student"]),
                    "submission": _tuples(Submitted, table["submission"]),
                    "kit": Kit(**table["kit"]),
                    "status": Status(table["status"]),
                    "tampering": tuple(table["tampering"]),
                    "behaviours": tuple(_judged(each) for each in table["behaviours"]),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unusable(f"it is no {SCHEMA} ({type(error).__name__}: {error})") from None


def _judged(table: dict[str, Any]) -> Judged:
    judged: Judged = _tuples(Judged, table | {"verdict": Verdict(table["verdict"])})
    if not isinstance(judged.points, int) or not isinstance(judged.earned, int):
        raise TypeError("points are whole numbers")
    return judged


def _tuples(kind: type[Any], table: dict[str, Any]) -> Any:
    """Lists of JSON become tuples, so that a result read back equals the one that was written."""
    known = {each.name for each in fields(kind)}
    if unknown := set(table) - known:
        raise TypeError(f"unknown fields {', '.join(sorted(unknown))}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def canonical(table: dict[str, Any]) -> bytes:
    """The bytes that are signed: keys sorted, no blanks, everything beyond ASCII escaped, the signature left out."""
    unsigned = {key: value for key, value in table.items() if key != "signature"}
    return json.dumps(unsigned, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def load(path: Path) -> dict[str, Any]:
    """The JSON of a result's file. Raises Unusable with one sentence when there is none."""
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Unusable(f"{path} is no JSON; a result is what `kata grade` writes below results/") from None
    if not isinstance(table, dict):
        raise Unusable(f"{path} is no result; a result is what `kata grade` writes below results/")
    return table


def read(path: Path) -> Graded:
    """The result in a file. Raises Unusable."""
    try:
        return Graded.from_json(load(path))
    except Unusable as problem:
        raise Unusable(str(problem) if str(path) in str(problem) else f"{path} can't be used: {problem}") from None


def total(judged: Iterable[Judged]) -> tuple[int, int]:
    """Points earned, and points that could be earned."""
    each = list(judged)
    return sum(one.earned for one in each), sum(one.points for one in each)
