"""One thread as the kernel shows it: its state, how much it has run, the call it is blocked in.

utime is too coarse to tell whether a thread has run (ticks of 10 ms); schedstat counts nanoseconds.
"""

from __future__ import annotations

import os
import struct
import time

from harness.solution import blocked

Sight = tuple[bytes, bytes, bytes]  # state, schedstat, syscall

DEAD = (b"Z", b"X", b"x")
GONE = (FileNotFoundError, ProcessLookupError)


class Thread:
    """One thread. Its files stay open: that halves the cost, and survives a reuse of its id."""

    def __init__(self, pid: int, tid: int) -> None:
        self.pid, self.tid = pid, tid
        self._last_call = b""
        self._last_schedstat = b"0"
        self._files: dict[str, int] = {}
        self._decoded: tuple[bytes, bytes] | None = None
        self._call: blocked.Call | None = None
        self._deadline: float | None = None

    def read(self, name: str) -> bytes:
        if name not in self._files:
            self._files[name] = os.open(f"/proc/{self.pid}/task/{self.tid}/{name}", os.O_RDONLY)
        return os.pread(self._files[name], 1024, 0)

    def sight(self) -> Sight | None:
        """What it does now, None when it is gone."""
        try:
            state = self.read("stat").rpartition(b") ")[2][:1]
            self._last_schedstat = self.read("schedstat")
            self._last_call = b"" if state in DEAD else self._read_call()
        except GONE:
            return None
        return state, self._last_schedstat, self._last_call

    def _read_call(self) -> bytes:
        try:
            return self.read("syscall")
        except PermissionError:  # a program that made itself undumpable, or a strict Yama
            return b""

    def remaining(self) -> float | None:
        """Seconds until it wakes up, at the latest, from the call it was last seen in."""
        seen = self._last_schedstat, self._last_call
        if seen != self._decoded:
            self._decoded = seen
            self._decode(blocked.call(self._last_call))
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def _decode(self, call: blocked.Call | None) -> None:
        """Find the deadline on the monotonic clock; of a span an upper bound, counted from now."""
        before, self._call = self._call, call
        if call and before and call == (blocked.RESTART, before.arguments):
            self._call = before  # stopped and continued: the deadline is still the old one
            return
        timeout = self._timeout()
        if timeout is None:
            self._deadline = None
        else:
            passed = 0.0 if timeout.clock is None else time.clock_gettime(timeout.clock)
            self._deadline = time.monotonic() + timeout.seconds - passed

    def _timeout(self) -> blocked.Timeout | None:
        try:
            return blocked.timeout(self._call, self._memory) if self._call else None
        except (OSError, struct.error):  # not to be read, or gone since: the stack of a dead thread is unmapped
            return None

    def _memory(self, address: int, size: int) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), size, address)

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
