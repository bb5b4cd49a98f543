import os
import signal

try:
    for number in range(1_000_000):
        open(os.path.join(os.environ["STATE_DIR"], str(number)), "w").close()
except OSError:
    pass
while True:
    signal.pause()
