import os
import shutil

from target import T, trying

trying(lambda: open(T["canary"], "w").write("overwritten"))
for path in T["others"]:
    trying(lambda path=path: open(path, "a").write("# sabotaged\n"))
    trying(lambda path=path: os.chmod(path, 0))
    trying(lambda path=path: os.utime(path, (0, 0)))
    trying(lambda path=path: os.unlink(path))
    trying(lambda path=path: shutil.rmtree(os.path.dirname(path)))
trying(lambda: os.symlink("/etc/passwd", os.path.join(os.path.dirname(T["canary"]), "link")))
