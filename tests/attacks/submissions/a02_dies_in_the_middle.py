import os
import signal

from target import when_bytes_hold

when_bytes_hold(b"aXb", lambda: os.kill(os.getpid(), signal.SIGKILL))
