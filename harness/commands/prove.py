"""`kata prove`: whether a kata judges rightly, by its reference, mistakes, null programs, oracles, and under load."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.kata import suggestion
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from rich.console import Console

    from harness.proof.parts import Part, Report, Subject
    from harness.proof.runs import Bench, Outcome

PARTS = ("reference", "mutants", "nulls", "oracles", "solutions", "load")


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    prove = commands.add_parser("prove", help="for authors: show that a kata judges rightly", description=__doc__)
    prove.add_argument("name", metavar="NAME", help="a kata of this clone")
    prove.add_argument("--runs", type=_runs, default=20, metavar="N", help="runs under load (20)")
    prove.add_argument("--busy", type=_count, default=4, metavar="N", help="busy processes beside them (4)")
    prove.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    prove.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number is wanted, not {text!r}")
    return int(text)


def _runs(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError("at least one run is wanted; `--only` leaves the load out")
    return number


def _parts(text: str) -> tuple[str, ...]:
    wanted = text.split(",")
    for word in wanted:
        if word not in PARTS:
            raise argparse.ArgumentTypeError(f"there is no part `{word}`{suggestion(word, PARTS)}; {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part in wanted)


def run(options: argparse.Namespace) -> int:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise Unusable("`kata prove` needs rich, which is not installed: pip install 'backend-katas[author]'") from None

    from harness.proof.runs import Bench

    subject, console = _subject(options), Console(highlight=False)
    problems: list[str] = []
    with Bench(subject.kata) as bench:
        for name in options.only:
            report = _carry_out(name, subject, bench, options.busy, console)
            _show(console, name, report)
            problems += report.problems
    if problems:
        console.print(f"\n{subject.kata.name} is not proved:", style="bold red")
        for problem in problems:
            console.print(f" ✗ {problem}", markup=False, soft_wrap=True)
        return 1
    console.print(f"\n{subject.kata.name} is proved: {', '.join(options.only)}", style="bold green")
    return 0


def _subject(options: argparse.Namespace) -> Subject:
    """What is to be proved; everything that is broken in its files is said before anything runs."""
    from harness import subjects
    from harness.collecting import declared
    from harness.proof.parts import Subject

    kata = katas.shipped(options.name)
    subjects.solution(kata)
    subjects.mutants(kata)
    if not (behaviours := declared(kata)):
        raise Unusable(f"harness/behaviours/{kata.name}.py declares no behaviour; write one")
    return Subject(kata, behaviours, os.cpu_count() or 1, options.runs)


def _carry_out(name: str, subject: Subject, bench: Bench, busy: int, console: Console) -> Report:
    from harness.proof.parts import PARTS

    part: Part = PARTS[name]
    runs = part.runs(subject)
    width = 1 if part.alone else subject.width
    with _progress(console, name, len(runs)) as done, bench.busy(busy if part.loaded else 0):
        outcomes = bench.all(runs, width, done)
    return part.report(subject, outcomes)


@contextmanager
def _progress(console: Console, name: str, total: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar that moves, or where nobody looks, a line for each run."""
    if not console.is_terminal:
        yield lambda outcome: console.print(f"  {name}: {outcome.run.name}, {outcome.seconds:.1f} s", markup=False)
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda outcome: progress.advance(task)


def _show(console: Console, name: str, report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    mark, colour = ("✗", "red") if report.problems else ("✓", "green")
    console.print(Text.assemble((f"{mark} {name}", f"bold {colour}"), f"  {report.headline}"), soft_wrap=True)
    if report.columns:
        table = Table(*report.columns, box=None, padding=(0, 2, 0, 0), header_style="dim")
        for row in report.rows:
            table.add_row(*map(Text, row))
        console.print(table)
