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


def taken(path: Path, is_ours: Callable[[bytes], bool]) -> str:
    """Why a file can't be written there: somebody else's is in its place; "" if it can."""
    try:
        with path.open("rb") as file:
            return "" if is_ours(file.read(HEAD)) else "a file that is none of the kit's is in its place"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)


def put(path: Path, content: bytes, is_ours: Callable[[bytes], bool]) -> str:
    """Write a file, in one step, unless somebody else's is in its place; "" or why it was not written."""
    if why := taken(path, is_ours):
        return f"{path} was not written: {why}"
    try:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        return f"{path} was not written: {error.strerror or error}"
    return ""
