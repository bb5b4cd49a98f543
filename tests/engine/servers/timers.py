"""Listens, and sleeps for N milliseconds in the call that its argument names; then ends."""

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time

from work import ADDRESS

call, milliseconds = sys.argv[1], int(os.environ["N"])
seconds = milliseconds / 1000
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.create_server(ADDRESS)


def timerfd() -> None:
    clock = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
    whole, part = divmod(milliseconds, 1000)
    libc.timerfd_settime(clock, 0, (ctypes.c_long * 4)(0, 0, whole, part * 1_000_000), None)
    select.select([clock], [], [])


def relative_nanosleep() -> None:
    whole, part = divmod(milliseconds, 1000)
    libc.nanosleep((ctypes.c_long * 2)(whole, part * 1_000_000), None)


def epoll() -> None:
    with select.epoll() as nothing:
        nothing.poll(seconds)


CALLS = {
    "epoll": epoll,
    "poll": lambda: select.poll().poll(milliseconds),
    "select": lambda: select.select([], [], [], seconds),
    "clock_nanosleep": lambda: time.sleep(seconds),
    "nanosleep": relative_nanosleep,
    "futex": lambda: threading.Event().wait(seconds),
    "sigtimedwait": lambda: signal.sigtimedwait([signal.SIGUSR2], seconds),
    "timerfd": timerfd,
}
CALLS[call]()
