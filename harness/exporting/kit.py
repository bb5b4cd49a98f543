"""The files of the kit for one kata: the engine, the kata's folder, and its behaviours, whole or the public ones."""

from __future__ import annotations

from pathlib import Path

from harness import kata as katas
from harness.collecting import declared
from harness.exporting.public import public_source
from harness.kata import Kata
from harness.verdicts import Unusable

NOT_TAKEN = {"__pycache__", "behaviours"}


def kit(kata: Kata, public: bool) -> dict[str, bytes]:
    """The contents of the files, by their names in a wheel; of behaviours only this kata's."""
    engine = katas.BEHAVIOURS.parent
    files = {f"harness/{name}": data for name, data in _below(engine, NOT_TAKEN).items()}
    own = katas.BEHAVIOURS / f"{kata.name}.py"
    source = own.read_text(encoding="utf-8")
    files["harness/behaviours/__init__.py"] = (katas.BEHAVIOURS / "__init__.py").read_bytes()
    files[f"harness/behaviours/{own.name}"] = (public_source(source, declared(kata)) if public else source).encode()
    return files | {f"katas/{kata.name}/{name}": data for name, data in skeleton(kata).items()}


def skeleton(kata: Kata) -> dict[str, bytes]:
    """The files of a kata's folder. Raises Unusable when the skeleton there is not as it came: it may be a solution."""
    if kata.skeleton and not kata.untouched:
        raise Unusable(
            f"{kata.folder} does not hold the skeleton as it came, and would give away what was written there; "
            "restore it (in a clone: git restore), and work in a folder that `kata start` made"
        )
    return _below(kata.folder, NOT_TAKEN)


def _below(folder: Path, but: set[str]) -> dict[str, bytes]:
    """The files below a folder, without what tools and editors leave."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc")
    named = {path.relative_to(folder): path for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in named.items()
        if not but & set(name.parts) and not any(part.startswith(".") for part in name.parts)
    }
