"""A learner's first five minutes: the wheel, installed on its own, in an empty folder."""

from __future__ import annotations

import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from harness import kata as katas

from .runs import PATIENCE, ROOT, Bench, clean_environment, until


def run(folder: Path, *words: str | Path, status: int = 0, **more: str) -> str:
    """What a command prints, once it has ended with `status`."""
    environment = clean_environment() | more
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The commands of an environment that the wheel is installed into; what it requires is lent by this one."""
    run(ROOT, sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist"))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    # Only its packages: the link to the clone, a .pth of its own, is not followed from here.
    Path(packages, "lent.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(tmp_path, *pip, "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel)
    where = run(tmp_path, python, "-c", "import harness; print(harness.__file__)")
    assert Path(where.strip()).is_relative_to(packages), "the installed kit is met, not the clone"
    return environment / "bin"


def test_the_first_run_says_in_one_sentence_where_to_start(bench: Bench, installed: Path):
    for kata in katas.catalogue().values():
        started = run(bench.folder, installed / "kata", "start", kata.name)
        told = run(
            bench.folder,
            installed / "python",
            *("-m", "pytest", "-p", "no:anyio", "-p", "no:hypothesispytest", f"katas/{kata.name}"),
            status=1,
            TMPDIR=str(bench.temporary),
        )

        sentence = f"katas/{kata.name} holds the skeleton as it came. {kata.start} Then: pytest katas/{kata.name}"
        assert kata.start in started
        assert told.count(sentence) == 2, told
        assert "Traceback" not in told
    until(bench.nothing_is_left, "everything that was started is gone")


def test_references_stay_with_the_clone(bench: Bench, installed: Path):
    run(bench.folder, installed / "kata", "start", "pubsub")

    told = run(bench.folder, installed / "python", "-m", "pytest", "katas/pubsub", "--subject=reference", status=2)

    assert "there is no reference for `pubsub` here; references come with a clone of the kit" in told
