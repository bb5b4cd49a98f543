"""Landlock: what a process may open, connect to and signal, from now on and for all it starts. See landlock(7).

Rights that the running kernel does not know are left out; `probe.py` sees by trying whether enough of them are there.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all architectures
VERSION = 1  # a flag of CREATE_RULESET: tell the version of the interface
PATH_BENEATH, NET_PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
MAKE_DEVICES = 1 << 6 | 1 << 11
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READ = EXECUTE | READ_FILE | READ_DIR
CONNECT_TCP = 1 << 1
SCOPED = 1 << 0 | 1 << 1  # abstract Unix sockets, signals

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


def version() -> int:
    """The version of the kernel's interface. Raises OSError where there is none."""
    return _call(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION))


def rights(known: int) -> int:
    """All rights on files that version `known` handles."""
    by_version = {1: 13, 2: 14, 3: 15, 4: 15}
    return (1 << by_version.get(known, 16)) - 1


def restrict(readable: Iterable[str], listable: Iterable[str], writable: Iterable[str], ports: Iterable[int]) -> None:
    """Confine the calling thread. Needs no_new_privs, and one thread.

    Of `listable` folders the names can be read, also those below. Places that don't exist are left out.
    """
    known = version()
    files = rights(known)
    attributes = struct.pack("=Q", files)
    if known >= 4:
        attributes += struct.pack("=Q", CONNECT_TCP)
    if known >= 6:
        attributes += struct.pack("=Q", SCOPED)
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    for path in readable:
        _allow(ruleset, path, READ & files)
    for path in listable:
        _allow(ruleset, path, READ_DIR)
    for path in writable:
        _allow(ruleset, path, files & ~MAKE_DEVICES)
    for port in ports if known >= 4 else ():
        rule = struct.pack("=QQ", CONNECT_TCP, port)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(NET_PORT), rule, ctypes.c_uint32(0))
    _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= OF_FILES
        rule = struct.pack("=Qi", access, place)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)
