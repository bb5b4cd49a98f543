"""`kata prove`, on a small kata of its own: what is unproven is named, one line for each reason, with status 1."""

import os
import re
import select
import shutil
import signal
import sys
from pathlib import Path

import pytest

from harness import kata as katas
from harness.proof import parts
from harness.proof.parts import Subject

BEHAVIOURS = "harness/behaviours/door.py"
MUTANTS = "reference/door/mutants.toml"


def reasons(ended):
    return [line.removeprefix(" ✗ ") for line in ended.out.splitlines() if line.startswith(" ✗ ")]


def append(clone, path, text):
    clone.write(path, (clone.root / path).read_text() + text)


def add_solution(clone, name="other"):
    """A second solution; a copy will do here."""
    folder = clone.root / "tests/solutions/door" / name
    folder.mkdir(parents=True)
    shutil.copy(clone.root / "reference/door/solution.py", folder)


def leave_nulls(clone, *names):
    """Fewer null programs are enough here, and quicker."""
    for path in (clone.root / "harness/proof/nulls/any").glob("*.py"):
        if path.name not in names:
            path.unlink()


def test_a_proved_kata_is_status_0(door):
    add_solution(door)

    ended = door.kata("prove", "door", "--runs", "2", "--busy", "2")

    assert ended.status == 0, ended.out + ended.err
    assert "2 of 2 mistakes are caught" in ended.out
    assert "vacuity score: 0 of 3 points" in ended.out
    assert "0 wrong verdicts of 4 in 2 runs" in ended.out
    assert ended.out.endswith("door is proved: reference, mutants, nulls, oracles, solutions, load\n")


def test_only_the_parts_that_are_asked_for_take_place(door):
    ended = door.kata("prove", "door", "--only", "solutions")

    assert ended.status == 1
    assert "vacuity" not in ended.out
    assert len(reasons(ended)) == 1


def test_a_reference_that_breaks_a_promise(door):
    door.edit("reference/door/solution.py", 'b"WELCOME "', 'b"GOODBYE "')
    door.edit(MUTANTS, 'b"WELCOME " + name', 'b"GOODBYE " + name')

    ended = door.kata("prove", "door", "--only", "reference,load", "--runs", "2", "--busy", "0")

    assert ended.status == 1
    assert "reference: greets_by_name: broken" in reasons(ended)[0]
    assert "reference: lines_in_one_segment: blocked (needs greets_by_name)" in reasons(ended)[1]
    assert len([reason for reason in reasons(ended) if reason.startswith("under load: greets_by_name: broken")]) == 2


def test_a_mistake_that_is_not_noticed(door):
    append(
        door,
        MUTANTS,
        '\n[shuts_nothing]\nbecause = "Nobody sees it."\ncaught_by = ["greets_by_name"]\n'
        "find = 'self.buffer = b\"\"'\nreplace = 'self.buffer = bytes()'\n",
    )

    ended = door.kata("prove", "door", "--only", "mutants")

    assert ended.status == 1
    assert "2 of 3 mistakes are caught" in ended.out
    assert reasons(ended) == [
        "mutants: [shuts_nothing] and greets_by_name: broken (the mistake [shuts_nothing] was not noticed: "
        "Nobody sees it.)"
    ]


def test_a_behaviour_that_proves_nothing(door):
    """It holds for programs that do nothing, and catches no mistake."""
    leave_nulls(door, "silent.py")
    append(
        door,
        BEHAVIOURS,
        '\n\n@behaviour(stage=4, points=7, source=Source("README"))\n'
        "def test_lets_itself_be_met(visitor: Visitor) -> None:\n"
        '    """A visitor may come and leave."""\n'
        "    visitor.say('HELLO')\n    visitor.solution.settled()\n",
    )

    ended = door.kata("prove", "door", "--only", "mutants,nulls")

    assert ended.status == 1
    assert "vacuity score: 7 of 10 points" in ended.out
    for null in ("any/silent", "skeleton"):
        assert any(f"lets_itself_be_met holds for `{null}`" in reason for reason in reasons(ended))
    assert "mutants: lets_itself_be_met catches no mistake; plant one that it is meant to catch" in reasons(ended)


def test_a_skeleton_whose_digest_is_stale(door):
    path = door.root / "katas/door/kata.toml"

    def problems():
        return parts.nulls_report(Subject(katas.read(path), [], 1, 1), []).problems

    assert problems() == []
    append(door, "katas/door/solution.py", "\n# a word more\n")
    (problem,) = problems()
    current = problem.split("write ")[1].split(",")[0]
    door.write(path, path.read_text().split("skeleton = ")[0] + current)
    assert problems() == []


def test_a_null_program_that_does_not_start_proves_nothing(door):
    leave_nulls(door)
    door.write("harness/proof/nulls/any/broken.py", "raise SystemExit(3)\n")

    ended = door.kata("prove", "door", "--only", "nulls")

    assert ended.status == 1
    assert "nulls: `any/broken` was not met" in reasons(ended)[0]


def test_pytest_that_can_not_run_is_quoted(door):
    door.write("conftest.py", "raise RuntimeError('out of order')\n")

    ended = door.kata("prove", "door", "--only", "mutants")

    assert ended.status == 1
    assert "pytest ended with status" in ended.out
    assert "out of order" in ended.out


# oracles


ORACLE = 'KATA = "door"\nNEEDS = "{needs}"\nPACKAGE = "hinges"\nDEVIATIONS = {deviations}\n'


def add_oracle(clone, deviations="{}", needs=sys.executable):
    solution = (clone.root / "reference/door/solution.py").read_text()
    odd = solution.replace('while b"\\n" in self.buffer:', 'if b"\\n" in self.buffer:')
    clone.write("tests/oracles/hinge.py", odd + ORACLE.format(needs=needs, deviations=deviations))


def test_an_oracle_deviates_only_where_that_is_justified(door):
    add_oracle(door)
    unlisted = door.kata("prove", "door", "--only", "oracles")
    add_oracle(door, '{"lines_in_one_segment": "It reads a line at a time."}')
    listed = door.kata("prove", "door", "--only", "oracles")
    add_oracle(door, '{"lines_in_one_segment": "It reads a line at a time.", "greets_by_name": "It once did not."}')
    stale = door.kata("prove", "door", "--only", "oracles")

    assert unlisted.status == 1
    assert reasons(unlisted)[0].startswith("hinge: lines_in_one_segment: broken")
    assert listed.status == 0, listed.out
    assert "1 of 2 behaviours hold" in listed.out
    assert reasons(stale) == ["hinge: the deviation `greets_by_name` is stale, the behaviour holds; remove it"]


def test_an_oracle_that_is_not_installed_is_skipped_by_name_or_required(door):
    add_oracle(door, needs="no-such-hinge")
    environment = {key: value for key, value in os.environ.items() if key != "REQUIRE_ORACLES"}

    skipped = door.kata("prove", "door", "--only", "oracles", env=environment)
    required = door.kata("prove", "door", "--only", "oracles", env=environment | {"REQUIRE_ORACLES": "1"})

    assert skipped.status == 0
    assert "no-such-hinge is not installed; install hinges" in " ".join(skipped.out.split())
    assert required.status == 1
    assert reasons(required) == ["hinge: skipped: no-such-hinge is not installed; install hinges"]


def test_what_an_oracle_says_of_itself_is_read_and_not_run(door):
    add_oracle(door, deviations="dict(why=1)")

    ended = door.kata("prove", "door", "--only", "oracles")

    assert ended.status == 2
    assert "DEVIATIONS must be a literal" in ended.err


# the end


def living_in(folder: Path) -> set[int]:
    """The processes whose current folder is below `folder`."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(os.readlink(f"/proc/{name}/cwd")).is_relative_to(folder):
                found.add(int(name))
        except OSError:
            continue
    return found


def until_gone(pid: int) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(handle):
        return bool(select.select([handle], [], [], 30)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="processes are seen in /proc")
def test_an_interrupt_ends_everything_that_was_started(door):
    folder = door.root.resolve()
    process = door.start("harness.commands", "prove", "door", "--only", "load", "--runs", "1000", "--busy", "1")
    assert "under load" in process.stdout.readline()  # one run is over, and many are to come
    started = living_in(folder) - {process.pid}

    process.send_signal(signal.SIGINT)
    _, err = process.communicate()

    assert started, "runs and a busy process were there"
    assert process.returncode == 130
    assert err == "kata: interrupted\n"
    while left := living_in(folder):
        assert all(map(until_gone, left)), f"{left} outlived the interrupt"


# -- the page


def test_a_proof_is_written_as_a_page(door, tmp_path):
    door.edit(MUTANTS, "The example of the brief", "<b>The example</b> of the brief")
    door.edit(MUTANTS, '["lines_in_one_segment"]', '["lines_in_one_segment", "greets_by_name"]')
    leave_nulls(door, "silent.py")
    file = tmp_path / "pages" / "door.html"

    ended = door.kata("prove", "door", "--only", "mutants,nulls", "--html", str(file))
    page = file.read_text()
    again = door.kata("prove", "door", "--only", "nulls", "--html", str(file))

    assert ended.status == 1
    assert "door is not proved" in re.sub("<[^>]*>", "", page)
    assert '<th title="A visitor who says hello is welcomed by name.">greets_by_name</th>' in page
    assert '<td class="bad" title="one_line_per_read: missed">✗</td>' in page
    assert page.count('<td class="good"') == 2
    assert "&lt;b&gt;The example&lt;/b&gt;" in page, "what is told is text"
    assert "<b>" not in page
    assert not re.search(r"(src|href)=|@import|url\(", page), "it needs nothing else"
    assert again.status == 0, again.out
    assert 'id="mutants"' not in file.read_text(), "the page of this proof is the last one"


def test_a_page_never_replaces_a_file_of_somebody_else(door, tmp_path):
    mine = tmp_path / "mine.html"
    mine.write_text("mine")

    ended = door.kata("prove", "door", "--only", "nulls", "--html", str(mine))
    below = door.kata("prove", "door", "--only", "nulls", "--html", str(mine / "below.html"))

    assert (ended.status, below.status) == (2, 2)
    assert (ended.out, below.out) == ("", ""), "it is said before anything runs"
    assert "none of the kit's is in its place" in ended.err
    assert "can't be written" in below.err
    assert mine.read_text() == "mine"


def test_without_rich_one_sentence_says_how_to_get_it(door):
    door.write("rich/__init__.py", 'raise ModuleNotFoundError("No module named rich")')

    ended = door.kata("prove", "door", "--only", "nulls")

    assert ended.status == 2
    assert ended.err == "kata: `kata prove` needs rich, which is not installed: pip install 'backend-katas[author]'\n"
