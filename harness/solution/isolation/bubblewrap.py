"""The arguments of bwrap: a file system and a process table in which there is a solution and nothing else.

Paths are the same inside and outside, so nothing has to be translated. bwrap itself is started with an empty
environment, since `/proc/1/environ` shows it to the solution; everything that it is told goes through a descriptor.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.solution.isolation import places
from harness.solution.isolation.limits import SHARED_MEMORY

HOSTS = "127.0.0.1 localhost\n::1 localhost\n"


@dataclass(frozen=True)
class Inside:
    """What a solution finds: its folder, what else it may read and write, its user, and how it is started."""

    words: tuple[str, ...]
    folder: str
    environment: dict[str, str]
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    writable: tuple[str, ...]


def arguments(inside: Inside, descriptors: dict[str, int]) -> bytes:
    """What `bwrap --args FD` reads; `descriptors` names those that it was started with."""
    words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--new-session", "--die-with-parent", "--hostname", "solution"]
    words += [*_system(), *_own(inside, descriptors)]
    for name, value in inside.environment.items():
        words += ["--setenv", name, value]
    words += ["--seccomp", str(descriptors["seccomp"]), "--chdir", inside.folder]
    words += ["--block-fd", str(descriptors["block"]), "--json-status-fd", str(descriptors["status"])]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _system() -> list[str]:
    words: list[str] = []
    for name in places.PROGRAMS:
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        else:
            words += ["--ro-bind-try", name, name]
    for name in places.SETTINGS:
        if name != "/etc/hosts":
            words += ["--ro-bind-try", name, name]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for path in ("/dev/shm", "/tmp"):
        words += ["--perms", "1777", "--size", str(SHARED_MEMORY), "--tmpfs", path]
    return [*words, "--remount-ro", "/dev"]


def _own(inside: Inside, descriptors: dict[str, int]) -> list[str]:
    words: list[str] = []
    for name in ("hosts", "passwd", "group"):
        words += ["--perms", "0444", "--ro-bind-data", str(descriptors[name]), f"/etc/{name}"]
    for path in inside.readable:
        words += ["--ro-bind", path, path]
    for path in inside.hidden:
        words += ["--tmpfs", path, "--remount-ro", path] if os.path.isdir(path) else ["--ro-bind", os.devnull, path]
    for path in inside.writable:
        words += ["--bind", path, path]
    return [*words, "--remount-ro", "/"]


def files(uid: int, gid: int) -> dict[str, bytes]:
    """The small files that bwrap puts into /etc: names for the solution's own user, and for this machine."""
    return {
        "hosts": HOSTS.encode(),
        "passwd": f"solution:x:{uid}:{gid}:solution:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".encode(),
        "group": f"solution:x:{gid}:\nnogroup:x:65534:\n".encode(),
    }
