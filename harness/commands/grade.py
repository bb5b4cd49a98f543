"""`kata grade`: grade any number of submissions that nobody vouches for, each in a process of its own."""

from __future__ import annotations

import argparse
import importlib.util
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness import waiting
from harness.story.plain import shorten, visible
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from harness.grading.asking import Asks
    from harness.grading.batch import Results, Row
    from harness.grading.one import Settings
    from harness.grading.roster import Handed

LEVELS = range(4)
REVEAL = ("none", "names", "sentences", "stories")
INTERRUPTED = 130
LONGEST_LINE = 300
EPILOG = """\
SUBMISSIONS is a folder that holds a folder, a zip or a tar for each student; or one submission alone. RESULTS will
hold results/ID.json, the signed results with all that is known (for you), gradebook.csv, index.html (the class, for
you), and students/ID.html (for them, with as much of hidden behaviours as --reveal says).
Exit status: 0 when all were graded, 1 when some could not be, 2 when nothing could be done as asked."""


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    grade = commands.add_parser(
        "grade",
        help="for teachers: grade a folder of submissions",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    grade.add_argument("name", metavar="KATA", help="a kata of `kata list`")
    grade.add_argument("submissions", metavar="SUBMISSIONS", type=Path, help="what was handed in")
    grade.add_argument("--out", metavar="RESULTS", type=Path, required=True, help="the folder for the results")
    grade.add_argument("-j", "--jobs", type=_positive, metavar="N", help="submissions at a time (two for each core)")
    grade.add_argument("--isolation", type=int, choices=LEVELS, help="the level to run them in (the best there is)")
    grade.add_argument(
        "--require-isolation", type=int, choices=LEVELS, default=0, help="grade nothing at a lower level (0)"
    )
    grade.add_argument("--reveal", choices=REVEAL, default="names", help="of hidden behaviours, to students (names)")
    grade.add_argument("--seed", type=int, help="the seed of all random data (a new one for each batch)")
    grade.add_argument("--repeat", type=_positive, metavar="N", help="try races (stage 3) N times; all must hold (1)")
    grade.add_argument("--resume", action="store_true", help="go on: grade what is missing or has changed")
    grade.add_argument("--roster", type=Path, metavar="CSV", help="who is who: id, and if you like name, email, ...")
    grade.add_argument("--dask", metavar="SCHEDULER", help="grade on a Dask cluster, such as tcp://HOST:8786")
    grade.add_argument("--key", type=Path, metavar="FILE", help="the key to sign with (RESULTS.key, made if missing)")
    grade.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on is wanted, not {text!r}")
    return int(text)


def key_beside(results: Path) -> Path:
    """Where the key of a folder of results lies, unless it is named."""
    results = results.resolve()
    return results.with_name(f"{results.name}.key")


def run(options: argparse.Namespace) -> int:
    from harness.grading import roster, seal
    from harness.grading.batch import Batch, Results

    kata = katas.shipped(options.name)
    _check_machine()
    entries = roster.read(options.roster) if options.roster else []
    handed = roster.handed_in(options.submissions, entries, kata.run[-1])
    for note in handed.notes:
        print(f"note: {note}")
    with closing(_who_asks(options, kata)) as asks, closing(Results(options.out)) as results:
        key = options.key or key_beside(options.out)
        settings = _settings(options, kata, results, seal.key_of(key), asks)
        results.begin(settings, options.resume)
        batch = Batch(results, settings, seal.public_key(key), options.resume, asks)
        jobs = options.jobs or asks.size
        rows = _carry_out(lambda done: batch.run(handed.submissions, jobs, done), handed)
        if rows is None:
            return INTERRUPTED
        _write_pages(results, handed, seal.public_key(key), options.reveal)
        _tell(rows, settings, results)
    return int(any(row.status not in ("graded", "missing") for row in rows))


def _check_machine() -> None:
    from harness.solution import kernel

    if why := kernel.shown():
        raise Unusable(f"grading needs Linux ({why}); use a container or a virtual machine")


def _who_asks(options: argparse.Namespace, kata: katas.Kata) -> Asks:
    """This machine, or a cluster."""
    if options.dask is None:
        from harness.grading.asking import Workers

        return Workers()
    from harness.grading.cluster import Cluster

    return Cluster(options.dask, kata)


def _settings(options: argparse.Namespace, kata: katas.Kata, results: Results, secret: bytes, asks: Asks) -> Settings:
    """What is not said is as it was when the batch began."""
    from harness.collecting import declared
    from harness.grading.one import Settings

    declared(kata)  # a package that the kata lacks is said before anything is graded
    began = results.began() if options.resume else {}
    if began.get("kata", kata.name) != kata.name:
        raise Unusable(f"{options.out} holds results of another kata, `{began['kata']}`; name another folder")
    seed = began.get("seed", secrets.randbelow(10**6)) if options.seed is None else options.seed
    repeat = options.repeat or began.get("repeat", 1)
    level = asks.level(options.isolation, options.require_isolation)
    return Settings(kata, seed, secret, level, repeat)


def _carry_out(work: Callable[[Callable[[Row], None]], None], handed: Handed) -> list[Row] | None:
    """Do the work and show how far it is; the rows that are worth telling, or None when it was interrupted."""
    rows: list[Row] = []
    try:
        with _progress(len(handed.submissions)) as shown:

            def done(row: Row) -> None:
                rows.append(row)
                shown(row)

            work(done)
    except KeyboardInterrupt:
        print(
            f"kata: interrupted; {len(rows)} of {len(handed.submissions)} are graded and kept, "
            "and --resume grades the others",
            file=sys.stderr,
        )
        return None
    return rows


def said(row: Row) -> str:
    """A submission's outcome in one line."""
    what = f"{row.score} of {row.most} points" if row.status == "graded" else f"{row.status}: {row.reason}"
    kept = " (as before)" if row.kept else ""
    return shorten(visible(f"{row.student}: {what}{kept}"), LONGEST_LINE)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Row], None]]:
    """A bar with counts and the time left; without rich, or where nobody looks, a line for each submission."""
    if not sys.stdout.isatty() or importlib.util.find_spec("rich") is None:
        yield _lines(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("grading", total=total)

        def advance(row: Row) -> None:
            progress.advance(task)
            if row.status != "graded":
                progress.console.print(said(row), markup=False, highlight=False, soft_wrap=True)

        yield advance


def _lines(total: int) -> Callable[[Row], None]:
    began, count = waiting.now(), iter(range(1, total + 1))

    def line(row: Row) -> None:
        number = next(count)
        left = (waiting.now() - began) / number * (total - number)
        print(f"[{number}/{total}, {_left(left)}] {said(row)}", flush=True)

    return line


def _left(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


def _write_pages(results: Results, handed: Handed, key: str, reveal: str) -> None:
    from harness.grading.formats import gradebook, html
    from harness.grading.model import Graded
    from harness.grading.reveal import Reveal, for_students
    from harness.grading.store import Store, file_name

    names = [file_name(each.student.id) for each in handed.submissions]

    def graded() -> Iterable[Graded]:
        tables = (results.own(name, key) for name in names)
        return (Graded.from_json(table) for table in tables if table)

    results.root.write("gradebook.csv", "".join(gradebook.render(graded())), replace=True)
    results.root.write("index.html", "".join(html.class_page(graded())), replace=True)
    students = Store(results.folder / "students")
    try:
        for each in graded():
            name = file_name(each.student.id, ".html")
            students.write(name, html.student_page(for_students(each, Reveal(reveal))), replace=True)
    finally:
        students.close()


def _tell(rows: list[Row], settings: Settings, results: Results) -> None:
    counts = Counter(row.status.value for row in rows)
    print(f"{settings.kata.name}: {', '.join(f'{number} {status}' for status, number in counts.most_common())}")
    for row in rows:
        if row.status not in ("graded", "missing"):
            print(f"  {said(row)}")
    print(
        f"{results.folder}: gradebook.csv, index.html, students, results; "
        f"seed {settings.seed}, isolation level {settings.isolation}"
    )
