"""What of this system a solution may read: the programs and libraries, some files of /etc, nothing of the kit's.

Landlock can only allow, so a folder with something hidden in it is taken apart: each of its other entries is allowed,
and its names may be read, or nothing could be imported from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = tuple(
    f"/etc/{name}"
    for name in (
        "alternatives",
        "ca-certificates",
        "gai.conf",
        "host.conf",
        "hosts",
        "ld.so.cache",
        "ld.so.conf",
        "ld.so.conf.d",
        "localtime",
        "mime.types",
        "nsswitch.conf",
        "os-release",
        "pki",
        "protocols",
        "services",
        "ssl",
        "timezone",
    )
)
USERS = ("/etc/passwd", "/etc/group")
# Of /proc only what is about the machine, and the program's own folder: arguments of others can be read elsewhere.
KERNEL = (
    "/proc/self",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys",
    "/sys/devices/system/cpu",
    "/sys/kernel/mm/transparent_hugepage",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm")


def without(folder: Path, hidden: Iterable[Path]) -> Iterator[Path]:
    """`folder`, or what is in it but for the hidden paths."""
    below = [path for path in hidden if path.is_relative_to(folder)]
    if not below:
        yield folder
    elif folder not in below:
        for name in sorted(os.listdir(folder)):
            entry = folder / name
            if not entry.is_symlink():  # what it leads to is allowed, or not, where it lies
                yield from without(entry, below)


def taken_apart(folders: Iterable[Path], hidden: Iterable[Path]) -> set[Path]:
    """The folders that have something hidden in them, from each of `folders` on down."""
    return {
        parent
        for folder in folders
        for path in hidden
        if path.is_relative_to(folder) and path != folder
        for parent in path.parents
        if parent.is_relative_to(folder)
    }


def programs() -> list[Path]:
    """The folders of programs and libraries that are no links to one another."""
    return [Path(name) for name in PROGRAMS if os.path.isdir(name) and not os.path.islink(name)]


def prefix_of(program: str) -> Path | None:
    """Where a program was installed to (`PREFIX` of `PREFIX/bin/node`); None where it lies in the system."""
    found = Path(os.path.realpath(program))
    if any(found.is_relative_to(folder) for folder in PROGRAMS):
        return None
    return found.parent.parent if found.parent.name == "bin" else found
