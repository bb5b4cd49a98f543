"""Which packages a kata's skeleton needs beside the kit's own, and which of them are not installed."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

from harness.kata import Kata

KIT = "backend-katas"


def lacking(kata: Kata) -> list[str]:
    """What the kata's extra brings and is not installed, by name."""
    if not kata.extra or not _installed(KIT):
        return []
    requirements = map(Requirement, metadata.requires(KIT) or [])
    wanted = [each.name for each in requirements if each.marker and _only_for(each, kata.extra)]
    return [name for name in wanted if not _installed(name)]


def _only_for(requirement: Requirement, extra: str) -> bool:
    assert requirement.marker is not None
    return requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""})


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
