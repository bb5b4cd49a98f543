import os
import signal

from target import when_bytes_hold

when_bytes_hold(b"*", lambda: os.kill(os.getpid(), signal.SIGKILL))
