"""The map at the end of a run: stages, behaviours, points, what changed, the next step."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from typing import Any

import pytest

from harness import progress
from harness.behaviour import STAGES
from harness.results import Result
from harness.solution.quiet import doubt
from harness.story.plain import shorten, visible
from harness.verdicts import MARK, Verdict

STATUS = {
    Verdict.HOLDS: ("passed", ".", "HOLDS"),
    Verdict.BROKEN: ("failed", "F", "BROKEN"),
    Verdict.NOT_REACHED: ("failed", "N", "NOT REACHED"),
    Verdict.LIMIT: ("failed", "L", "LIMIT"),
    Verdict.FAULT: ("failed", "E", "FAULT OF THE KIT"),
    Verdict.BLOCKED: ("blocked", "b", "BLOCKED"),
    Verdict.SKIPPED: ("skipped", "s", "SKIPPED"),
}
WIDTH = 80
Writer = Any  # pytest's terminal reporter


def status(result: Result) -> tuple[str, str, Any]:
    """How pytest counts a result: category, letter and word."""
    if result.mutant and result.verdict is Verdict.HOLDS:
        return "passed", ".", "CAUGHT"
    if result.mutant and result.verdict is Verdict.BROKEN:
        return "failed", "F", "SURVIVED"
    return STATUS[result.verdict]


def write(reporter: Writer, config: pytest.Config, results: list[Result]) -> None:
    """Write the map of each kata of the run."""
    katas: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        katas[result.kata, "mutants" if result.mutant else result.subject].append(result)
    for (name, subject), members in katas.items():
        if subject == "mutants":
            _write_mutants(reporter, name, members)
        else:
            _write_kata(reporter, config, name, subject, merge_cases(members))
    if why := doubt():
        text = f"quiet is judged by a bounded settle time here: {why}"
        for line in textwrap.wrap(text, WIDTH - 2, initial_indent=" ", subsequent_indent=" "):
            reporter.write_line(line)


def merge_cases(results: list[Result]) -> list[Result]:
    """One result a behaviour: of a parametrized one the first case that does not hold, else any."""
    merged: dict[str, Result] = {}
    for result in results:
        known = merged.setdefault(result.behaviour, result)
        if known.verdict is Verdict.HOLDS and result.verdict is not Verdict.HOLDS:
            merged[result.behaviour] = result
    return list(merged.values())


def _write_kata(reporter: Writer, config: pytest.Config, name: str, subject: str, results: list[Result]) -> None:
    held = [result for result in results if result.verdict is Verdict.HOLDS]
    points, most = sum(result.points for result in held), sum(result.points for result in results)
    whose = "" if subject == "solution" else f" ({subject})"
    title = f"{name}{whose}: {len(held)} of {len(results)} behaviours hold, {points} of {most} points"
    reporter.write_sep("=", title, bold=True, green=len(held) == len(results), red=len(held) < len(results))
    if results[0].untouched:
        reporter.write_line(f" next: {results[0].message}")
        return
    for stage in sorted({result.stage for result in results}):
        _write_stage(reporter, stage, [result for result in results if result.stage == stage])
    if subject == "solution":
        for line in progress.compare(results):
            reporter.write_line(line)
        _write_next_step(reporter, results)


def _write_stage(reporter: Writer, stage: int, results: list[Result]) -> None:
    held = sum(result.verdict is Verdict.HOLDS for result in results)
    marks = "".join(MARK[result.verdict] for result in results)
    reporter.write_line(
        f" {stage} {STAGES[stage]:<12}{held:>3}/{len(results):<3} {marks}",
        green=held == len(results),
    )
    unheld = [result for result in results if result.verdict not in {Verdict.HOLDS, Verdict.BLOCKED}]
    for result in unheld[:6]:
        what = f"{MARK[result.verdict]} {result.behaviour}: {visible(result.message)}"
        reporter.write_line("     " + shorten(what, WIDTH - 5), red=True)
    if len(unheld) > 6:
        reporter.write_line(f"     and {len(unheld) - 6} more")
    blocked = [result for result in results if result.verdict is Verdict.BLOCKED]
    if blocked:
        reporter.write_line(f"     · {len(blocked)} wait for others ({blocked[0].message})")


def _write_next_step(reporter: Writer, results: list[Result]) -> None:
    first = next(
        (result for result in results if result.verdict in {Verdict.BROKEN, Verdict.NOT_REACHED, Verdict.LIMIT}),
        None,
    )
    if first is None:
        return
    step = f"next: {first.behaviour}. {visible(first.sentence)}"
    for line in textwrap.wrap(step, WIDTH - 2, initial_indent=" ", subsequent_indent="       "):
        reporter.write_line(line, bold=True)
    if first.hints:
        reporter.write_line(f"       stuck? kata hint {first.kata} {first.behaviour}")


def _write_mutants(reporter: Writer, name: str, results: list[Result]) -> None:
    mutants = {result.mutant for result in results}
    missed = [result for result in results if result.verdict is not Verdict.HOLDS]
    caught = len(mutants) - len({result.mutant for result in missed})
    title = f"{name}: {caught} of {len(mutants)} mistakes caught by every behaviour named for them"
    reporter.write_sep("=", title, bold=True, green=not missed, red=bool(missed))
    for result in missed:
        what = f"{MARK[result.verdict]} {result.mutant} / {result.behaviour}: {visible(result.message)}"
        reporter.write_line(shorten(f" {what}", 160), red=True)
