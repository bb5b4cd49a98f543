"""What is installed: the kit and its katas without the references, and few packages beside it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .sources import KATAS, ROOT, require_none

KIT = "backend-katas"
MOST_PACKAGES = 12


def build(project: Path, folder: Path) -> set[str]:
    """The names in the project's wheel."""
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(folder),
    ]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return set(ZipFile(wheel).namelist())


def required(name: str, seen: set[str]) -> set[str]:
    """The distribution and all that it requires here, extras aside."""
    if (name := canonicalize_name(name)) not in seen:
        seen.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required(requirement.name, seen)
    return seen


def declared() -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    yield from (requirement for line in lines if (requirement := Requirement(line)).name != KIT)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> set[str]:
    return build(ROOT, tmp_path_factory.mktemp("kit"))


def test_the_kit_holds_every_kata_complete(kit):
    wanted = {
        f"katas/{kata}/{path.name}" for kata in KATAS for path in (ROOT / "katas" / kata).iterdir() if path.is_file()
    }
    wanted |= {f"harness/behaviours/{kata}.py" for kata in KATAS}
    wanted |= {f"harness/story/templates/{path.name}" for path in (ROOT / "harness/story/templates").iterdir()}
    require_none(f"the wheel lacks {name}" for name in sorted(wanted - kit))


def test_the_kit_holds_nothing_else(kit):
    folders = {name.split("/")[0] for name in kit if not re.match(r"backend_katas-[^/]+\.dist-info/", name)}
    assert folders == {"harness", "katas"}, "only harness and katas belong into the kit's wheel"


def test_references_are_a_package_of_their_own(tmp_path):
    names = build(ROOT / "reference", tmp_path)
    wanted = {f"reference/{kata}/{file}" for kata in KATAS for file in ("solution.py", "mutants.toml")}
    require_none(f"the wheel of the references lacks {name}" for name in sorted(wanted - names))
    strays = {name for name in names if not re.match(r"reference/|backend_katas_reference-", name)}
    assert not strays, "the references are installed below `reference` only"


def test_a_learner_installs_few_packages():
    packages = sorted(required(KIT, set()))
    assert len(packages) <= MOST_PACKAGES, f"a learner installs {len(packages)} packages: {', '.join(packages)}"


def test_the_lock_answers_what_is_declared():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name): version for name, version in re.findall(r"^(\S+?)==(\S+)", lock, re.M)}
    require_none(
        f"requirements.lock does not answer {requirement}; run `make lock`"
        for requirement in declared()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    )


def test_the_lock_names_no_place_to_install_from():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = re.findall(r"^.*(?:://|--index-url|--extra-index-url|--find-links|@ ).*$", lock, re.M)
    assert not found, f"requirements.lock says where to install from, which is the installer's choice: {found}"
