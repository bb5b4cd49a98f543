"""Bounds on what a solution uses, and which of them was hit.

rlimits bound one process at a time, so a watchdog looks at the whole tree: its memory (shared pages divided by their
sharers), its processes, its output and files. Its bounds lie below the kernel's, so that it is the watchdog that finds
out, and says so; the kernel's hold on until then.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.solution.kernel import PAGE, ProcessTree
from harness.solution.thread import GONE

MEMORY = 512 << 20  # bytes of a whole tree
PROCESSES, THREADS, TASKS = 100, 500, 600  # tasks, processes and threads alike, are the kernel's bound
OUTPUT = 8 << 20  # bytes printed
DISK, FILES = 256 << 20, 5_000  # bytes and entries below the folders that it may write to
ONE_FILE = 64 << 20
DESCRIPTORS = 8192
SHARED_MEMORY = 64 << 20  # bytes below /dev/shm, and of other small file systems in memory
TICKS_A_DISK = 10  # walking over files is dear


def set_own(tasks: int) -> None:
    """Bound the calling process, and each process that it starts."""
    _bound(resource.RLIMIT_FSIZE, ONE_FILE)
    _bound(resource.RLIMIT_NOFILE, DESCRIPTORS)
    _bound(resource.RLIMIT_CORE, 0)
    if tasks:
        _bound(resource.RLIMIT_NPROC, tasks)


def _bound(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def bound_tasks(pid: int, tasks: int) -> None:
    """Bound the processes and threads of another process, and of those that it starts."""
    resource.prlimit(pid, resource.RLIMIT_NPROC, (tasks, tasks))


def tasks_of(uid: int) -> int:
    """How many processes and threads a user has now."""
    found = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                found += len(os.listdir(f"/proc/{name}/task"))
        except GONE:
            continue
    return found


@dataclass(frozen=True)
class Folders:
    """What a program fills: its output, and what it may write to; `bounded`: where the size of a file system counts."""

    log: str
    writable: tuple[str, ...]
    bounded: str = ""


class Watchdog:
    """Looks at one tree, again and again."""

    def __init__(self, root: int, folders: Folders) -> None:
        self.tree = ProcessTree(root)
        self._folders, self._ticks = folders, 0
        self._used = _used(folders.bounded) if folders.bounded else (0, 0)

    def exceeded(self) -> str:
        """Which bound is exceeded now, and how; "" while none is."""
        self._ticks += 1
        pids = self.tree.members()
        if len(pids) > PROCESSES:  # before anything that takes longer the more there are
            return f"processes: it ran {len(pids)} of them, at most {PROCESSES} are allowed"
        if (threads := sum(_threads(pid) for pid in pids)) > THREADS:
            return f"processes: it ran {threads} threads, at most {THREADS} are allowed"
        if (
            sum(_resident(pid) for pid in pids) > MEMORY
            and (bytes_used := sum(_proportional(pid) for pid in pids)) > MEMORY
        ):
            return f"memory: it used {bytes_used >> 20} MB, at most {MEMORY >> 20} are allowed"
        if _size(self._folders.log) > OUTPUT:
            return f"output: it printed {_size(self._folders.log) >> 20} MB, at most {OUTPUT >> 20} are allowed"
        return self._disk()

    def _disk(self) -> str:
        if self._folders.bounded:
            size, files = (now - then for now, then in zip(_used(self._folders.bounded), self._used, strict=True))
        elif self._ticks % TICKS_A_DISK == 0:
            size, files = _walked(self._folders.writable)
        else:
            return ""
        if size > DISK or files > FILES:
            return f"disk: it wrote {size >> 20} MB in {files} files, at most {DISK >> 20} in {FILES} are allowed"
        return ""

    def close(self) -> None:
        self.tree.close()


def _texts(pid: int, name: str) -> bytes:
    try:
        return Path("/proc", str(pid), name).read_bytes()
    except (*GONE, PermissionError):
        return b""


def _threads(pid: int) -> int:
    fields = _texts(pid, "stat").rpartition(b") ")[2].split()
    return int(fields[17]) if len(fields) > 17 else 0


def _resident(pid: int) -> int:
    words = _texts(pid, "statm").split()
    return int(words[1]) * PAGE if words else 0


def _proportional(pid: int) -> int:
    found = re.search(rb"^Pss:\s+(\d+) kB", _texts(pid, "smaps_rollup"), re.MULTILINE)
    return int(found[1]) * 1024 if found else _resident(pid)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except GONE:
        return 0


def _used(folder: str) -> tuple[int, int]:
    """Bytes and entries of the file system that a folder lies in."""
    seen = os.statvfs(folder)
    return (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_files - seen.f_ffree


def _walked(folders: tuple[str, ...]) -> tuple[int, int]:
    """Bytes and entries below folders, counted until it is clear that there are too many."""
    size = files = 0
    for path in _below(folders):
        files += 1
        try:
            size += os.lstat(path).st_blocks * 512
        except OSError:
            continue
        if size > DISK or files > FILES:
            break
    return size, files


def _below(folders: tuple[str, ...]) -> Iterator[str]:
    waiting = list(folders)
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    yield entry.path
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # gone meanwhile, or closed to us
