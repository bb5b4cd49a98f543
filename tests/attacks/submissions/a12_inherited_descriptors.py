import os

from target import loot, trying

for number in range(3, 256):
    if trying(lambda number=number: os.write(number, b"\n::notice::written by the submission\n")):
        loot(f"descriptor {number} can be written to")
for path in (f"/proc/{os.getppid()}/fd/1", f"/proc/{os.getppid()}/fd/2", "/dev/tty"):
    if trying(lambda path=path: open(path, "w").write("written by the submission\n")):
        loot(path)
