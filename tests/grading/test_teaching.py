"""docs/teaching.md, done as it says: from an empty folder to marks, on a small class."""

import json
import os
import re
import subprocess
import sys

import pytest

from harness import kata as katas
from harness.collecting import declared

from . import wheelhouse

PATIENCE = 540  # seconds for all of it, on a machine that does much else
pytestmark = pytest.mark.timeout(PATIENCE + 30)
DOCUMENT = katas.HOME / "docs" / "teaching.md"
BLOCKS = re.findall(r"^```sh *(\w*)\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
WRONG = "raise SystemExit('not yet')\n"


def hand_in(folder):
    """Three more than the two that the document hands in: right, wrong, and an archive of nothing."""
    for student in ("linus", "margaret"):
        (folder / "submissions" / student).mkdir(parents=True)
        for path in (katas.REFERENCES / "sse").glob("*.py"):
            (folder / "submissions" / student / path.name).write_bytes(path.read_bytes())
    (folder / "submissions" / "margaret" / "solution.py").write_text(WRONG)
    (folder / "submissions" / "niklaus").mkdir()
    (folder / "submissions" / "niklaus" / "main.pas").write_text("begin end.")


def test_every_command_runs_and_the_marks_are_right(tmp_path):
    house = wheelhouse.fill(tmp_path / "wheels", "backend-katas[grade]")
    hand_in(class_room := tmp_path / "class")
    script = [block for word, block in BLOCKS if not word]
    # One student's folder has no program, so grading ends with 1, as the document says; all else has to end with 0.
    commands = "".join(script).replace("--reveal names\n", "--reveal names || test $? -eq 1\n", 1)

    done = subprocess.run(
        ["bash", "-euc", commands],
        cwd=class_room,
        env=wheelhouse.environment(house),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    most = sum(each.points for each in declared(katas.shipped("sse")))
    results = {path.stem: json.loads(path.read_text()) for path in (class_room / "marks" / "results").glob("*.json")}
    assert {name: (result["status"], result["score"]) for name, result in results.items()} == {
        "ada": ("graded", 0),
        "grace": ("graded", 0),
        "linus": ("graded", most),
        "margaret": ("graded", 0),
        "niklaus": ("refused", 0),
    }
    assert "the same: 0 of" in done.stdout
    for written in ("marks.csv", "marks.xml", "gradescope/linus.json", "team.html", "sse.zip", "marks/index.html"):
        assert (class_room / written).stat().st_size > 0
    assert "Ada Lovelace" in (class_room / "team.html").read_text()


@pytest.mark.parametrize("line", [line for word, block in BLOCKS if word == "cluster" for line in block.splitlines()])
def test_the_commands_for_a_cluster_exist(line):
    """What they do is tried in test_cluster.py; here, that programs and options are called so."""
    program, command, *words = line.split()
    module = {"dask": "dask", "kata": "harness.commands"}[program]

    shown = subprocess.run(
        [sys.executable, "-m", module, command, "--help"],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )

    assert shown.returncode == 0, shown.stderr
    for word in words:
        assert not word.startswith("--") or re.search(rf"(?<!\S){word}\b", shown.stdout), f"{word} is no option"
