"""A class made up from a seed: who hands in what, how it is packed, and what each must get.

Most hand in the reference, with a mistake or without; some the skeleton, a null program, one that ends at once, or an
archive that has to be refused. `make` lays it out, `wrong` says what came out otherwise than it had to.
"""

from __future__ import annotations

import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import subjects
from harness.grading.model import Status
from harness.kata import Kata
from harness.proof import programs

from .archives import BAD

SHARES = {"correct": 35, "mistaken": 40, "skeleton": 8, "null": 7, "ended": 3, "refused": 7}  # per cent
SLOW = ("bomb", "hundred thousand", "too many", "huge")  # archives that take long to make


@dataclass(frozen=True)
class Pupil:
    """Somebody who hands in, and what must come of it: `broken` names behaviours that must not hold."""

    name: str
    kind: str
    status: Status = Status.GRADED
    all_hold: bool = False
    none_hold: bool = False
    broken: tuple[str, ...] = ()


def make(kata: Kata, folder: Path, number: int, seed: int) -> list[Pupil]:
    """Lay out `number` submissions below `folder`; the same for the same seed."""
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=number)
    scratch = folder.with_name(f"{folder.name}.made")
    made = [MAKERS[kind](kata, folder, f"pupil{each:04}", chance, scratch) for each, kind in enumerate(kinds)]
    shutil.rmtree(scratch, ignore_errors=True)
    return made


def wrong(pupil: Pupil, result: dict[str, Any]) -> str:
    """What came out otherwise than it had to, "" when nothing did."""
    if result["status"] != pupil.status:
        return f"{pupil.name} ({pupil.kind}) was {result['status']}: {result['reason']}"
    verdicts = {each["id"]: each["verdict"] for each in result["behaviours"]}
    held = {name for name, verdict in verdicts.items() if verdict == "holds"}
    if pupil.all_hold and (unheld := sorted(set(verdicts) - held)):
        return f"{pupil.name} ({pupil.kind}) lacks {', '.join(f'{name}: {verdicts[name]}' for name in unheld)}"
    if pupil.none_hold and result["score"]:
        return f"{pupil.name} ({pupil.kind}) earned {result['score']} points, by {', '.join(sorted(held))}"
    if missed := sorted(held & set(pupil.broken)):
        return f"{pupil.name} ({pupil.kind}) kept {', '.join(missed)}"
    return ""


# -- kinds ------------------------------------------------------------------------------------------------------------


def _correct(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    _pack(subjects.reference(kata).folder, folder / name, chance)
    return Pupil(name, "correct", all_hold=True)


def _mistaken(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    mutant = chance.choice(subjects.mutants(kata))
    planted = subjects.mutate(subjects.reference(kata), mutant, scratch)
    _pack(planted.folder, folder / name, chance)
    return Pupil(name, f"mistake {mutant.name}", broken=mutant.caught_by)


def _skeleton(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    _pack(kata.folder, folder / name, chance)
    return Pupil(name, "skeleton", none_hold=True)


def _null(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    program = chance.choice(programs.null_programs(kata))
    return _program(folder, name, f"null {program.stem}", program.read_text(encoding="utf-8"))


def _ended(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    return _program(folder, name, "ended", f"import os\nos._exit({chance.choice([0, 1])})\n")


def _program(folder: Path, name: str, kind: str, text: str) -> Pupil:
    (folder / name).mkdir()
    (folder / name / "solution.py").write_text(text, encoding="utf-8")
    return Pupil(name, kind, none_hold=True)


def _refused(kata: Kata, folder: Path, name: str, chance: random.Random, scratch: Path) -> Pupil:
    kind = chance.choice([each for each in BAD if not any(word in each for word in SLOW)])
    suffix, make_archive, _ = BAD[kind]
    make_archive(folder / f"{name}.{suffix}")
    return Pupil(name, kind, status=Status.REFUSED)


MAKERS: dict[str, Callable[[Kata, Path, str, random.Random, Path], Pupil]] = {
    "correct": _correct,
    "mistaken": _mistaken,
    "skeleton": _skeleton,
    "null": _null,
    "ended": _ended,
    "refused": _refused,
}


def _pack(source: Path, target: Path, chance: random.Random) -> None:
    """A folder, a zip, or a tar of it, as learning platforms and students make them."""
    kept = [path for path in sorted(source.glob("*")) if path.is_file() and path.name != "mutants.toml"]
    kept = [path for path in kept if path.suffix != ".md"]
    wrap = chance.choice(["", "solution-main/"])
    match chance.choice(["folder", "zip", "tgz"]):
        case "folder":
            target.mkdir()
            for path in kept:
                shutil.copy(path, target)
        case "zip":
            with zipfile.ZipFile(f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in kept:
                    archive.write(path, wrap + path.name)
        case _:
            with tarfile.open(f"{target}.tgz", "w:gz") as archive:
                for path in kept:
                    archive.add(path, wrap + path.name)
