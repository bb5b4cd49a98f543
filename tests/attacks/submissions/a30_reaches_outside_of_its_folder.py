import os
import shutil

from target import T, trying, write

trying(lambda: write(T["canary"], "overwritten"))
for path in T["others"]:
    trying(lambda path=path: write(path, "# sabotaged\n", "a"))
    trying(lambda path=path: os.chmod(path, 0))
    trying(lambda path=path: os.utime(path, (0, 0)))
    trying(lambda path=path: os.unlink(path))
    trying(lambda path=path: shutil.rmtree(os.path.dirname(path)))
trying(lambda: os.symlink("/etc/passwd", os.path.join(os.path.dirname(T["canary"]), "link")))
