"""`kata test`: pytest on your folder of a kata; whatever follows the name is given to pytest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.commands import finding

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    test = commands.add_parser("test", help="run pytest on a kata", description=__doc__)
    test.add_argument("name", metavar="NAME", help="a kata of `kata list`")
    test.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER, help="pytest's own arguments")
    test.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    import pytest

    return int(pytest.main([finding.shown(finding.find(options.name).folder), *options.arguments]))
