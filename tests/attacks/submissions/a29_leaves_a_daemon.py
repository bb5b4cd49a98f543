import os

from target import T

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", [T["mark"], "30"], {})
    os._exit(0)
os.wait()
