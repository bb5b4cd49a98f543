"""The folder of the results takes nothing that this grader did not write, and loses nothing that it did."""

import errno
import json
import os
import stat

import pytest

from harness.grading import store as stores
from harness.grading.batch import Results
from harness.grading.store import Full, Store
from harness.verdicts import Unusable


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    yield store
    store.close()


def test_a_file_is_private_whole_and_alone(store):
    assert store.write("a.json", "{}", replace=False)

    assert [path.name for path in store.path.iterdir()] == ["a.json"]
    assert stat.S_IMODE((store.path / "a.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    assert store.read("a.json") == {}


def test_what_is_there_is_replaced_only_on_purpose(store):
    store.write("a.json", "1", replace=False)

    assert not store.write("a.json", "2", replace=False)
    assert store.read("a.json") == 1
    assert store.write("a.json", "3", replace=True)
    assert store.read("a.json") == 3
    assert [path.name for path in store.path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_link_is_not_followed(tmp_path, store, replace):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (store.path / "a.json").symlink_to(victim)

    written = store.write("a.json", "{}", replace=replace)

    assert written is replace
    assert victim.read_text() == "precious"


def test_a_link_is_not_read(tmp_path, store):
    (tmp_path / "victim").write_text('{"secret": 1}')
    (store.path / "a.json").symlink_to(tmp_path / "victim")

    with pytest.raises(Unusable, match="no plain file"):
        store.read("a.json")


def test_a_pipe_is_not_waited_for(store):
    os.mkfifo(store.path / "a.json")

    with pytest.raises(Unusable, match="no plain file"):
        store.read("a.json")


def test_what_is_foreign_is_kept_as_evidence(tmp_path, store):
    (store.path / "a.json").symlink_to("/etc/passwd")
    os.link(__file__, store.path / "b.json") if os.stat(__file__).st_dev == store.path.stat().st_dev else None
    (store.path / "c.json").mkdir()

    assert "a symbolic link to '/etc/passwd' stood at a.json" in store.foreign("a.json")
    assert "a folder stood at c.json" in store.foreign("c.json")
    assert store.foreign("d.json") == ""
    aside = [path for path in store.path.iterdir() if path.name.startswith("foreign-")]
    assert {os.readlink(path) for path in aside if path.is_symlink()} == {"/etc/passwd"}


def test_another_folder_in_its_place_gets_nothing(tmp_path, store):
    store.path.rename(tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    store.path.symlink_to(tmp_path / "elsewhere")

    store.write("a.json", "{}", replace=False)

    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "moved" / "a.json").exists()


def test_a_folder_that_others_can_write_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(Unusable, match="can be written by others"):
        Store(tmp_path / "open")


def test_a_link_is_no_folder_for_results(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(Unusable, match="can't be used for results"):
        Store(tmp_path / "link")


def test_a_place_that_can_not_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(Unusable, match="can't be used for results"):
        Store(tmp_path / "file" / "out")


def test_a_folder_that_was_closed_meanwhile_is_opened_again(store):
    store.path.chmod(0o500)

    assert store.write("a.json", "{}", replace=False)


def test_a_full_disk_is_one_sentence_and_loses_nothing(store, monkeypatch):
    store.write("a.json", '{"kept": true}', replace=False)

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stores.os, "fsync", full)
    with pytest.raises(Full, match=r"No space left on device.*--resume"):
        store.write("a.json", "{}", replace=True)
    with pytest.raises(Full):
        store.write("b.json", "{}", replace=False)

    assert store.read("a.json") == {"kept": True}
    assert [path.name for path in store.path.iterdir()] == ["a.json"], "no half file is left"


def test_a_place_that_is_taken_again_and_again_is_given_up(tmp_path, monkeypatch):
    from harness.grading import seal

    from .sample import RESULT

    results = Results(tmp_path / "out")
    monkeypatch.setattr(Store, "write", lambda *_, **__: False)
    with pytest.raises(Unusable, match="comes back as often"):
        results.put("a.json", json.loads(json.dumps(seal.sign(RESULT.to_json(), b"s" * 32))), False, b"s" * 32)
    results.close()
