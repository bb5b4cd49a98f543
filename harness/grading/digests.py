"""What was graded, and by what: digests of trees of files, equal wherever the same bytes lie.

A digest is `sha256:` and 64 hex digits, over the names (sorted, with slashes) and the contents of the files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from harness import kata as katas
from harness.grading.model import Kit

ENGINE = katas.BEHAVIOURS.parent
NOT_CODE = {".pyc", ".md"}


def tree(files: Mapping[str, Path]) -> str:
    """The digest of files by the names that they go by."""
    whole = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        whole.update(name.encode("utf-8", "surrogateescape") + b"\0" + content.digest())
    return f"sha256:{whole.hexdigest()}"


def below(folder: Path) -> dict[str, Path]:
    """The plain files below a folder, by their names in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in files}


@lru_cache
def kit(name: str, folder: Path) -> Kit:
    """What grades here: the engine, and the kata of that name in its folder, with its behaviours."""
    engine = {
        name: path
        for name, path in below(ENGINE).items()
        if path.suffix not in NOT_CODE and not path.is_relative_to(katas.BEHAVIOURS)
    }
    asked = {name: path for name, path in below(folder).items() if path.suffix not in NOT_CODE}
    return Kit(_version(), tree(engine), tree(asked | {"behaviours": katas.BEHAVIOURS / f"{name}.py"}))


def _version() -> str:
    try:
        return metadata.version("backend-katas")
    except metadata.PackageNotFoundError:
        return "(not installed)"
