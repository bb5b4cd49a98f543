"""Each process is small; together they are not. Shared memory and a file in memory come on top."""

import mmap
import os
import signal

for _ in range(16):
    if os.fork() == 0:
        own = b"x" * (96 << 20)
        while True:
            signal.pause()
shared = mmap.mmap(-1, 256 << 20)
shared.write(b"x" * (256 << 20))
while True:
    signal.pause()
