"""Where a command looks for katas: in the learner's own folders first, then among those that came with the kit."""

from __future__ import annotations

import os
from pathlib import Path

from harness import kata as katas
from harness.kata import Kata
from harness.verdicts import Unusable


def here() -> dict[str, Kata]:
    """The katas below ./katas, or else below the current folder; empty when there are none."""
    return katas.catalogue(Path("katas")) or katas.catalogue(Path())


def find(name: str) -> Kata:
    """The learner's folder of a kata: ./katas/NAME, ./NAME, or the current folder. Raises Unusable."""
    for folder in (Path("katas", name), Path(name), Path()):
        if (folder / "kata.toml").is_file():
            kata = katas.read(folder.resolve() / "kata.toml")
            if kata.name == name:
                return kata
    katas.shipped(name)  # says what is near, if there is no such kata at all
    raise Unusable(f"there is no folder of `{name}` here; `kata start {name}` makes one")


def shown(folder: Path) -> str:
    """A folder as the user would type it."""
    near = os.path.relpath(folder)
    return str(folder) if near.startswith("..") else near
