"""What is proved of a kata, part by part: which runs it takes, and what their outcomes say.

A part never asks again: a verdict that came out wrong once is wrong. Each sentence in `problems` is one reason why the
kata is not proved.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from harness import kata as katas
from harness import subjects
from harness.behaviour import Behaviour
from harness.kata import Kata
from harness.proof import programs
from harness.proof.programs import Oracle
from harness.proof.runs import Outcome, Run
from harness.results import Result
from harness.summary import merge_cases
from harness.verdicts import Verdict

TIMED_RUNS = 5  # of the reference, one after the other
NAMES_SHOWN = 6

Row = tuple[str, ...]


@dataclass
class Report:
    """What a part has shown: a headline, a table where one helps, and the reasons against the kata."""

    headline: str = ""
    columns: Row = ()
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pairs: dict[tuple[str, str], str] = field(default_factory=dict)  # of a mistake and a behaviour: what became of it


@dataclass(frozen=True)
class Subject:
    """What is to be proved, and how thoroughly."""

    kata: Kata
    behaviours: list[Behaviour]
    width: int
    load_runs: int


@dataclass(frozen=True)
class Part:
    """`alone`: its runs take place one at a time; `loaded`: beside busy processes."""

    runs: Callable[[Subject], list[Run]]
    report: Callable[[Subject, list[Outcome]], Report]
    alone: bool = False
    loaded: bool = False


def said(result: Result) -> str:
    """A verdict in a few words."""
    case = f"[{result.case}]" if result.case else ""
    return f"{result.behaviour}{case}: {result.verdict}{f' ({result.message})' if result.message else ''}"


def _failed(outcomes: list[Outcome]) -> list[str]:
    return [f"{outcome.run.name}: {outcome.problem}" for outcome in outcomes if outcome.problem]


def _unheld(outcomes: list[Outcome]) -> list[str]:
    return [f"{outcome.run.name}: {said(result)}" for outcome in outcomes for result in outcome.unheld]


# -- reference ------------------------------------------------------------------------------------------------------


def reference_runs(subject: Subject) -> list[Run]:
    return [Run("reference", ("--subject=reference",))] * TIMED_RUNS


def reference_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    seconds = [outcome.seconds for outcome in outcomes]
    each = [result.seconds * 1000 for outcome in outcomes for result in outcome.results]
    report = Report(problems=[*_failed(outcomes), *dict.fromkeys(_unheld(outcomes))])
    report.headline = (
        f"{_held(outcomes[0])}; a run takes {statistics.median(seconds):.2f} s (median of {len(seconds)}), "
        f"at most {max(seconds):.2f} s"
    )
    if each:
        report.headline += f"; a behaviour {statistics.median(each):.1f} ms (median)"
    return report


def _held(outcome: Outcome) -> str:
    results = merge_cases(list(outcome.results))
    return f"{sum(result.verdict is Verdict.HOLDS for result in results)} of {len(results)} behaviours hold"


# -- mutants --------------------------------------------------------------------------------------------------------


def mutants_runs(subject: Subject) -> list[Run]:
    side_by_side = ("-n", str(subject.width)) if importlib.util.find_spec("xdist") else ()
    return [Run("mutants", ("--subject=mutants", *side_by_side))]


def mutants_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    (outcome,) = outcomes
    meant = [(mutant.name, name) for mutant in subjects.mutants(subject.kata) for name in mutant.caught_by]
    tried = {(result.mutant, result.behaviour) for result in outcome.results}
    missed = {(result.mutant, result.behaviour): result for result in outcome.unheld}
    caught = [pair for pair in meant if pair in tried and pair not in missed]
    mutants = {mutant for mutant, _ in meant}
    unnoticed = {mutant for mutant, _ in meant if not any(mutant == other for other, _ in caught)}
    report = Report(
        headline=f"{len(mutants) - len(unnoticed)} of {len(mutants)} mistakes are caught, "
        f"{len(caught)} of {len(meant)} pairs of a mistake and a behaviour meant to catch it",
        columns=("behaviour", "catches", "mistakes"),
        problems=_failed(outcomes),
        pairs={pair: "missed" if pair in missed else "caught" if pair in tried else "not tried" for pair in meant},
    )
    for behaviour in subject.behaviours:
        names = [mutant for mutant, name in caught if name == behaviour.id]
        report.rows.append((behaviour.id, str(len(names)), _few(names)))
        if not names:
            report.problems.append(f"mutants: {behaviour.id} catches no mistake; plant one that it is meant to catch")
    report.problems += [f"mutants: [{mutant}] and {said(result)}" for (mutant, _), result in missed.items()]
    if outcome.results:
        report.problems += [f"mutants: [{m}] was never tried by {name}" for m, name in meant if (m, name) not in tried]
    return report


def _few(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


# -- null programs --------------------------------------------------------------------------------------------------


def nulls_runs(subject: Subject) -> list[Run]:
    files = programs.null_programs(subject.kata)
    null = {f"{path.parent.name}/{path.stem}": path for path in files} | {"skeleton": subject.kata.folder}
    return [Run(name, (f"--subject={path}", "--unblocked")) for name, path in null.items()]


def nulls_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    report = Report(columns=("null program", "points", "vacuous behaviours"), problems=_failed(outcomes))
    vacuous: dict[str, int] = {}
    for outcome in outcomes:
        held = [result for result in merge_cases(list(outcome.results)) if result.verdict is Verdict.HOLDS]
        vacuous |= {result.behaviour: result.points for result in held}
        names = [result.behaviour for result in held]
        report.rows.append((outcome.run.name, str(sum(result.points for result in held)), ", ".join(names)))
        if names:
            report.problems.append(
                f"nulls: {', '.join(names)} {'holds' if len(names) == 1 else 'hold'} for `{outcome.run.name}`; "
                "a behaviour needs a part that only a working program can do"
            )
        if idle := outcome.with_verdict(Verdict.BLOCKED, Verdict.FAULT):
            report.problems.append(f"nulls: `{outcome.run.name}` was not met: {said(idle[0])}")
    most = sum(behaviour.points for behaviour in subject.behaviours)
    report.headline = f"vacuity score: {sum(vacuous.values())} of {most} points are earned by doing nothing"
    report.problems += _stale_digest(subject.kata)
    return report


def _stale_digest(kata: Kata) -> list[str]:
    digest = katas.digest(kata.folder)
    if kata.skeleton == digest:
        return []
    return [f'skeleton: the digest in {kata.path} is not current; write skeleton = "{digest}", or restore the skeleton']


# -- oracles --------------------------------------------------------------------------------------------------------


def _oracles(subject: Subject) -> list[Oracle]:
    return [oracle for oracle in programs.oracles() if oracle.kata == subject.kata.name]


def oracles_runs(subject: Subject) -> list[Run]:
    return [
        Run(oracle.path.stem, (f"--subject={oracle.path}", "--unblocked"))
        for oracle in _oracles(subject)
        if not oracle.missing
    ]


def oracles_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    oracles = _oracles(subject)
    report = Report(
        headline="" if oracles else "there is no oracle for this kata",
        columns=("oracle", "holds", "justified deviations") if oracles else (),
        problems=_failed(outcomes),
    )
    ran = {outcome.run.name: outcome for outcome in outcomes}
    for oracle in oracles:
        if oracle.path.stem in ran:
            _judge_oracle(oracle, ran[oracle.path.stem], report)
        else:
            _skip_oracle(oracle, report)
    return report


def _judge_oracle(oracle: Oracle, outcome: Outcome, report: Report) -> None:
    name, results = oracle.path.stem, merge_cases(list(outcome.results))
    unheld = {result.behaviour: result for result in results if result.verdict is not Verdict.HOLDS}
    report.rows.append((name, _held(outcome), ", ".join(oracle.deviations)))
    report.problems += [f"{name}: {said(unheld[key])}" for key in unheld if key not in oracle.deviations]
    if results:
        stale = [key for key in oracle.deviations if key not in unheld and key not in oracle.unsteady]
        report.problems += [f"{name}: the deviation `{key}` is stale, the behaviour holds; remove it" for key in stale]


def _skip_oracle(oracle: Oracle, report: Report) -> None:
    install = f"; install {oracle.package}" if oracle.package else ""
    why = f"skipped: {oracle.missing} is not installed{install}"
    report.rows.append((oracle.path.stem, why, ""))
    if os.environ.get("REQUIRE_ORACLES") == "1":
        report.problems.append(f"{oracle.path.stem}: {why}")


# -- other solutions ------------------------------------------------------------------------------------------------


def solutions_runs(subject: Subject) -> list[Run]:
    return [Run(path.name, (f"--subject={path}",)) for path in programs.solutions(subject.kata)]


def solutions_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    report = Report(problems=[*_failed(outcomes), *_unheld(outcomes)])
    if outcomes:
        report.columns = ("solution", "holds", "seconds")
        report.rows = [(outcome.run.name, _held(outcome), f"{outcome.seconds:.2f}") for outcome in outcomes]
    else:
        report.headline = "there is no other solution of this kata"
        report.problems.append(
            f"solutions: there is none in tests/solutions/{subject.kata.name}; an independent one finds "
            "the behaviours that only describe the reference"
        )
    return report


# -- load -----------------------------------------------------------------------------------------------------------


def load_runs(subject: Subject) -> list[Run]:
    return [Run("under load", ("--subject=reference",))] * subject.load_runs


def load_report(subject: Subject, outcomes: list[Outcome]) -> Report:
    wrong = [(outcome.seed, result) for outcome in outcomes for result in outcome.unheld]
    verdicts = sum(len(outcome.results) for outcome in outcomes)
    seconds = [outcome.seconds for outcome in outcomes]
    report = Report(
        headline=f"{len(wrong)} wrong verdicts of {verdicts} in {len(outcomes)} runs; a run takes "
        f"{statistics.median(seconds):.2f} s (median), at most {max(seconds):.2f} s",
        problems=[*_failed(outcomes), *(f"under load: {said(result)}; --seed={seed}" for seed, result in wrong)],
    )
    often = Counter(result.behaviour for _, result in wrong).most_common()
    if often:
        report.columns = ("behaviour", "wrong verdicts")
        report.rows = [(name, str(number)) for name, number in often]
    return report


PARTS = {
    "reference": Part(reference_runs, reference_report, alone=True),
    "mutants": Part(mutants_runs, mutants_report),
    "nulls": Part(nulls_runs, nulls_report),
    "oracles": Part(oracles_runs, oracles_report),
    "solutions": Part(solutions_runs, solutions_report),
    "load": Part(load_runs, load_report, loaded=True),
}
