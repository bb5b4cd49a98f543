"""One submission's grading as a process of its own: pytest in a child, and the end of everything it started.

It ends only after the last process of the submission is dead, also of those that daemonised: orphans are inherited by
the nearest subreaper above them, which is this process. Its standard input is a pipe that nobody writes to; when that
ends the grader is gone or has been interrupted, and so the child ends, and the submission's room with it. After its
seconds the child is asked to end (SIGINT: it still writes what it knows), and a little later it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import traceback

import pytest

PR_SET_CHILD_SUBREAPER = 36
TO_WRITE = 30  # seconds for a child that was interrupted to write its results
INTERRUPTED, OVERTIME, SIGNALLED = 130, 124, 128


def work(room: str, seconds: float, arguments: list[str], told: int) -> int:
    """Run pytest; its status, or one of those above. `told` is a descriptor that the child must not hold open."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.close(told)
        os._exit(_pytest(arguments))
    status = _until_end(child, seconds)
    _end_children()
    if status == INTERRUPTED:
        shutil.rmtree(room, ignore_errors=True)
    return status


def _pytest(arguments: list[str]) -> int:
    """The child: never returns into the code of its parent."""
    try:
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        return int(pytest.main(arguments))
    except BaseException:
        traceback.print_exc()
        return 3
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _until_end(child: int, seconds: float) -> int:
    """Wait for the child's end, for the grader's, or for the time to be up."""
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, 0], [], [], seconds)
    overtime = not ready
    if overtime:
        os.kill(child, signal.SIGINT)
        ready, _, _ = select.select([ended, 0], [], [], TO_WRITE)
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if 0 in ready and ended not in ready:
        return INTERRUPTED
    code = os.waitstatus_to_exitcode(status)
    return OVERTIME if overtime else code if code >= 0 else SIGNALLED - code


def _end_children() -> None:
    """Kill and reap until there is no child left; the children of the killed become children of this process."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    own, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == own:
                    found.append(int(name))
    return found
