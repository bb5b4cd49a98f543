"""The Python that a solution runs on: the interpreter below the kit's environment, and only the packages of its kata.

The kit's own environment must not be seen: behaviours and references lie in it, or beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

KIT = "backend-katas"
GIVEN = ("h11",)  # what every skeleton may import
BASE = Path(sys.base_prefix).resolve()
EXECUTABLE = Path(os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))
PACKAGES = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def open_to_all(path: Path) -> bool:
    """Whether every user may go to `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


class Interpreter:
    """A virtual environment without packages, made by hand: `venv` would take longer than a run."""

    def __init__(self, folder: Path, base: Path = BASE) -> None:
        """`base` is where BASE is seen by the solution."""
        self.folder, self.base = folder, base
        executable = base / EXECUTABLE.relative_to(BASE) if EXECUTABLE.is_relative_to(BASE) else EXECUTABLE
        self.command = folder / "bin" / "python"
        self.command.parent.mkdir(parents=True)
        (folder / PACKAGES).mkdir(parents=True)
        for name in ("python", "python3"):
            (folder / "bin" / name).symlink_to(executable)
        version = ".".join(map(str, sys.version_info[:3]))
        (folder / "pyvenv.cfg").write_text(
            f"home = {executable.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
        )
        self._provided: set[str] = set()
        for name in GIVEN:
            self._copy(name)

    @property
    def environment(self) -> dict[str, str]:
        found = {"VIRTUAL_ENV": str(self.folder), "PATH": f"{self.folder / 'bin'}:{SYSTEM_PATH}"}
        if self.base != BASE:  # or its libpython would be looked for where it is not shown, and another one found
            found["LD_LIBRARY_PATH"] = str(self.base / "lib")
        return found

    def hidden(self) -> list[Path]:
        """What lies in the interpreter's own folders, and is no part of it."""
        return [
            path for path in (self.base / PACKAGES, self.base / PACKAGES.with_name("dist-packages")) if path.is_dir()
        ]

    def provide(self, extra: str) -> None:
        """Copy the packages of an extra of the kit, and what they need, from the kit's own environment."""
        for name in _closure(KIT, extra) if extra else ():
            self._copy(name)

    def _copy(self, name: str) -> None:
        if name in self._provided:
            return
        self._provided.add(name)
        for file in metadata.files(name) or ():
            source, target = Path(str(file.locate())), self.folder / PACKAGES / file
            if ".." in file.parts or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)  # with its time, by which the compiled ones are known to be fresh


def _closure(name: str, extra: str = "") -> Iterator[str]:
    """The distributions that `name` needs, as far as they are installed, with the packages of one extra."""
    seen, waiting = {name}, [(name, extra)]
    while waiting:
        current, wanted = waiting.pop()
        for line in metadata.requires(current) or ():
            need = Requirement(line)
            plain = need.marker is None or need.marker.evaluate({"extra": ""})
            asked = need.marker is None or need.marker.evaluate({"extra": wanted})
            if not asked or (current == KIT and plain) or need.name in seen:
                continue
            seen.add(need.name)
            if any(metadata.distributions(name=need.name)):
                waiting.append((need.name, ""))
                yield need.name
