"""A copy of a submission that holds nothing but its own regular files and folders.

Links are not followed and not copied, nor are devices, pipes and sockets; bytes and files are counted while they are
copied, since sizes that a file system tells beforehand may change. The source is only read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from harness.verdicts import Unusable

MOST_BYTES, MOST_FILES, DEEPEST = 64 << 20, 5000, 30
LEFT_OUT = {".git", ".hg", ".venv", "venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}
CHUNK = 1 << 18
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Staging:
    """One copy under way."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.bytes_left, self.files_left = MOST_BYTES, MOST_FILES
        self.not_copied: list[str] = []  # links and special files, as paths inside of the submission

    def copy(self, target: Path) -> None:
        """Copy into the new folder `target`. Raises Unusable when the submission is too large, or can't be read."""
        try:
            source = os.open(self.source, FOLDER)
        except OSError as error:
            raise Unusable(f"{self.source} can't be graded: {error.strerror}; give a folder, not a link") from None
        try:
            target.mkdir(parents=True, exist_ok=True)
            self._folder(source, target, "", DEEPEST)
        finally:
            os.close(source)

    def _folder(self, source: int, target: Path, inside: str, depth: int) -> None:
        if not depth:
            raise Unusable(f"{self.source} has folders more than {DEEPEST} deep, which no solution needs")
        with os.scandir(source) as entries:
            names = sorted(entry.name for entry in entries if entry.name not in LEFT_OUT)
        for name in names:
            self._count()
            path = f"{inside}{name}"
            mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                self._file(source, name, target / name, path)
            elif stat.S_ISDIR(mode):
                below = self._open(source, name, FOLDER, path)
                try:
                    (target / name).mkdir()
                    self._folder(below, target / name, f"{path}/", depth - 1)
                finally:
                    os.close(below)
            else:
                self.not_copied.append(path)

    def _file(self, source: int, name: str, target: Path, path: str) -> None:
        reading = self._open(source, name, FILE, path)
        try:
            mode = os.fstat(reading).st_mode
            if not stat.S_ISREG(mode):  # it was one a moment ago
                self.not_copied.append(path)
                return
            permissions = 0o755 if mode & stat.S_IXUSR else 0o644
            writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, permissions)
            with os.fdopen(writing, "wb") as copy:
                while data := os.read(reading, CHUNK):
                    self._count(len(data))
                    copy.write(data)
        finally:
            os.close(reading)

    def _open(self, source: int, name: str, flags: int, path: str) -> int:
        try:
            return os.open(name, flags, dir_fd=source)
        except OSError as error:
            raise Unusable(f"{self.source / path} can't be read: {error.strerror}") from None

    def _count(self, size: int = 0) -> None:
        self.bytes_left -= size
        self.files_left -= not size
        if self.bytes_left < 0:
            raise Unusable(f"{self.source} holds more than {MOST_BYTES >> 20} MB; a solution is a few small files")
        if self.files_left < 0:
            raise Unusable(f"{self.source} holds more than {MOST_FILES} files; a solution is a few small ones")
