"""The form of the files: none of them knows a machine, and those of the harness stay small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sources import ROOT, Source, python_files, require_none

LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# A folder of some machine at the start of a path: not behind a host, not inside a longer path.
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.~}-])/(?:home|root|work|tmp|Users)/\w")
MAY_NAME_A_MACHINE: set[str] = set()  # paths, each with its reason
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".mjs",
    ".js",
    ".sh",
    ".lock",
    ".cfg",
    ".ini",
    ".html",
    ".css",
    ".svg",
}
FOLDERS = ("harness", "katas", "reference", "tests", "benchmarks", ".ci")


def text_files() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and _is_text(path))
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file() and _is_text(path))


def _is_text(path: Path) -> bool:
    return path.suffix in TEXT or path.name in {"Makefile", "run"}


def paths_of_machines(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := PATH_OF_A_MACHINE.search(line):
            yield f"{name}:{number} names a folder of some machine ({found[0]}...)"


def too_long(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > LONGEST_FILE:
        yield f"{source.path} has {lines} lines, {LONGEST_FILE} are the most; split it"
    for function in source.functions():
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > LONGEST_FUNCTION:
            yield (
                f"{source.path}:{function.lineno} {function.name} has {lines} lines, "
                f"{LONGEST_FUNCTION} are the most; split it"
            )


def test_no_file_names_a_folder_of_some_machine():
    named = ((path.relative_to(ROOT).as_posix(), path) for path in text_files())
    require_none(
        problem
        for name, path in named
        if name not in MAY_NAME_A_MACHINE
        for problem in paths_of_machines(name, path.read_text(encoding="utf-8"))
    )


def test_files_and_functions_of_the_harness_are_short():
    """Behaviours are exempt: they are one catalogue, a promise after the other, and have no structure to split by."""
    files = (source for source in python_files("harness") if "/behaviours/" not in source.path)
    require_none(problem for source in files for problem in too_long(source))


@pytest.mark.parametrize("folder", ["home", "root", "work", "tmp"])
def test_a_folder_of_a_machine_is_seen(folder):
    assert list(paths_of_machines("example.md", f"see `/{folder}/someone/notes`"))
    assert not list(paths_of_machines("example.md", f"https://example.org/{folder}/page"))
    assert not list(paths_of_machines("example.md", f"below STATE_DIR/{folder}/x"))


def test_a_long_file_and_a_long_function_are_seen():
    long_function = Source("example.py", "def f():\n" + "    pass\n" * LONGEST_FUNCTION)
    long_file = Source("example.py", "x = 1\n" * (LONGEST_FILE + 1))

    assert [len(list(too_long(source))) for source in (long_function, long_file)] == [1, 1]
    assert not list(too_long(Source("example.py", "def f():\n" + "    pass\n" * (LONGEST_FUNCTION - 1))))
