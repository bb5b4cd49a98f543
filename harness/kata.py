"""What a kata is on disk, and where katas are: derived from the folders, never listed.

A kata is a folder with a `kata.toml`; katas, references and behaviours stand side by side:
`katas/NAME`, `reference/NAME` (in a clone only) and `harness/behaviours/NAME.py`.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.verdicts import Unusable

HOME = Path(__file__).parent.parent  # the clone, or site-packages
SHIPPED = HOME / "katas"
REFERENCES = HOME / "reference"
BEHAVIOURS = Path(__file__).parent / "behaviours"

REQUIRED = {"name": str, "title": str, "summary": str, "speaks": str, "hours": str, "start": str}
OPTIONAL = {
    "run": list,
    "build": list,
    "grace_ms": int,
    "environment": dict,
    "extra": str,
    "skeleton": str,
    "called": str,
    "listens": list,
    "products": list,
}
TRANSPORTS = ("tcp", "udp")


@dataclass(frozen=True)
class Kata:
    """One `kata.toml`: what to run, with which settings, and how to introduce it."""

    path: Path
    name: str
    title: str
    summary: str
    speaks: str
    hours: str
    start: str
    run: tuple[str, ...] = ("python", "solution.py")
    build: tuple[str, ...] = ()
    grace_ms: int = 5000
    environment: dict[str, str] = field(default_factory=dict)
    extra: str = ""
    skeleton: str = ""
    called: str = "solution"  # what stories call the program
    listens: tuple[str, ...] = ("tcp",)  # the transports on which it is ready at HOST:PORT
    products: tuple[str, ...] = ()  # programs that do this job: in isolation a submission finds none of them

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def untouched(self) -> bool:
        """The folder still holds the skeleton as it was shipped."""
        return bool(self.skeleton) and digest(self.folder) == self.skeleton


def digest(folder: Path) -> str:
    """A digest of the sources in a kata's folder: it changes with the first edit of the skeleton."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)  # caches of tools, the editor's own files
        if path.suffix in {".toml", ".md", ".pyc"} or hidden or not path.is_file():
            continue
        whole.update(inside.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def read(path: Path) -> Kata:
    """Read a `kata.toml`. Raises Unusable with one sentence when it is broken or incomplete."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Unusable(f"{path.parent} has no kata.toml; `kata start NAME` makes a kata's folder") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"{path} is not valid TOML ({error}); mend it or copy it anew with `kata start`") from None
    _check_fields(path, table)
    if "environment" in table:
        table["environment"] = {key: _setting(path, key, value) for key, value in table["environment"].items()}
    for key in ("run", "build", "listens", "products"):
        if key in table:
            table[key] = tuple(table[key])
    return Kata(path=path, **table)


def _check_fields(path: Path, table: dict[str, Any]) -> None:
    known = REQUIRED | OPTIONAL
    for key in REQUIRED:
        if key not in table:
            raise Unusable(f"{path} lacks `{key}`; add it (`kata start` makes a folder with a complete one)")
    for key, value in table.items():
        if key not in known:
            raise Unusable(f"{path} has an unknown field `{key}`{suggestion(key, known)}; remove it")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise Unusable(f"{path}: `{key}` must be a {known[key].__name__}, not {value!r}")
    if not re.fullmatch(r"\d+(-\d+)?", table["hours"]):
        raise Unusable(f'{path}: `hours` must be a span such as "2-4", not {table["hours"]!r}')
    for key in ("run", "build"):
        if key in table and not (table[key] and all(isinstance(word, str) and word for word in table[key])):
            raise Unusable(f'{path}: `{key}` must be a list of words, such as ["python", "solution.py"]')
    if not all(isinstance(word, str) and word and os.sep not in word for word in table.get("products", [])):
        raise Unusable(f'{path}: `products` must be a list of names of programs, such as ["nginx"]')
    if "listens" in table and not (table["listens"] and all(word in TRANSPORTS for word in table["listens"])):
        raise Unusable(f'{path}: `listens` must name "tcp", "udp" or both, such as ["udp", "tcp"]')


def _setting(path: Path, key: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unusable(f"{path}: the environment's `{key}` must be a string or a whole number, not {value!r}")
    return str(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` for a word that is nearly a known one, else nothing."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f", did you mean `{near[0]}`?" if near else ""


def catalogue(folder: Path = SHIPPED) -> dict[str, Kata]:
    """The katas below `folder`, by name. Raises Unusable when two share a name."""
    found: dict[str, Kata] = {}
    for path in sorted(folder.glob("*/kata.toml")):
        kata = read(path)
        if kata.name in found:
            other = found[kata.name].path
            raise Unusable(f"{other} and {path} are both named `{kata.name}`; rename or remove one of them")
        found[kata.name] = kata
    return found


def shipped(name: str) -> Kata:
    """The kata of that name as it came with the kit. Raises Unusable with the nearest name when there is none."""
    known = catalogue()
    if name not in known:
        raise Unusable(f"there is no kata named `{name}`{suggestion(name, known)}; `kata list` shows all of them")
    return known[name]


def imports_of(name: str) -> list[str]:
    """The modules that a kata's behaviours import at their top level, for a process that is to know them beforehand.

    The behaviours themselves are none of them: pytest rewrites their assertions.
    """
    path = BEHAVIOURS / f"{name}.py"
    body = ast.parse(path.read_bytes()).body if path.exists() else []
    plain = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    others = [node for node in body if isinstance(node, ast.ImportFrom) and not node.level]
    return plain + [node.module for node in others if node.module]
