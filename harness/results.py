"""What is known of one behaviour after it was tried: plain data, as it crosses processes and is written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from harness.verdicts import Verdict


@dataclass
class Result:
    """The outcome of one behaviour (of one mutant, when mutants are the subject)."""

    kata: str
    folder: str
    subject: str
    behaviour: str
    case: str  # the parameters of a parametrized behaviour, else ""
    sentence: str
    stage: int
    points: int
    hidden: bool
    source: str
    url: str
    hints: list[str]
    verdict: Verdict = Verdict.HOLDS
    message: str = ""
    detail: list[str] = field(default_factory=list)
    story: list[dict[str, Any]] = field(default_factory=list)
    solution_name: str = "solution"
    output: str = ""
    replay: str = ""
    seconds: float = 0.0
    mutant: str = ""
    because: str = ""
    untouched: bool = False
    isolation: int | None = None  # the level that the program really ran at, None for a practice run

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict.value}

    @classmethod
    def from_json(cls, table: dict[str, Any]) -> Result:
        known = {each.name for each in fields(cls)}
        table = {key: value for key, value in table.items() if key in known}
        return cls(**{**table, "verdict": Verdict(table["verdict"])})
