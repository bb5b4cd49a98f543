"""Kills what a run started if the run itself is killed: the last line of defence against leaks.

Runs as a process of its own (`python -I -S guard.py MARK FOLDER UID`) in its own session. Its standard input is a
pipe that nobody writes to: it ends when the harness ends, however it ends. Then every process of the user UID is
killed, if one is given, and every process whose environment carries MARK, and the run's scratch FOLDER is removed.
On a system without /proc the harness writes the process groups it starts into the pipe, one a line.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def marked(mark: str) -> list[int]:
    """The processes whose environment carries `mark`, also those that daemonised."""
    wanted, found = mark.encode(), []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all_of(uid: int) -> None:
    """Kill every process of a user at once, also one that forks faster than it could be looked for (root only)."""
    if os.fork() == 0:
        try:
            os.setgroups([])
            os.setresuid(uid, uid, uid)
            kill(-1)
        finally:
            os._exit(0)
    os.wait()


def main() -> None:
    mark, folder, uid = sys.argv[1:]
    groups = [int(line) for line in sys.stdin if line.strip()]
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    if uid:
        kill_all_of(int(uid))
    empty = 0
    for _ in range(100):  # a process stuck in the kernel may outlive its SIGKILL; then init gets it
        pids = marked(mark)
        for pid in pids:
            kill(pid)
        empty = 0 if pids else empty + 1
        if empty == 2:  # one look can miss a child that was born during it to a parent that died during it
            break
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
