"""The proof of a kata as one page that needs nothing else: what was shown, and behaviours × mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness import subjects
from harness.behaviour import STAGES
from harness.proof.parts import Report, Subject

TEMPLATES = Path(__file__).with_name("templates")
MARK = '<meta name="generator" content="Backend Katas, kata prove">'  # by which a page of ours is known again
SIGNS = {"caught": "●", "missed": "✗", "not tried": "?"}


def is_ours(head: bytes) -> bool:
    return MARK.encode() in head


def page(subject: Subject, reports: Mapping[str, Report], version: str) -> str:
    """The page of a proof, as far as `reports`, by the names of their parts, go."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    mutants = subjects.mutants(subject.kata)
    pairs = reports["mutants"].pairs if "mutants" in reports else {}
    return environment.get_template("proof.html").render(
        kata=subject.kata,
        mark=MARK,
        version=version,
        reports=reports,
        problems=[problem for report in reports.values() for problem in report.problems],
        stages={
            f"{number} {name}": [each for each in subject.behaviours if each.stage == number]
            for number, name in STAGES.items()
        },
        mutants=mutants if pairs else [],
        pairs=pairs,
        signs=SIGNS,
        caught_of={name: sum(caught == "caught" for (m, _), caught in pairs.items() if m == name) for name, _ in pairs},
        catches_of={
            each.id: sum(caught == "caught" for (_, b), caught in pairs.items() if b == each.id)
            for each in subject.behaviours
        },
    )
