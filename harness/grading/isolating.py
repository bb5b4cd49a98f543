"""Which levels of isolation there are, and how a worker is told its level: the one place of grading that knows.

The plugin's option `--isolation` does the work; without it there is level 0, a process of its own in a clean
environment.
"""

from __future__ import annotations

from harness.verdicts import Unusable


def best() -> int:
    """The best level that this kit and this machine offer."""
    return 0


def require(wanted: int | None, required: int) -> None:
    """Raises Unusable when the level that is wanted, or the least that is required, can't be had here."""
    offered = best()
    least = max(required, wanted or 0)
    if least > offered:
        raise Unusable(f"isolation level {least} can't be had here, {offered} is the best; `kata doctor` says why")
    if wanted is not None and wanted < required:
        raise Unusable(f"--isolation={wanted} is below what --require-isolation={required} asks; change one of them")


def words(level: int | None) -> list[str]:
    """The arguments for pytest; None is the best level there is."""
    return []
