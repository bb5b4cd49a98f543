"""What ended runs left behind: processes that carry a run's mark, and scratch folders, without a guard that lives."""

from __future__ import annotations

import os
from pathlib import Path

from harness.solution.scratch import MARK


def find(temporary: Path) -> tuple[list[int], list[Path]]:
    """The processes, and the folders below `temporary`, whose run is over. Only one's own can be seen."""
    guarded = {word for pid in _pids() for word in _guard_words(pid)}
    left = [pid for pid in _pids() if (mark := _mark(pid)) and mark not in guarded]
    folders = [path for path in sorted(temporary.glob("backend-katas-*")) if str(path) not in guarded and _own(path)]
    return left, folders if Path("/proc/self").exists() else []


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc/self") else []


def _words(pid: int, file: str) -> list[str]:
    """The NUL-separated words of a process's file; none when it is gone, or another user's."""
    try:
        return Path("/proc", str(pid), file).read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _guard_words(pid: int) -> list[str]:
    """The mark and the folder that a guard watches over; none for any other process."""
    words = _words(pid, "cmdline")
    return words if any(word.startswith(f"{MARK}=") for word in words) else []


def _mark(pid: int) -> str:
    return next((word for word in _words(pid, "environ") if word.startswith(f"{MARK}=")), "")


def _own(path: Path) -> bool:
    return path.stat().st_uid == os.getuid()
