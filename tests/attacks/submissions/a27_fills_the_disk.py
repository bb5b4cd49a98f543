import os
import signal

try:
    for number in range(512):  # 2 GB and no more, should nobody stop it
        with open(os.path.join(os.environ["STATE_DIR"], str(number)), "wb") as file:
            file.write(b"x" * (4 << 20))
except OSError:
    pass
while True:
    signal.pause()
