"""The parser of `kata`, and how a command ends.

Nothing is judged here. Whatever a user can do wrong ends as one sentence on standard error and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from harness.commands import (
    catalogue,
    doctor,
    explain,
    export,
    grade,
    hint,
    new,
    prove,
    regrade,
    report,
    start,
    team,
    test,
    track,
    verify,
    watch,
)
from harness.verdicts import Unusable

COMMANDS = (
    *(catalogue, track, start, test, watch, hint, explain, doctor),
    *(export, grade, verify, regrade, report, team),
    *(new, prove),
)
UNUSABLE, INTERRUPTED, UNREAD = 2, 130, 141


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="kata", description="Exercises in backend engineering, judged by what is seen on the wire."
    )
    whole.add_argument("--version", action="store_true", help="show the version and exit")
    commands = whole.add_subparsers(metavar="COMMAND", title="commands")
    for module in COMMANDS:
        module.declare(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    whole = parser()
    options = whole.parse_args(arguments)
    if options.version:
        print(f"kata {doctor.version()}")
        return 0
    if not hasattr(options, "run"):
        whole.print_help()
        return 0
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except Unusable as problem:
        print(f"kata: {problem}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("kata: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `kata list | head`: nobody reads on, and Python shall not try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
