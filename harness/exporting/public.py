"""The public part of a kata's behaviours, as source: what is hidden is cut out, and whatever nothing else needs.

A part of the file (a function, a constant, an import, a method) stays if a public behaviour reaches it by name. Names
are looked for in code and in strings, so too much may stay of a helper, but nothing is missed that is needed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.behaviour import Behaviour

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BOUND = (*FUNCTIONS, ast.ClassDef)
Cut = tuple[int, int]  # the first and the last line, counted from 1


@dataclass(frozen=True)
class Part:
    """Some lines of the file: the names that it binds, and those that it mentions."""

    node: ast.stmt
    binds: frozenset[str]
    mentions: frozenset[str]
    owner: Part | None = None  # the class that a method stands in

    @property
    def first(self) -> int:
        decorators: list[ast.expr] = getattr(self.node, "decorator_list", [])
        return min([self.node.lineno, *(each.lineno for each in decorators)])

    @property
    def last(self) -> int:
        return self.node.end_lineno or self.node.lineno


def public_source(source: str, behaviours: Sequence[Behaviour]) -> str:
    """The source of a kata's behaviours without the hidden ones, and without what only they use."""
    hidden = {f"test_{each.id}" for each in behaviours if each.hidden}
    lines = _without_hidden_needs(source, behaviours).splitlines(keepends=True)
    parts = list(_parts(ast.parse("".join(lines))))
    kept = _reached(parts, hidden)
    cuts = [_with_comment(lines, part) for part in parts if part not in kept]
    for first, last in sorted(cuts, reverse=True):
        while first > 1 and not lines[first - 2].strip():
            first -= 1
        del lines[first - 1 : last]
    shown = "".join(lines).rstrip() + "\n"
    ast.parse(shown)
    return shown


def _with_comment(lines: list[str], part: Part) -> Cut:
    """A part's lines with the comment right above it, which speaks of it."""
    first = part.first
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return first, part.last


def _parts(tree: ast.Module) -> Iterator[Part]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.bases:
            yield from _class_and_methods(node)
        else:
            yield Part(node, frozenset(_bound(node)), frozenset(_mentioned([node])))


def _class_and_methods(node: ast.ClassDef) -> Iterator[Part]:
    """A class of its own is cut by the method; one that inherits may be called by its base, and stays whole."""
    methods = [each for each in node.body if isinstance(each, FUNCTIONS) and not each.name.startswith("__")]
    rest = [*node.decorator_list, *node.keywords, *(each for each in node.body if each not in methods)]
    if len(methods) == len(node.body):
        yield Part(node, frozenset([node.name]), frozenset(_mentioned([node])))
        return
    whole = Part(node, frozenset([node.name]), frozenset(_mentioned(rest)))
    yield whole
    for each in methods:
        yield Part(each, frozenset([each.name]), frozenset(_mentioned([each])), whole)


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, BOUND):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    else:
        yield from (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and _is_stored(each))


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _mentioned(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names in code (also those of arguments, which are fixtures), and what looks like one in strings."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def _reached(parts: list[Part], hidden: set[str]) -> list[Part]:
    """What public behaviours reach, in some steps."""
    kept = [part for part in parts if _is_root(part) and not part.binds & hidden]
    while True:
        names = {name for part in kept for name in part.mentions}
        more = [
            part
            for part in parts
            if part not in kept
            and part.binds & names
            and not part.binds & hidden
            and (part.owner is None or part.owner in kept)
        ]
        if not more:
            return kept
        kept += more


def _is_root(part: Part) -> bool:
    """A behaviour, something that is done rather than defined, or a fixture that comes unasked."""
    node = part.node
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return True
    if isinstance(node, FUNCTIONS) and part.owner is None:
        unasked = any("autouse" in ast.unparse(each) for each in node.decorator_list)
        return node.name.startswith("test_") or unasked
    return not part.binds


def _without_hidden_needs(source: str, behaviours: Sequence[Behaviour]) -> str:
    """A public behaviour that needs a hidden one is tried without it."""
    hidden = {each.id for each in behaviours if each.hidden}
    known = {f"test_{each.id}": each for each in behaviours if not each.hidden and hidden & set(each.needs)}
    lines = source.encode().splitlines(keepends=True)
    functions = [node for node in ast.parse(source).body if isinstance(node, FUNCTIONS) and node.name in known]
    for function in reversed(functions):
        value = _needs(function)
        left = tuple(name for name in known[function.name].needs if name not in hidden)
        assert value.end_lineno is not None
        before = lines[value.lineno - 1][: value.col_offset]
        after = lines[value.end_lineno - 1][value.end_col_offset :]
        lines[value.lineno - 1 : value.end_lineno] = [before + repr(left).encode() + after]
    return b"".join(lines).decode()


def _needs(function: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.expr:
    words = [word for each in function.decorator_list if isinstance(each, ast.Call) for word in each.keywords]
    return next(word.value for word in words if word.arg == "needs")
