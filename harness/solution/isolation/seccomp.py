"""A seccomp filter: system calls that no solution of a kata needs, and that reach beyond itself.

Landlock does not know modes, owners and times of files, the limits and priorities of other processes, nor families of
sockets; they are refused here. `program()` is the bytes of the filter, as bwrap takes them too; see seccomp(2).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld [k], jeq, jge, jset, ret
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in seccomp_data; of an argument the lower half comes first
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
X32 = 0x40000000
NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net, mount, time
PR_SET_SECCOMP, FILTER = 22, 2
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)  # netlink: how libraries list interfaces

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# fmt: off
CALLS = {  # number on x86_64, on aarch64; None: not there
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "open_by_handle_at": (304, 265),
    "move_pages": (279, 239), "migrate_pages": (256, 238),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "clone3": (435, 435),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "socket": (41, 198), "clone": (56, 220), "prlimit64": (302, 261), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274),
}
OF_OTHERS = ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise")
OF_THE_SYSTEM = (
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "unshare", "setns", "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd",
    "open_by_handle_at", "move_pages", "migrate_pages",
)
UNSEEN = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3")  # libraries know that these may be missing
MODES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes",
    "futimesat", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "setxattrat", "removexattrat",
)
LASTING = ("shmget", "semget", "msgget", "mq_open")  # System V's memory and queues outlive whoever made them
WHOSE = {"prlimit64": 0, "setpriority": 1, "ioprio_set": 1, "sched_setaffinity": 0, "sched_setscheduler": 0,
         "sched_setparam": 0, "sched_setattr": 0}  # the argument that names another process; 0 is oneself
# fmt: on


class _Filter:
    """Instructions, one block a call: a call that is none of its business falls through to the next."""

    def __init__(self, machine: str) -> None:
        self._column = list(ARCHITECTURES).index(machine)
        self._code: list[bytes] = []
        self._emit(LOAD, ARCHITECTURE)
        self._emit(EQUAL, ARCHITECTURES[machine], 1, 0)
        self._emit(RETURN, KILL)
        self._emit(LOAD, NUMBER)
        if machine == "x86_64":
            self._emit(AT_LEAST, X32, 0, 1)
            self._emit(RETURN, REFUSE | errno.ENOSYS)

    def _emit(self, code: int, value: int, yes: int = 0, no: int = 0) -> None:
        self._code.append(struct.pack("=HBBI", code, yes, no, value))

    def refuse(self, name: str, error: int) -> None:
        number = CALLS[name][self._column]
        if number is not None:
            self._emit(EQUAL, number, 0, 1)
            self._emit(RETURN, REFUSE | error)

    def refuse_unless(self, name: str, argument: int, allowed: tuple[int, ...], error: int) -> None:
        """Refuse a call unless the lower half of an argument is one of `allowed`."""
        number = CALLS[name][self._column]
        assert number is not None
        self._emit(EQUAL, number, 0, len(allowed) + 3)
        self._emit(LOAD, ARGUMENTS + 8 * argument)
        for position, value in enumerate(allowed):
            self._emit(EQUAL, value, len(allowed) - position, 0)
        self._emit(RETURN, REFUSE | error)
        self._emit(RETURN, ALLOW)

    def refuse_bits(self, name: str, argument: int, bits: int, error: int) -> None:
        number = CALLS[name][self._column]
        assert number is not None
        self._emit(EQUAL, number, 0, 4)
        self._emit(LOAD, ARGUMENTS + 8 * argument)
        self._emit(ANY_BIT, bits, 0, 1)
        self._emit(RETURN, REFUSE | error)
        self._emit(RETURN, ALLOW)

    def bytes(self) -> bytes:
        return b"".join(self._code) + struct.pack("=HBBI", RETURN, 0, 0, ALLOW)


def program(own_files: bool) -> bytes:
    """The filter. With `own_files` no other's are in reach (another uid, another file system), so modes may change."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no seccomp filter is written for {machine}")
    whole = _Filter(machine)
    for name in (*OF_OTHERS, *OF_THE_SYSTEM, *(() if own_files else MODES)):
        whole.refuse(name, errno.EPERM)
    for name in (*UNSEEN, *LASTING):
        whole.refuse(name, errno.ENOSYS)
    whole.refuse_unless("socket", 0, tuple(int(family) for family in FAMILIES), errno.EAFNOSUPPORT)
    whole.refuse_bits("clone", 0, NEW_NAMESPACES, errno.EPERM)
    for name, argument in WHOSE.items():
        whole.refuse_unless(name, argument, (0,), errno.EPERM)
    return whole.bytes()


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(code: bytes) -> None:
    """Filter the calling thread's system calls, and those of all it starts. Needs no_new_privs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.byref(_Program(len(code) // 8, code)), 0, 0):
        raise OSError(ctypes.get_errno(), "the seccomp filter is refused")
