"""`kata doctor`: what this machine offers, what it lacks, and what earlier runs left behind."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness import kata as katas
from harness.commands import extras

if TYPE_CHECKING:
    from argparse import _SubParsersAction

OLDEST = (3, 11)
CLEAN = "clean end of earlier runs"


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and what to do if something is missing."""

    what: str
    state: str
    remedy: str = ""
    required: bool = False


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser("doctor", help="what this machine offers and lacks", description=__doc__)
    doctor.set_defaults(run=run)


def version() -> str:
    try:
        return metadata.version(extras.KIT)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def run(options: argparse.Namespace) -> int:
    findings = [*_machine(), *_packages(), *_commands(), *_leftovers()]
    for finding in findings:
        mark = "lacks" if finding.remedy else "ok"
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        print(f"{mark:<6}{finding.what}: {finding.state}{remedy}")
    return int(any(finding.remedy and finding.required for finding in findings))


def _machine() -> Iterator[Finding]:
    from harness.solution import kernel
    from harness.solution.diag import SocketDiag, open_tcp
    from harness.solution.isolation import LEVELS, probe

    old = "" if sys.version_info >= OLDEST else "install Python 3.11 or newer"
    yield Finding("Python", platform.python_version(), old, required=True)
    yield Finding("platform", platform.platform(terse=True))
    if why := kernel.shown():
        yield Finding("quiet", why, "work on Linux, in a container or a virtual machine", required=True)
        return
    yield Finding("quiet", "the kernel shows every thread's sleep and timers")
    view = open_tcp()
    exact = isinstance(view, SocketDiag)
    view.close()
    yield Finding("sockets", "by sock_diag" if exact else "by /proc/net/tcp, which is slower and shows less")
    for level, adds in LEVELS.items():
        why = probe.why_not(level)
        yield Finding(f"isolation {level}", why or adds, "submissions are graded at a lower level" if why else "")


def _packages() -> Iterator[Finding]:
    yield Finding(extras.KIT, version())
    for kata in katas.catalogue().values():
        lacking = extras.lacking(kata)
        remedy = f"pip install '{extras.KIT}[{kata.extra}]'" if lacking else ""
        needs = f"{', '.join(lacking)} not installed" if lacking else "all that its skeleton needs is installed"
        yield Finding(f"packages of {kata.name}", needs, remedy)


def _commands() -> Iterator[Finding]:
    from harness.proof import programs

    for oracle in programs.oracles():
        remedy = (
            f"install {oracle.package or oracle.needs}; its proofs are skipped without it" if oracle.missing else ""
        )
        yield Finding(f"oracle {oracle.path.stem}", _whether(oracle.needs, not oracle.missing), remedy)
    for command, folder in programs.runtimes():
        there = shutil.which(command) is not None
        remedy = "" if there else f"install {command}; it runs {folder.parent.name}/{folder.name}"
        yield Finding(f"solution {folder.parent.name}/{folder.name}", _whether(command, there), remedy)


def _whether(name: str, there: bool) -> str:
    return f"{name} is installed" if there else f"{name} is not installed"


def _leftovers() -> Iterator[Finding]:
    from harness.solution import leftovers

    pids, folders = leftovers.find(Path(tempfile.gettempdir()))
    if pids:
        names = " ".join(map(str, pids))
        yield Finding(CLEAN, f"their processes {names} are left", f"end them: kill -9 {names}")
    if folders:
        names = " ".join(map(str, folders))
        yield Finding(CLEAN, f"{len(folders)} of their folders are left", f"remove them: rm -r {names}")
    if not pids and not folders:
        yield Finding(CLEAN, "nothing is left of them")
