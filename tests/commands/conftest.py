from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from harness import kata as katas
from harness.commands import main

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kata(folder, capsys) -> Callable[..., Ended]:
    """The command, in an empty folder."""

    def command(*words: str) -> Ended:
        status = main(words)
        return Ended(status, *capsys.readouterr())

    return command


@pytest.fixture
def some_kata() -> katas.Kata:
    """Any kata that comes with the kit."""
    return next(iter(katas.catalogue().values()))


class Clone:
    """A copy of the kit with no kata in it, used through processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(ROOT / "harness", root / "harness", ignore=shutil.ignore_patterns("__pycache__"))
        for behaviours in (root / "harness" / "behaviours").glob("[!_]*.py"):
            behaviours.unlink()
        shutil.copy(ROOT / "pyproject.toml", root)
        for name in ("katas", "reference", "tests/oracles", "tests/solutions"):
            (root / name).mkdir(parents=True)

    def start(self, *words: str, **options) -> subprocess.Popen[str]:
        """`python -m ...` in the clone, or with the `cwd` given; its copy of the kit goes before the installed one."""
        pipe = subprocess.PIPE
        environment = {**options.pop("env", os.environ), "PYTHONPATH": str(self.root)}
        options = {"cwd": self.root, "stdout": pipe, "stderr": pipe, "text": True, "env": environment} | options
        return subprocess.Popen([sys.executable, "-m", *words], **options)

    def run(self, *words: str, **options) -> Ended:
        process = self.start(*words, **options)
        out, err = process.communicate()
        return Ended(process.returncode, out, err)

    def kata(self, *words: str, **options) -> Ended:
        return self.run("harness.commands", *words, **options)

    def pytest(self, *words: str) -> Ended:
        return self.run("pytest", "-p", "no:cacheprovider", *words)

    def edit(self, path: str, find: str, replace: str) -> None:
        text = (self.root / path).read_text()
        assert text.count(find) == 1, f"{find!r} must stand once in {path}"
        (self.root / path).write_text(text.replace(find, replace))

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


@pytest.fixture
def clone(tmp_path) -> Clone:
    return Clone(tmp_path / "a clone")


@pytest.fixture
def door(clone) -> Clone:
    """A clone with one kata, `door`, just made."""
    made = clone.kata("new", "door", "--speaks", "tcp")
    assert made.status == 0, made.err
    return clone
