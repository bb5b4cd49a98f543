"""What was saved in a kata's folder: events of the file system, made out of what editors really do.

An editor saves by writing in place, or by writing elsewhere and renaming, with temporary files beside. So an event says
only that it is worth looking, and what was saved is the difference between two looks at the folder.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import suppress
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

# With inotify the end of writing is an event of its own, so its beginning is none of ours.
TELLING = {"closed", "moved", "deleted"} if sys.platform == "linux" else {"modified", "created", "moved", "deleted"}
NOT_ENTERED = {"__pycache__", "node_modules", "target", "build", "dist", "venv"}
NOT_SOURCES = {
    *(".md", ".pyc", ".log", ".tmp", ".swp", ".bak", ".orig", ".pid", ".sock", ".db", ".sqlite", ".sqlite3"),
    *(".o", ".a", ".so", ".class", ".jar", ".exe", ".out"),
}
BINARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe")  # what a build step leaves behind
PROBE = "4913"  # the file by which vim tries whether it may write
GRACE = 0.3  # seconds; within a save a file may be gone for a moment

Look = dict[str, tuple[int, int, int]]  # of each source its inode, size and time of change


def look(folder: Path) -> Look:
    """The sources below `folder`, as far as the file system tells without reading them; empty if it is gone."""
    found: Look = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_ENTERED and not name.startswith(".")]
        for path in (Path(place, name) for name in files if is_source(name)):
            with suppress(OSError):  # gone meanwhile
                state = path.stat()
                found[path.relative_to(folder).as_posix()] = state.st_ino, state.st_size, state.st_mtime_ns
    return found


def is_source(name: str) -> bool:
    """Whether a file of that name is one that somebody writes: no backup, no cache, no data."""
    temporary = name.startswith((".", "#")) or name.endswith(("~", "-journal", "-wal", "-shm")) or "___jb_" in name
    return not temporary and name != PROBE and Path(name).suffix not in NOT_SOURCES


def changed(before: Look, after: Look) -> list[str]:
    """The files that differ between two looks."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def is_binary(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in BINARIES
    except OSError:
        return False


class Saves(FileSystemEventHandler):
    """Readable (as for `select`) once something was saved below `folder`, or the folder itself came or went."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._observer = Observer()
        self._below: ObservedWatch | None = None
        self._followed = 0
        self._observer.schedule(_Comings(self), str(folder.parent))
        self._follow()
        self._observer.start()

    def _follow(self) -> None:
        """Watch the folder that is there now; one that was deleted and made again is another one."""
        there = self.folder.stat().st_ino if self.folder.is_dir() else 0
        if there == self._followed:
            return
        if self._below:
            with suppress(KeyError, OSError):  # it ended with its folder
                self._observer.unschedule(self._below)
        self._below, self._followed = None, 0
        with suppress(OSError):  # it is gone: the watch above tells when it comes
            self._below = self._observer.schedule(self, str(self.folder), recursive=True)
            self._followed = there

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> None:
        """Forget what was told so far: whoever looks now sees it all."""
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        self._follow()

    def more_comes(self) -> bool:
        """Whether anything more is saved within a moment."""
        ready, _, _ = select.select([self], [], [], GRACE)
        self.take()
        return bool(ready)

    def close(self) -> None:
        self._observer.stop()
        self._observer.join()
        self._reader.close()
        self._writer.close()

    def tell(self) -> None:
        with suppress(BlockingIOError):  # full: it is readable as it is
            self._writer.send(b".")

    def on_any_event(self, event: FileSystemEvent) -> None:
        names = [os.path.basename(os.fsdecode(path)) for path in (event.src_path, event.dest_path) if path]
        if event.event_type in TELLING and (event.is_directory or any(map(is_source, names))):
            self.tell()


class _Comings(FileSystemEventHandler):
    """Tells when the watched folder itself appears or disappears."""

    def __init__(self, saves: Saves) -> None:
        self._saves = saves

    def on_any_event(self, event: FileSystemEvent) -> None:
        paths = {os.fsdecode(path) for path in (event.src_path, event.dest_path) if path}
        if event.event_type in {"created", "moved", "deleted"} and str(self._saves.folder) in paths:
            self._saves.tell()
