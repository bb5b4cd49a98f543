"""Where evidence is put: a folder of the user's, in which only files of ours are ever replaced."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.verdicts import Unusable

HEAD = 4096  # bytes at the beginning of a file by which its writer is known


def prepare(folder: Path, option: str) -> None:
    """Make the folder, and see that it can be written. Raises Unusable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        raise Unusable(f"{option}={folder} can't be written ({why}); name a folder that can") from None


def put(path: Path, content: bytes, is_ours: Callable[[bytes], bool]) -> str:
    """Write a file, in one step, unless somebody else's is in its place; "" or why it was not written."""
    try:
        if path.exists():
            with path.open("rb") as file:
                if not is_ours(file.read(HEAD)):
                    return f"{path} was not written: a file that is none of the kit's is in its place"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        return f"{path} was not written: {error.strerror or error}"
    return ""
