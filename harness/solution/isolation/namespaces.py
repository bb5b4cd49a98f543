"""The harness moves into namespaces of its own: network, mounts, System V memory; a user namespace where it must.

Only a process of one thread can do that, so it is done before anything else. In the new network there is `lo` and
nothing else. A listening socket must never be brought along: whoever inherits it could reconnect it to the outside.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

NEWNS, NEWIPC, NEWUSER, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
READ_ONLY, NOSUID, NODEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 1, 64

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (word.encode() for word in (source, target, kind))
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")


def own_mounts() -> None:
    """From here on, nothing that is mounted is seen by others (root only). Raises OSError."""
    _checked(_libc.unshare(NEWNS), "unshare")
    _mount("none", "/", "none", RECURSIVE | PRIVATE)


def enter() -> None:
    """Enter the namespaces, as the same user as before. Raises OSError where they are refused."""
    uid, gid = os.geteuid(), os.getegid()
    wanted = NEWNS | NEWIPC | NEWNET
    _checked(_libc.unshare(wanted | (NEWUSER if uid else 0)), "unshare")
    if uid:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", file).write_text(text)
    _mount("none", "/", "none", RECURSIVE | PRIVATE)
    _raise_loopback()


def _raise_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP | IFF_RUNNING))


def mount_memory(folder: str, size: int, files: int, mode: int) -> None:
    """Mount a file system in memory that holds `size` bytes and no more. Raises OSError."""
    _mount("tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={size},nr_inodes={files},mode={mode:o}")


def show_read_only(source: str, folder: str) -> None:
    """Let what is in `source` be seen in `folder`, where nobody can change it. Raises OSError."""
    _mount(source, folder, "none", BIND | RECURSIVE)
    _mount("none", folder, "none", BIND | REMOUNT | READ_ONLY | NOSUID)


def unreachable() -> int:
    """How often somebody in this network sent, or connected, to an address that can't be reached from here."""
    found = 0
    for file, name in (("snmp", "OutNoRoutes"), ("snmp6", "Ip6OutNoRoutes")):
        lines = [line.split() for line in Path("/proc/self/net", file).read_text().splitlines()]
        if file == "snmp":
            names, values = (words for words in lines if words[0] == "Ip:")
            found += int(values[names.index(name)])
        else:
            found += sum(int(words[1]) for words in lines if words[0] == name)
    return found
