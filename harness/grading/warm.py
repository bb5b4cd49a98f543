"""The process that workers are forked from: it has imported pytest and the kit already, a third of a short run's work.

Runs as a program (`python -I warm.py`), so that neither the current folder nor the environment can put anything before
this copy of the kit. Its standard input is a socket of packets, each with an order as JSON and three descriptors:

    {"kata": NAME, "environment": {...}, "room": FOLDER, "seconds": ..., "arguments": [...]}
    its worker's standard input, its output, and where it writes its status before it ends

Nothing of a submission is ever met here. It ends when the grader does. (The fork server of multiprocessing, which
`kata watch` uses, is not run with -I, and a worker of Dask may not start its processes.)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent.parent
PR_SET_DUMPABLE = 4
LONGEST_ORDER = 1 << 20  # bytes


def warm_up() -> None:
    """Import whatever pytest imports for itself and for the kit, by a run of nothing."""
    import pytest

    settings = str(Path(__file__).with_name("worker.ini"))
    plugins = ["-p", "harness.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["--version", "--noconftest", "-c", settings, *plugins])
    gc.freeze()  # the pages of what is here now stay shared


def serve() -> None:
    from harness.collecting import preload

    control = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for workers here: they tell the grader
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, LONGEST_ORDER, 3)
        if not packet:
            return
        order = json.loads(packet)
        preload(order["kata"])
        if os.fork() == 0:
            control.close()
            become_worker(order, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def become_worker(order: dict[str, Any], life: int, log: int, told: int) -> None:
    from harness.grading import worker

    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, source in enumerate((life, log, log)):
            os.dup2(source, target)
        os.close(life)
        os.close(log)
        os.set_inheritable(told, False)
        os.chdir("/")
        os.environ.clear()
        os.environ.update(order["environment"])
        tempfile.tempdir = None
        status = worker.work(order["room"], order["seconds"], order["arguments"], told)
    finally:
        os.write(told, str(status).encode())
        os._exit(status)


if __name__ == "__main__":
    sys.path.insert(0, str(HOME))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody traces it, nor one of its workers
    warm_up()
    serve()
