"""`kata new`: the files of a new kata, small but complete, for its author to fill in."""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness import kata as katas
from harness.commands import finding
from harness.verdicts import Unusable

if TYPE_CHECKING:
    from argparse import _SubParsersAction

TEMPLATES = Path(__file__).parent / "template"
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def declare(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    new = commands.add_parser("new", help="for authors: the files of a new kata", description=__doc__)
    new.add_argument("name", metavar="NAME", help="in snake_case, as its module will be called")
    protocols = sorted(path.parent.name for path in TEMPLATES.glob("*/kata.toml"))
    new.add_argument("--speaks", choices=protocols, default="http", help="the protocol to begin with (http)")
    new.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    name = options.name
    _check_name(name)
    files = _files(name)
    _check_place(files)
    for source, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (TEMPLATES / options.speaks / source).read_text(encoding="utf-8")
        path.write_text(_filled_in(text, name), encoding="utf-8")
    kata = katas.HOME / "katas" / name
    _sign(kata)
    for source, path in files.items():
        print(f"{finding.shown(path)}: {FILL_IN[source]}")
    where = finding.shown(kata)
    print(f"It works already: pytest {where} --subject=reference, then --subject=mutants")
    print(f"When it is written: kata prove {name}")
    return 0


FILL_IN = {
    "README.md": "the brief, from which alone a program that passes can be written",
    "kata.toml": "title, summary, hours, and the sentence for an untouched skeleton",
    "skeleton.py": "the reference with the interesting parts left out; no behaviour holds",
    "reference.py": "correct, and short enough to teach",
    "mutants.toml": "twelve or more realistic mistakes, at least one for each behaviour",
    "behaviours.py": "25 to 40 behaviours in five stages",
}


def _files(name: str) -> dict[str, Path]:
    """Where each file of the template goes."""
    kata, reference = katas.HOME / "katas" / name, katas.HOME / "reference" / name
    return {
        "README.md": kata / "README.md",
        "kata.toml": kata / "kata.toml",
        "skeleton.py": kata / "solution.py",
        "reference.py": reference / "solution.py",
        "mutants.toml": reference / "mutants.toml",
        "behaviours.py": katas.BEHAVIOURS / f"{name}.py",
    }


def _check_name(name: str) -> None:
    if not SNAKE_CASE.fullmatch(name) or keyword.iskeyword(name):
        raise Unusable(f"`{name}` can't be a module's name; take lower-case words joined by underscores")


def _check_place(files: dict[str, Path]) -> None:
    if not (katas.HOME / "pyproject.toml").is_file():
        raise Unusable("a new kata is written in a clone of the kit, and this one is installed; clone it first")
    behaviours = files["behaviours.py"]
    for place in (files["kata.toml"].parent, files["reference.py"].parent, behaviours):
        if place.exists():
            raise Unusable(f"{finding.shown(place)} is there already; take another name, or remove it")


def _filled_in(text: str, name: str) -> str:
    return text.replace("kata_name", name).replace("Kata name", name.replace("_", " ").capitalize())


def _sign(kata: Path) -> None:
    """Write the skeleton's digest into kata.toml, so that it is recognised as untouched."""
    path = kata / "kata.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("skeleton_digest", katas.digest(kata)), encoding="utf-8")
