"""Who handed in what, out of folders and rosters as people keep them; attack 43 of the list is among them."""

import pytest

from harness.grading import roster
from harness.grading.store import file_name
from harness.verdicts import Unusable


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    return folder


def written(tmp_path, text):
    path = tmp_path / "roster.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def handed(folder, entries=(), names=()):
    for name in names:
        (folder / name).mkdir() if "." not in name else (folder / name).write_bytes(b"x")
    return roster.handed_in(folder, list(entries), "solution.py")


def owners(handed):
    return {each.student.id: each.path.name if each.path else None for each in handed.submissions}


def test_a_student_is_named_by_what_they_handed_in(folder):
    found = handed(folder, names=["alice", "bob.zip", "carol.tar.gz", "Dan.TGZ"])

    assert owners(found) == {"alice": "alice", "bob": "bob.zip", "carol": "carol.tar.gz", "Dan": "Dan.TGZ"}


def test_what_is_no_submission_is_left_aside_and_named(folder):
    found = handed(folder, names=["alice", "notes.txt", ".hidden", "__MACOSX", "roster.csv"])

    assert owners(found) == {"alice": "alice"}
    assert found.notes == ["`notes.txt` is neither a folder nor an archive, and was left aside"]


def test_one_submission_alone_is_taken_as_it_is(folder):
    (folder / "solution.py").write_bytes(b"")

    assert owners(handed(folder)) == {"submissions": "submissions"}


def test_an_archive_of_another_kind_is_that_students_problem(folder):
    (eve,) = handed(folder, names=["eve.rar"]).submissions

    assert (eve.student.id, eve.problem[:36]) == ("eve", "`eve.rar` is an archive of another k")


def test_two_submissions_of_one_student_are_both_refused(folder):
    found = handed(folder, names=["eve", "eve.zip", "bob"])

    problems = {each.student.id: each.problem for each in found.submissions}
    assert problems["eve"] == "there are 2 submissions of one student (`eve`, `eve.zip`); keep one of them"
    assert problems["bob"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "id,name,email\n4711,Anna Meier,anna@uni.example\n",
        "\ufeffUsername;Full name;E-mail\r\n4711;Anna Meier;anna@uni.example\r\n",
        "name\tlogin\temail\nAnna Meier\t4711\tanna@uni.example\n\n",
        'ID,"NAME",Email,Group\n4711,"Anna Meier",anna@uni.example,7,more,and more\n',
    ],
)
def test_a_roster_is_read_however_it_was_saved(tmp_path, text):
    (entry,) = roster.read(written(tmp_path, text))

    assert (entry.student.id, entry.student.name, entry.student.email) == ("4711", "Anna Meier", "anna@uni.example")


@pytest.mark.parametrize(
    "name",
    ["4711", "4711.zip", "Meier_Anna_4711_assignsubmission_file", "meieranna_4711_220_solution.zip", "handed.zip"],
)
def test_the_roster_knows_whose_it_is(tmp_path, folder, name):
    entries = roster.read(written(tmp_path, "id,name,submission\n4711,Anna,handed.zip\n47,Bob,\n"))

    found = handed(folder, entries, [name])

    assert owners(found) == {"4711": name, "47": None}
    assert found.notes == ["`47` handed in nothing"]


def test_a_time_of_the_roster_goes_before_that_of_the_file(tmp_path, folder):
    entries = roster.read(written(tmp_path, "id,submitted_at\neve,2026-03-01T13:00:00+01:00\n"))

    (eve,) = handed(folder, entries, ["eve.zip"]).submissions

    assert eve.submitted_at == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column `id`"),
        ("name,email\nAnna,a@b\n", "has no column `id`"),
        ("id\n1\n1\n", "has `1` twice"),
        (b"id\n\xff\xfe\n", "is not UTF-8"),
        ("id,submitted_at\n1,yesterday\n", "says `yesterday` for a time"),
        ("id\n" + "x" * 200_000 + "\n", "is no CSV"),
    ],
)
def test_a_roster_that_is_none_is_one_sentence(tmp_path, text, said):
    with pytest.raises(Unusable, match=said) as problem:
        roster.read(written(tmp_path, text))
    assert "\n" not in str(problem.value)


def test_formulas_and_markup_in_a_roster_are_only_text(tmp_path, folder):
    text = 'id,name\n=cmd(),"<script>alert(1)</script>"\n../../x,=1+1\n'
    found = handed(folder, roster.read(written(tmp_path, text)), ["=cmd()"])

    assert owners(found) == {"=cmd()": "=cmd()", "../../x": None}


@pytest.mark.parametrize("path", ["missing", "empty"])
def test_a_place_without_submissions_is_one_sentence(tmp_path, path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(Unusable, match="folder"):
        roster.handed_in(tmp_path / path, [], "solution.py")


@pytest.mark.parametrize(
    "identity",
    ["../../x", "/etc/passwd", "..", ".", "", "a/b", "=cmd()", "<b>", "Anna", "anna\n", "x" * 500, "\udcff", "ä"],
)
def test_a_students_file_has_a_harmless_name_of_its_own(identity):
    name = file_name(identity)

    assert name.isascii()
    assert not {"/", "\n", "\0"} & set(name)
    assert not name.startswith(".")
    assert len(name) < 120
    assert name != file_name(identity + "x")
    assert file_name(identity.upper()).lower() != name.lower() or identity.upper() == identity


def test_a_plain_students_file_has_their_name():
    assert file_name("anna-m.7") == "anna-m.7.json"
