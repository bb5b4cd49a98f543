"""A small kata in a copy of the kit, students who hand in, and a teacher who grades them through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands.conftest import Clone, Ended

REFERENCE = "reference/door/solution.py"
BEHAVIOURS = "harness/behaviours/door.py"


class Classroom:
    """One batch: submissions are handed in, graded into `out`, and looked at."""

    def __init__(self, kit: Clone, folder: Path, *always: str) -> None:
        self.kit, self.folder, self.always = kit, folder, always
        self.submissions, self.out = folder / "submissions", folder / "out"
        self.submissions.mkdir(parents=True)

    @property
    def program(self) -> str:
        """A correct solution."""
        return (self.kit.root / REFERENCE).read_text(encoding="utf-8")

    def hand_in(self, student: str, program: str | None = None, **files: str) -> Path:
        """A folder with a program, by default a correct one, and other files by their names."""
        folder = self.submissions / student
        folder.mkdir()
        (folder / "solution.py").write_text(self.program if program is None else program, encoding="utf-8")
        for name, text in files.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    def hand_in_with(self, student: str, mischief: str) -> Path:
        """A correct solution that does something else first."""
        return self.hand_in(student, f"{mischief}\n{self.program}")

    @contextmanager
    def changed(self, find: str, replace: str, more: str = "") -> Iterator[None]:
        """Another kata for a while: words of its behaviours that stand there once, replaced, and `more` below them."""
        path = self.kit.root / BEHAVIOURS
        honest = path.read_text(encoding="utf-8")
        assert honest.count(find) == 1, find
        path.write_text(honest.replace(find, replace) + more, encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(honest, encoding="utf-8")

    def words(self, *more: str | Path) -> list[str]:
        words = ["grade", "door", self.submissions, "--out", self.out, *self.always, *more]
        return [*map(str, words)]

    def grade(self, *more: str | Path, **options: Any) -> Ended:
        return self.kit.kata(*self.words(*more), **options)

    def start(self, *more: str | Path, **options: Any) -> Any:
        return self.kit.start("harness.commands", *self.words(*more), **options)

    def result(self, student: str) -> dict[str, Any]:
        return json.loads((self.out / "results" / f"{student}.json").read_text(encoding="utf-8"))

    def verdicts(self, student: str) -> dict[str, str]:
        return {each["id"]: each["verdict"] for each in self.result(student)["behaviours"]}
