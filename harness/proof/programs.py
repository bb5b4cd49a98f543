"""The programs that a kata is proved with, beside its reference: found by their place, never listed.

Oracles are read as text, since importing one would run it.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import kata as katas
from harness.kata import Kata
from harness.verdicts import Unusable

NULLS = Path(__file__).parent / "nulls"
ORACLES = katas.HOME / "tests" / "oracles"
SOLUTIONS = katas.HOME / "tests" / "solutions"
TOLD = ("KATA", "NEEDS", "PACKAGE", "DEVIATIONS", "UNSTEADY")


@dataclass(frozen=True)
class Oracle:
    """A launcher of a real server, and what its file says of it.

    `KATA` names the kata, `NEEDS` the command, or the module of this environment, and `PACKAGE` what brings it;
    `DEVIATIONS` says of each behaviour that need not hold why that is justified, and `UNSTEADY` names those of them
    that are not seen in every run.
    """

    path: Path
    kata: str
    needs: str = ""
    package: str = ""
    deviations: dict[str, str] = field(default_factory=dict)
    unsteady: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """The command or module that is not installed here, "" when all is there."""
        module = self.needs.isidentifier() and importlib.util.find_spec(self.needs)
        return self.needs if self.needs and not module and shutil.which(self.needs) is None else ""


def oracles() -> list[Oracle]:
    """The oracles of all katas: the files in tests/oracles that say `KATA = ...`."""
    told = ((path, _constants(path)) for path in sorted(ORACLES.glob("*.py")))
    return [
        Oracle(path, **{key.lower(): value for key, value in constants.items()})
        for path, constants in told
        if "KATA" in constants
    ]


def _constants(path: Path) -> dict[str, Any]:
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in TOLD:
            name = node.targets[0].id
            try:
                found[name] = ast.literal_eval(node.value)
            except ValueError:
                raise Unusable(f"{path}:{node.lineno}: {name} must be a literal, since it is read, not run") from None
    return found


def null_programs(kata: Kata) -> list[Path]:
    """The null programs that fit the kata: those for every protocol, and those that speak its own."""
    folders = [NULLS / "any", NULLS / kata.speaks]
    return [path for folder in folders for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def solutions(kata: Kata) -> list[Path]:
    """The folders of other correct solutions."""
    return [path for path in sorted((SOLUTIONS / kata.name).glob("*/")) if path.name != "__pycache__"]


def runtimes() -> Iterator[tuple[str, Path]]:
    """The commands that the other solutions are run by, and the solution that needs each."""
    for path in sorted(SOLUTIONS.glob("*/*/kata.toml")):
        command = katas.read(path).run[0]
        if command not in {"python", "python3"}:
            yield command, path.parent
