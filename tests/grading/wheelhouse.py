"""What is installed here, packed as wheels again, so that a clean environment can be filled without any network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness import kata as katas

KIT = "backend-katas"
EPOCH = (1980, 1, 1, 0, 0, 0)


def fill(folder: Path, *requirements: str) -> Path:
    """A folder with a wheel of each requirement and of all that it requires."""
    folder.mkdir(parents=True)
    seen: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        if name == KIT:
            build(folder)
        else:
            pack(distribution, folder)
        waiting += [each for line in distribution.requires or () if wanted(each := Requirement(line), requirement)]
    return folder


def build(folder: Path) -> None:
    """The kit's own wheel; what is installed of it here is a link to the clone."""
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(words, cwd=katas.HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def wanted(each: Requirement, by: Requirement) -> bool:
    return each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ["", *by.extras])


def pack(distribution: metadata.Distribution, folder: Path) -> None:
    """A wheel of an installed distribution: what it put below site-packages."""
    tags = [line.split(": ")[1] for line in (distribution.read_text("WHEEL") or "").splitlines() if "Tag: " in line]
    stem = f"{distribution.metadata['Name'].replace('-', '_')}-{distribution.version}"
    parts = [sorted({tag.split("-")[index] for tag in tags}) for index in range(3)]
    with zipfile.ZipFile(folder / f"{stem}-{'-'.join('.'.join(part) for part in parts)}.whl", "w") as wheel:
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and path.is_file() and path.suffix != ".pyc":
                wheel.writestr(zipfile.ZipInfo(file.as_posix(), EPOCH), path.read_bytes())


def environment(house: Path, **more: str) -> dict[str, str]:
    """The environment variables of commands that install from `house` alone, and know nothing of this environment."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TMPDIR") if key in os.environ}
    system = os.defpath if "/usr/bin" in os.defpath else f"/usr/bin:{os.defpath}"
    return kept | {
        "PATH": f"/usr/local/bin:{system}",
        "HOME": str(house),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(house),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        **more,
    }
