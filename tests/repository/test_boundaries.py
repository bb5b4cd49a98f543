"""Who may know whom: katas and references know nothing of ours, the engine knows no kata.

Each rule is a function from a file to its problems, so that it can be shown a file that breaks it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from .sources import KATAS, Source, is_below, python_files, require_none

OURS = ("harness", "katas", "reference", "tests", "benchmarks")
BEHAVIOURS = "harness/behaviours"
# Peers and wires are named after protocols, and so are some katas.
MAY_SHARE_A_NAME = (BEHAVIOURS, "harness/peers", "harness/wire")


def imports_of_ours(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        if is_below(name, *OURS):
            yield f"{source.path}:{line} imports {name}; programs of a kata stand on their own"


def imports_of_the_engine(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        if is_below(name, "harness.behaviours", "katas", "reference", "tests", "benchmarks"):
            yield f"{source.path}:{line} imports {name}; the engine finds files by a kata's name"


def imports_of_behaviours(source: Source) -> Iterator[str]:
    for line, name in source.imports():
        engine = is_below(name, "harness") and not is_below(name, "harness.behaviours")
        if not engine and not is_below(name, "pytest", *sys.stdlib_module_names):
            yield (f"{source.path}:{line} imports {name}; behaviours use the engine, the standard library and pytest")


def named_katas(source: Source, katas: list[str]) -> Iterator[str]:
    for line, text in source.literals():
        for kata in katas:
            if re.search(rf"(?<![\w-]){re.escape(kata)}(?![\w-])", text):
                yield (f"{source.path}:{line} names the kata {kata}; what differs by kata belongs into its kata.toml")


def test_katas_and_references_import_nothing_of_ours():
    require_none(problem for source in python_files("katas", "reference") for problem in imports_of_ours(source))


def test_the_engine_imports_no_behaviours_and_no_references():
    engine = python_files("harness", but=[BEHAVIOURS])
    require_none(problem for source in engine for problem in imports_of_the_engine(source))


def test_one_place_loads_modules_by_name():
    engine = python_files("harness", but=[BEHAVIOURS])
    loading = {
        source.path for source in engine if any(is_below(name, "importlib.import_module") for _, name in source.names())
    }
    assert len(loading) <= 1, f"modules are loaded by name in {sorted(loading)}; one place is enough"


def test_the_engine_names_no_kata():
    engine = python_files("harness", but=MAY_SHARE_A_NAME)
    require_none(problem for source in engine for problem in named_katas(source, KATAS))


def test_behaviours_import_only_engine_standard_library_and_pytest():
    require_none(problem for source in python_files(BEHAVIOURS) for problem in imports_of_behaviours(source))


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (imports_of_ours, "import harness.waiting"),
        (imports_of_ours, "from harness import waiting"),
        (imports_of_the_engine, "import harness.behaviours.door"),
        (imports_of_the_engine, "from harness.behaviours import door"),
        (imports_of_the_engine, "from .behaviours import door"),
        (imports_of_the_engine, "import reference.door.solution"),
        (imports_of_behaviours, "from reference.door import solution"),
        (imports_of_behaviours, "from harness.behaviours.door import test_opens"),
        (imports_of_behaviours, "from . import door"),
        (imports_of_behaviours, "import httpx"),
    ],
)
def test_a_crossed_boundary_is_seen(rule, line):
    folder = BEHAVIOURS if rule is imports_of_behaviours else "harness"

    assert list(rule(Source(f"{folder}/example.py", f"def late():\n    {line}\n")))
    assert not list(rule(Source(f"{folder}/example.py", "import json\n")))


@pytest.mark.parametrize("line", ['"door"', '"katas/door"', 'f"start {x} door"', '"harness.behaviours.door"'])
def test_a_named_kata_is_seen(line):
    assert list(named_katas(Source("harness/example.py", f"x = {line}\n"), ["door"]))


@pytest.mark.parametrize("line", ['"indoors"', '"Door-Key: door-key"', "door = 1"])
def test_a_word_that_holds_a_katas_name_is_none(line):
    assert not list(named_katas(Source("harness/example.py", f'"""A door."""\n{line}\n'), ["door"]))
