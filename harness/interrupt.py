"""Ctrl-C, which must not get lost.

Python raises KeyboardInterrupt wherever it happens to be. In the finalizer of a generator, of which the loops that look
at the kernel leave many behind, nobody can hear it: it is printed, and dropped. So it is also remembered, and raised
again where the harness waits.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pending = False


def install() -> None:
    """Remember Ctrl-C from now on, unless somebody else handles it."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _remember)


def _remember(number: int, frame: FrameType | None) -> None:
    global _pending
    _pending = True
    signal.default_int_handler(number, frame)


def check() -> None:
    """Raise a KeyboardInterrupt that nobody has heard."""
    if _pending:
        heard()
        raise KeyboardInterrupt


def heard() -> None:
    """It has arrived where it is handled: what follows is the end of the run, which waits too."""
    global _pending
    _pending = False
