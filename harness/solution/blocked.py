"""What a blocked system call says of time: until when at most its thread will sleep.

Reads one line of /proc/PID/task/TID/syscall: the number, six arguments, and two registers that
don't matter here. A time-out is in an argument, or in the memory that an argument points to. This
file has no state and no clock: `Timeout.clock` names the clock of an absolute deadline, and is None
for a span that began with the call.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable
from typing import NamedTuple

Memory = Callable[[int, int], bytes]  # address, size
Arguments = tuple[int, ...]

TIMER_ABSTIME = 1
FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2 = (
    0,
    6,
    9,
    11,
    13,
)
FUTEX_COMMAND, FUTEX_CLOCK_REALTIME = 0x7F, 0x100
REALTIME, MONOTONIC = 0, 1


class Timeout(NamedTuple):
    seconds: float
    clock: int | None


class Call(NamedTuple):
    """The system call that a thread is blocked in."""

    name: str
    arguments: Arguments


def _milliseconds(position: int) -> Callable[[Arguments, Memory], Timeout | None]:
    def decode(arguments: Arguments, memory: Memory) -> Timeout | None:
        value = arguments[position] & 0xFFFFFFFF  # a C int: -1, for ever, comes with or without its upper half
        return None if value >= 1 << 31 else Timeout(value / 1000, None)

    return decode


def _span(position: int, fraction: float = 1e-9) -> Callable[[Arguments, Memory], Timeout | None]:
    """A pointer to a timespec, or a timeval (whose fraction is microseconds); null is for ever."""

    def decode(arguments: Arguments, memory: Memory) -> Timeout | None:
        return _timeout(arguments[position], memory, None, fraction)

    return decode


def _timeout(address: int, memory: Memory, clock: int | None, fraction: float = 1e-9) -> Timeout | None:
    if not address:
        return None
    whole, part = struct.unpack("=qq", memory(address, 16))
    return Timeout(whole + part * fraction, clock)


def _clock_nanosleep(arguments: Arguments, memory: Memory) -> Timeout | None:
    clock, flags, request, *_ = arguments
    return _timeout(request, memory, clock if flags & TIMER_ABSTIME else None)


def _futex(arguments: Arguments, memory: Memory) -> Timeout | None:
    command = arguments[1] & FUTEX_COMMAND
    if command == FUTEX_WAIT:
        return _timeout(arguments[3], memory, None)
    if command == FUTEX_LOCK_PI:
        return _timeout(arguments[3], memory, REALTIME)
    if command in (FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2):
        return _timeout(arguments[3], memory, REALTIME if arguments[1] & FUTEX_CLOCK_REALTIME else MONOTONIC)
    return None


DECODERS: dict[str, Callable[[Arguments, Memory], Timeout | None]] = {
    "epoll_wait": _milliseconds(3),
    "epoll_pwait": _milliseconds(3),
    "epoll_pwait2": _span(3),
    "poll": _milliseconds(2),
    "ppoll": _span(2),
    "select": _span(4, fraction=1e-6),
    "pselect6": _span(4),
    "nanosleep": _span(0),
    "clock_nanosleep": _clock_nanosleep,
    "futex": _futex,
    "rt_sigtimedwait": _span(2),
}
RESTART = "restart_syscall"  # a sleep goes on after SIGCONT, with its arguments and deadline

NUMBERS = {
    "x86_64": {
        7: "poll",
        23: "select",
        35: "nanosleep",
        128: "rt_sigtimedwait",
        202: "futex",
        219: RESTART,
        230: "clock_nanosleep",
        232: "epoll_wait",
        270: "pselect6",
        271: "ppoll",
        281: "epoll_pwait",
        441: "epoll_pwait2",
    },
    "aarch64": {
        22: "epoll_pwait",
        72: "pselect6",
        73: "ppoll",
        98: "futex",
        101: "nanosleep",
        115: "clock_nanosleep",
        128: RESTART,
        137: "rt_sigtimedwait",
        441: "epoll_pwait2",
    },
}
NAMES = NUMBERS.get(platform.machine(), {})


def call(line: bytes) -> Call | None:
    """The call of a line of `syscall`; None when it is none that can have a time-out."""
    words = line.split()
    if len(words) < 7 or not words[0].isdigit():
        return None  # "running", or "-1 sp pc"
    name = NAMES.get(int(words[0]))
    return Call(name, tuple(int(word, 16) for word in words[1:7])) if name else None


def timeout(blocked: Call, memory: Memory) -> Timeout | None:
    """The time-out of a call, None when it has none."""
    decode = DECODERS.get(blocked.name)
    return decode(blocked.arguments, memory) if decode else None
