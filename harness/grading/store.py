"""The folder of the results: written by the grader alone, and suspicious of whatever else lies in it.

A result appears whole or not at all (a temporary file, then a link), and never over something that this grader did not
write: what stands at its place is moved aside as evidence, links unfollowed, and reported as tampering. The folder is
held open, so that putting another one in its place changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.verdicts import Unusable

PRIVATE = 0o700
LARGEST_RESULT = 64 << 20
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class Full(Unusable):
    """There is no room for more results; nothing that was written is lost."""


class Store:
    """One folder of files."""

    def __init__(self, path: Path) -> None:
        """Open the folder, making it where it is missing. Raises Unusable when it is not the grader's own."""
        self.path = path
        try:
            path.mkdir(PRIVATE, parents=True, exist_ok=True)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise Unusable(f"{path} can't be used for results ({error.strerror}); name another folder") from None
        held = os.fstat(self._folder)
        if held.st_uid != os.geteuid() or held.st_mode & 0o022:
            os.close(self._folder)
            raise Unusable(f"{path} can be written by others; `chmod 700 {path}`, or name another folder")

    def close(self) -> None:
        os.close(self._folder)

    def names(self, suffix: str = ".json") -> list[str]:
        return sorted(name for name in os.listdir(self._folder) if name.endswith(suffix) and not name.startswith("."))

    def read(self, name: str) -> Any:
        """The JSON of a plain file. Raises Unusable for anything else, without following it."""
        try:
            number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._folder)
        except OSError:
            raise Unusable(f"{self.path / name} is no plain file") from None
        with open(number, "rb") as file:
            held = os.fstat(number)
            if not stat.S_ISREG(held.st_mode) or held.st_size > LARGEST_RESULT:
                raise Unusable(f"{self.path / name} is no plain file of a result's size")
            try:
                return json.loads(file.read())
            except (ValueError, RecursionError):
                raise Unusable(f"{self.path / name} is no JSON") from None

    def foreign(self, name: str) -> str:
        """Move aside what stands at `name`, and say what it was; "" when there is nothing."""
        try:
            held = os.lstat(name, dir_fd=self._folder)
        except FileNotFoundError:
            return ""
        what = _kind(held.st_mode)
        if stat.S_ISLNK(held.st_mode):
            what += f" to {os.readlink(name, dir_fd=self._folder)!r}"
        elif held.st_nlink > 1 and stat.S_ISREG(held.st_mode):
            what = "a hard link to another file"
        aside = f"foreign-{secrets.token_hex(4)}-{name}.aside"
        os.rename(name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        return f"{what} stood at {name} before it was written; it was moved to {aside}"

    def write(self, name: str, data: str, replace: bool) -> bool:
        """Write a file in one step; False when something stands there and may not be replaced. Raises Full."""
        draft = f".{secrets.token_hex(8)}"
        try:
            os.fchmod(self._folder, PRIVATE)  # whoever closed it meanwhile does not keep the results out
            number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)
            try:
                with open(number, "w", encoding="utf-8") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(number)
                if replace:
                    os.rename(draft, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                    return True
                os.link(draft, name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                if not replace or draft in os.listdir(self._folder):
                    os.unlink(draft, dir_fd=self._folder)
        except OSError as error:
            raise Full(
                f"{self.path / name} can't be written ({error.strerror}); what was graded is kept, "
                "so make room and go on with --resume"
            ) from None
        return True

    def all(self) -> Iterator[tuple[str, Any]]:
        for name in self.names():
            yield name, self.read(name)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "something special")


def file_name(identity: str, suffix: str = ".json") -> str:
    """A file's name for a student: readable, safe everywhere, and another one for everybody."""
    plain = UNSAFE.sub("_", identity).strip("._")[:80]
    if plain and plain == identity == plain.lower():
        return plain + suffix
    return f"{plain or 'student'}-{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}{suffix}"
