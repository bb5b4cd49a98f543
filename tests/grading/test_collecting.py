"""What was handed in becomes a folder of plain files, or a sentence that says why it does not."""

import os
import socket
import tomllib

import pytest

from harness import kata as katas
from harness.grading import archive
from harness.grading.archive import Refused
from harness.grading.collecting import collect

from .archives import BAD, GOOD, PROGRAM, zipped


@pytest.fixture
def door(tmp_path):
    """A kata of these tests alone."""
    path = tmp_path / "kit" / "door" / "kata.toml"
    path.parent.mkdir(parents=True)
    path.write_text('name = "door"\ntitle = "A \\"door\\""\nsummary = "s"\nspeaks = "tcp"\nhours = "1"\nstart = "s"\n')
    return katas.read(path)


@pytest.fixture
def place(tmp_path):
    """A folder with a witness in it, which is to be there alone afterwards."""
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def room(place):
    room = place / "a" / "room"
    room.mkdir(parents=True)
    return room


def laid_out(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path):
    return laid_out(tmp_path / "alice", {"solution.py": PROGRAM, "lib/a.py": b"a"})


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", GOOD)
def test_however_it_is_packed_it_is_the_same_submission(tmp_path, door, folder, room, name):
    path = tmp_path / name
    GOOD[name](path)
    (tmp_path / "other").mkdir()

    collected = collect(path, door, room)

    assert names(collected.folder) == {"solution.py", "lib/a.py", "kata.toml"}
    assert (collected.folder / "solution.py").read_bytes() == PROGRAM
    assert collected.digest == collect(folder, door, tmp_path / "other").digest


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_by_name_and_writes_nothing_elsewhere(tmp_path, door, place, room, name):
    suffix, make, said = BAD[name]
    path = tmp_path / f"eve.{suffix}"
    make(path)

    with pytest.raises(Refused, match=said) as problem:
        collect(path, door, room)

    assert "\n" not in str(problem.value)
    assert str(problem.value).isprintable()
    assert {each.name for each in place.iterdir()} == {"a"}
    assert {each.name for each in (place / "a").iterdir()} == {"room"}


def test_another_submission_is_another_digest(tmp_path, door, room, folder):
    first = collect(folder, door, room).digest
    (tmp_path / "again").mkdir()
    (folder / "solution.py").rename(folder / "lib" / "b.py")
    (folder / "solution.py").write_bytes(PROGRAM)

    assert collect(folder, door, tmp_path / "again").digest != first


def test_links_in_a_folder_are_not_followed(door, room, folder):
    (folder / "secret.py").symlink_to("/etc/passwd")

    with pytest.raises(Refused, match=r"`secret\.py` is a symbolic link"):
        collect(folder, door, room)


def test_a_folder_that_is_a_link_is_not_followed(tmp_path, door, room, folder):
    (tmp_path / "eve").symlink_to(folder)

    with pytest.raises(Refused, match="it is a symbolic link"):
        collect(tmp_path / "eve", door, room)


def test_a_pipe_in_a_folder_is_not_waited_for(door, room, folder):
    os.mkfifo(folder / "pipe")

    with pytest.raises(Refused, match="`pipe` is a pipe"):
        collect(folder, door, room)


def test_a_socket_in_a_folder_is_refused(door, room, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")

    with pytest.raises(Refused, match="`s` is a socket"):
        collect(folder, door, room)


def test_a_large_folder_is_refused(door, room, folder, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    (folder / "data").write_bytes(bytes(1001))

    with pytest.raises(Refused, match="unpacks to more than"):
        collect(folder, door, room)


def test_a_foreign_name_in_a_folder_is_refused(door, room, folder):
    (folder / os.fsdecode(b"l\xf6sung.py")).write_bytes(b"")

    with pytest.raises(Refused, match="is not UTF-8"):
        collect(folder, door, room)


def test_a_submission_says_how_it_is_run_and_nothing_else(door, room, folder):
    own = 'name = "../../x"\ngrace_ms = 99999\nrun = ["node", "main.mjs"]\nbuild = ["make", "all"]\n'
    laid_out(folder, {"kata.toml": f"{own}[environment]\nLEEWAY = 9\n".encode(), "main.mjs": b""})

    table = tomllib.loads((collect(folder, door, room).folder / "kata.toml").read_text())

    assert (table["run"], table["build"]) == (["node", "main.mjs"], ["make", "all"])
    assert table["name"] == "door"
    assert not {"environment", "grace_ms"} & set(table)
    katas.read(room / "solution" / "kata.toml")


@pytest.mark.parametrize(
    "text",
    [b"run = [", b"run = 'python solution.py'", b"run = []", b'run = ["python", "a\\nb"]', b"\xff", b"run = [1]"],
)
def test_a_broken_kata_toml_is_replaced_and_noted(door, room, folder, text):
    laid_out(folder, {"kata.toml": text})

    collected = collect(folder, door, room)

    assert tomllib.loads((collected.folder / "kata.toml").read_text())["run"] == ["python", "solution.py"]
    assert any("kata.toml" in note for note in collected.notes)


def test_hints_are_told_as_the_learner_kept_them(tmp_path, door, room):
    record = b'{"door": {"hints": {"greets": 2, "lies": -1, "words": "many"}}}'
    laid_out(tmp_path / "eve", {"katas/door/solution.py": PROGRAM, "katas/.progress.json": record})

    assert collect(tmp_path / "eve", door, room).hints_used == {"greets": 2}


@pytest.mark.parametrize("record", [b"", b"[]", b'{"door": 3}', b'{"door": {"hints": []}}', b"[" * 50_000])
def test_a_record_of_hints_that_is_none_is_ignored(tmp_path, door, room, record):
    laid_out(tmp_path / "eve", {"solution.py": PROGRAM, ".progress.json": record})

    assert collect(tmp_path / "eve", door, room).hints_used is None


def test_the_submissions_time_is_that_of_the_archive(tmp_path, door, room):
    path = tmp_path / "alice.zip"
    zipped(("solution.py", PROGRAM))(path)
    os.utime(path, (1_700_000_000, 1_700_000_000))

    assert collect(path, door, room).submitted_at == "2023-11-14T22:13:20Z"


def test_the_submissions_time_is_that_of_a_folders_newest_file(door, room, folder):
    for seconds, name in enumerate(("lib/a.py", "solution.py")):
        os.utime(folder / name, (1_700_000_000 + seconds, 1_700_000_000 + seconds))

    assert collect(folder, door, room).submitted_at == "2023-11-14T22:13:21Z"
