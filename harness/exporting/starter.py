"""A starter repository for students: brief, skeleton, the public behaviours to run, and nothing that is hidden."""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from harness.behaviour import Behaviour
from harness.collecting import declared
from harness.exporting.kit import kit, skeleton
from harness.exporting.wheel import wheel
from harness.kata import Kata
from harness.verdicts import Unusable

FILES = Path(__file__).parent / "files" / "starter"
PLACES = {"workflow.yml": ".github/workflows/kata.yml", "gitignore": ".gitignore", "pytest.ini": "pytest.ini"}
LABEL = "starter"  # in the version of its kit: nobody takes it for the whole one


def starter(kata: Kata) -> dict[str, bytes]:
    """The files of the repository, by name. Raises Unusable when something hidden would be among them."""
    name, content = wheel(kit(kata, public=True), LABEL)
    extra = f"[{kata.extra}]" if kata.extra else ""
    files = {place: (FILES / file).read_bytes() for file, place in PLACES.items()}
    files |= {
        "README.md": _readme(kata).encode(),
        "requirements.txt": f"./kit/{name}{extra}\n".encode(),
        f"kit/{name}": content,
    }
    files |= {f"katas/{kata.name}/{name}": data for name, data in skeleton(kata).items()}
    for leak in leaks(files, declared(kata)):
        raise Unusable(f"{kata.name} can't be exported: {leak}, and that is hidden; the kit's authors have to mend it")
    return files


def _readme(kata: Kata) -> str:
    behaviours = declared(kata)
    public = [each for each in behaviours if not each.hidden]
    hidden = len(behaviours) - len(public)
    return Template((FILES / "README.md").read_text(encoding="utf-8")).substitute(
        name=kata.name,
        title=kata.title,
        summary=kata.summary,
        script=kata.run[-1],
        start=kata.start,
        count=len(public),
        points=sum(each.points for each in public),
        most=sum(each.points for each in behaviours),
        more=f"{hidden} more are asked when it is graded; the brief says all that they can ask." if hidden else "",
    )


def leaks(files: Mapping[str, bytes], behaviours: list[Behaviour]) -> Iterator[str]:
    """Where the name, the sentence or a hint of a hidden behaviour stands, a sentence each; wheels are looked into."""
    public = {_plain(text) for each in behaviours if not each.hidden for text in (each.sentence, *each.hints)}
    secret = {each.id: _secrets(each) - public for each in behaviours if each.hidden}
    for name, text in _texts(files):
        for identity, words in secret.items():
            named = f"test_{identity}"
            if (named in text and re.search(rf"\b{named}\b", text)) or any(word in text for word in words):
                yield f"{name} tells of `{identity}`"


def _secrets(each: Behaviour) -> set[str]:
    return {_plain(text) for text in (each.sentence, *each.hints)}


def _texts(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """The files with blanks and line ends made equal; of Python, strings that are written in pieces in one as well."""
    for name, data in files.items():
        if name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inside = {f"{name}: {member}": archive.read(member) for member in archive.namelist()}
            yield from _texts(inside)
            continue
        text = data.decode("utf-8", "replace")
        if name.endswith(".py"):
            strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
            text = "\n".join([text, *(each for each in strings if isinstance(each, str))])
        yield name, _plain(text)


def _plain(text: str) -> str:
    return " ".join(text.split())
