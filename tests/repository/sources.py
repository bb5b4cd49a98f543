"""The repository's own files, as its tests read them: parsed, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
KATAS = sorted(path.parent.name for path in ROOT.glob("katas/*/kata.toml"))


@dataclass(frozen=True)
class Source:
    """A Python file of the repository. `path` is relative to the repository, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def package(self) -> list[str]:
        return self.path.split("/")[:-1]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of all that is imported; `from a import b` is `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = self.package[: len(self.package) - node.level + 1] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)

    def names(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of all that is imported or reached through an import."""
        yield from self.imports()
        aliases = {
            alias.asname or alias.name: alias.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
                yield node.lineno, f"{aliases.get(owner, owner)}.{node.attr}"

    def literals(self) -> Iterator[tuple[int, str]]:
        """Line and text of the string literals, docstrings left out."""
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(self.tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(self.tree):
            text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if text and id(node) not in docstrings:
                yield node.lineno, node.value

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written, "" for anything but names and their attributes."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


@cache
def read(path: Path) -> Source:
    return Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def python_files(*folders: str, but: Iterable[str] = ()) -> list[Source]:
    """The Python files below the folders, except those below the folders `but`."""
    sources = (read(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    left_out = tuple(f"{folder}/" for folder in but)
    return [source for source in sources if not source.path.startswith(left_out)]


def is_below(name: str, *packages: str) -> bool:
    """The dotted name is one of the packages, or something in it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def require_none(problems: Iterable[str]) -> None:
    """Fail with one line for each problem."""
    found = list(problems)
    assert not found, "\n" + "\n".join(found)
