"""The zip that Gradescope builds an autograder from: `setup.sh`, `run_autograder`, and the whole kit for one kata.

In the scripts, @...@ is replaced by what is exported; a `$` is the shell's.
"""

from __future__ import annotations

from pathlib import Path

from harness.exporting.kit import kit
from harness.exporting.wheel import wheel, zipped
from harness.kata import Kata

FILES = Path(__file__).parent / "files" / "gradescope"
SCRIPTS = ("setup.sh", "run_autograder")


def autograder(kata: Kata, reveal: str, isolation: int) -> bytes:
    """The zip; `reveal` and `isolation` (the lowest level that is good enough) are as for `kata grade`."""
    name, content = wheel(kit(kata, public=False))
    words = {
        "name": kata.name,
        "wheel": name,
        "extras": ",".join(filter(None, ["grade", kata.extra])),
        "reveal": reveal,
        "isolation": str(isolation),
    }
    files = {script: _filled(script, words).encode() for script in SCRIPTS}
    return zipped({**files, f"kit/{name}": content}, frozenset(SCRIPTS))


def _filled(script: str, words: dict[str, str]) -> str:
    text = (FILES / script).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
